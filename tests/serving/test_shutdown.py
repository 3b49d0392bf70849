"""Start and end of ``charlm serve``."""

import os
import signal
import socket
import subprocess
import sys
import time
from shutil import copytree, rmtree

import pytest
from commands import charlm, one_line
from serving_process import GOLDEN, serving

pytest.importorskip("starlette", reason="the extra [serve] is not installed")

MODEL = GOLDEN / "format1-text"
WITHOUT_TORCH = """
import sys, threading, time, urllib.request, os, signal
from charlm.cli import app
def ask(port):
    request = urllib.request.Request(f"http://127.0.0.1:{port}/v1/completions", b'{"max_tokens": 9, "logprobs": 1}',
                                     {"content-type": "application/json"})
    for _ in range(200):
        time.sleep(0.05)
        try:
            urllib.request.urlopen(request).read()
            urllib.request.urlopen(f"http://127.0.0.1:{port}/").read()
            break
        except OSError:
            pass
    print(sorted({name.partition(".")[0] for name in sys.modules} & {"torch", "matplotlib", "pandas", "openai"}))
    os.kill(os.getpid(), signal.SIGTERM)
threading.Thread(target=ask, args=[int(sys.argv[-1])]).start()
app.main()
"""


def free_port():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def test_it_imports_no_torch():
    command = [sys.executable, "-c", WITHOUT_TORCH, "serve", "-c", MODEL, "--port", str(free_port())]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.stdout == "[]\n", done.stderr
    assert done.returncode == 0


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_it(number):
    with serving("-c", MODEL) as server:
        server.complete(max_tokens=5)
        assert server.end(number) == 0
        assert len(server.log) == 1, server.log


def test_what_is_being_served_is_completed():
    with serving("-c", MODEL, "--max-tokens", 200_000) as server:
        body = b'{"max_tokens": 20000, "stream": true}'
        with socket.create_connection(("127.0.0.1", server.port), timeout=60) as connection:
            head = b"POST /v1/completions HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n"
            connection.sendall(head + b"content-length: %d\r\n\r\n" % len(body) + body)
            received = connection.recv(4096)
            os.kill(server.process.pid, signal.SIGTERM)
            received += b"".join(iter(lambda: connection.recv(65536), b""))
        assert b"data: [DONE]" in received
        assert server.process.wait(60) == 0


IMPATIENT = """
from charlm.cli import app
from charlm.serving import server
server.CUT_OFF_SECONDS, server.END_SECONDS = 0.4, 1  # instead of 4 and 5
app.main()
"""


def test_what_is_not_completed_in_time_is_cut_off():
    with serving("-c", MODEL, "--max-tokens", 10**9, code=IMPATIENT) as server:
        body = b'{"max_tokens": 1000000000, "stream": true}'
        with socket.create_connection(("127.0.0.1", server.port), timeout=60) as connection:
            head = b"POST /v1/completions HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n"
            connection.sendall(head + b"content-length: %d\r\n\r\n" % len(body) + body)
            received = connection.recv(4096)
            os.kill(server.process.pid, signal.SIGTERM)
            received += b"".join(iter(lambda: connection.recv(65536), b""))
        assert b'"message":"the server is shutting down"' in received
        assert server.process.wait(60) == 0
        server.end()
        assert len(server.log) == 1, server.log


def test_a_port_in_use_is_said():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        port = listener.getsockname()[1]
        result = charlm("serve", "-c", MODEL, "--port", port)
    assert result.returncode == 73
    assert f"port {port} is in use" in one_line(result)


@pytest.mark.parametrize(("arguments", "code", "words"), [
    (["-c", "nowhere/at/all"], 66, "there is no model in nowhere/at/all"),
    (["-c", "nothing"], 66, "nothing does not exist"),
    (["-c", MODEL, "--host", "no such host"], 2, "--host"),
    (["-c", MODEL, "--host", "192.0.2.1"], 73, "cannot be opened"),
    (["-c", MODEL, "--timeout", "soon"], 2, "--timeout"),
    (["-c", MODEL, "--api-key", " key"], 2, "--api-key"),
    (["-c", MODEL, "--precision", "fp8"], 2, "--precision"),
])  # fmt: skip
def test_wrong_options_are_one_line(arguments, code, words, tmp_path):
    result = charlm("serve", *arguments, cwd=tmp_path)
    assert result.returncode == code
    assert words in one_line(result)


def test_two_models_of_one_name_are_refused(tmp_path):
    for folder in ("a", "b"):
        copytree(MODEL, tmp_path / folder / "run")
    result = charlm("serve", "-c", tmp_path / "a", "-c", tmp_path / "b")
    assert result.returncode == 2
    assert "rename one of them" in one_line(result)


def test_without_the_extra_it_says_what_to_install(tmp_path):
    (tmp_path / "starlette.py").write_text("raise ModuleNotFoundError('no', name='starlette')")
    path = os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")])
    result = charlm("serve", "-c", MODEL, env={"PYTHONPATH": path})
    assert result.returncode == 66
    assert "pip install 'charlm-lstm[serve]'" in one_line(result)


def test_a_new_run_appears_and_a_damaged_one_is_said(tmp_path):
    runs = tmp_path / "runs"
    copytree(MODEL, runs / "first")
    with serving("-c", runs) as server:
        assert [model["id"] for model in server.get("/v1/models")[1]["data"]] == ["first"]
        copytree(MODEL, runs / "second")
        deadline = time.monotonic() + 60
        while server.post("/v1/completions", model="second", max_tokens=1)[0] != 200:
            assert time.monotonic() < deadline
            time.sleep(0.05)
        (runs / "first" / "step-400" / "model.safetensors").write_bytes(b"damaged")
        status, answer = server.post("/v1/completions", model="first")
        assert status == 503
        assert str(tmp_path) not in str(answer), "no path of the machine is told"


def test_a_run_whose_steps_change_is_opened_again(tmp_path):
    run = copytree(MODEL, tmp_path / "run")
    question = {"prompt": "the ", "max_tokens": 50, "seed": 1}
    with serving("-c", run) as server:
        before = server.complete(**question)
        copytree(GOLDEN / "format1-lines" / "step-400", run / "step-500")
        rmtree(run / "step-400")
        after = server.complete(**question)
        assert after != before
        with serving("-c", GOLDEN / "format1-lines") as other:
            assert other.complete(**question) == after
