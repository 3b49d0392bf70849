"""Who may ask, and what a browser may do with the answers."""

import json

import pytest
from serving_process import GOLDEN, serving

pytest.importorskip("starlette", reason="the extra [serve] is not installed")

JSON = {"content-type": "application/json"}


@pytest.fixture(scope="module")
def locked(tmp_path_factory):
    """A server with a key, at all addresses, whose models are a folder of runs."""
    runs = tmp_path_factory.mktemp("folder") / "runs"
    runs.mkdir()
    for kind in ("text", "lines"):
        (runs / kind).symlink_to(GOLDEN / f"format1-{kind}")
    (runs / "notes.txt").write_text("no model")
    (runs / "empty").mkdir()
    options = ("-c", runs, "--host", "0.0.0.0", "--allow-host", "proxy.example")
    with serving(*options, env={"CHARLM_API_KEY": "s3cret"}) as server:
        server.runs = runs
        yield server


@pytest.mark.parametrize("path", ["/v1/models", "/v1/models/format1-text", "/metrics", "/progress/format1-text", "/no"])
@pytest.mark.parametrize("key", [None, "Bearer wrong", "Bearer s3cret2", "Basic s3cret", "Bearer", "Bearer \xe9"])
def test_without_the_key_nothing_is_told(locked, path, key):
    headers = {} if key is None else {"authorization": key}
    status, answer = locked.get(path, **headers)
    assert status == 401
    assert answer["error"]["code"] == "invalid_api_key"
    assert locked.request("POST", "/v1/completions", "{}", {**JSON, **headers})[0] == 401


def test_the_key_opens(locked):
    status, answer = locked.get("/v1/models", authorization="Bearer s3cret")
    assert status == 200
    assert {model["id"] for model in answer["data"]} == {"format1-text", "format1-lines"}
    body = json.dumps({"model": "format1-lines", "max_tokens": 3})
    assert locked.request("POST", "/v1/completions", body, {**JSON, "authorization": "bearer s3cret"})[0] == 200


def test_the_page_and_the_sign_of_life_need_no_key(locked):
    assert locked.get("/health")[0] == 200
    assert locked.request("GET", "/")[0] == 200


@pytest.mark.parametrize(("host", "status"), [
    ("localhost", 200), ("LOCALHOST:8000", 200), ("127.0.0.1:1", 200), ("[::1]:8000", 200), ("192.168.1.5", 200),
    ("proxy.example", 200), ("evil.example", 421), ("proxy.example.evil.example", 421), ("", 421), ("[evil]", 421),
])  # fmt: skip
def test_only_known_hosts_are_served(locked, host, status):
    assert locked.request("GET", "/health", headers={"host": host})[0] == status


@pytest.mark.parametrize(("host", "status"), [("localhost", 200), ("192.168.1.5", 421), ("evil.example", 421)])
def test_this_machine_alone_by_default(server, host, status):
    assert server.host == "127.0.0.1"
    assert server.request("GET", "/health", headers={"host": host})[0] == status


def test_it_is_said_aloud_what_is_open(locked, server):
    assert "open to the network: whoever has the key" in "".join(locked.log)
    assert "open" not in "".join(server.log)


@pytest.mark.parametrize("path", ["/", "/health", "/v1/models", "/no/such/thing"])
def test_every_answer_restricts_the_browser(server, path):
    _, headers, _ = server.request("GET", path, headers={"origin": "http://evil.example"})
    assert "default-src 'none'" in headers["content-security-policy"]
    assert "unsafe" not in headers["content-security-policy"]
    assert headers["x-content-type-options"] == "nosniff"
    assert not any(name.startswith("access-control") for name in headers), "no other site may read it"


@pytest.mark.parametrize("kind", [None, "text/plain", "application/x-www-form-urlencoded", "multipart/form-data"])
def test_what_any_site_can_make_a_browser_send_is_refused(server, kind):
    headers = {} if kind is None else {"content-type": kind}
    status, _, body = server.request("POST", "/v1/completions", "{}", headers)
    assert status == 415
    assert "application/json" in json.loads(body)["error"]["message"]


@pytest.mark.parametrize("path", [
    "/../../../etc/passwd", "/page/../../pyproject.toml", "/page/%2e%2e/app.py", "/v1/models/..%2f..%2fetc",
    "/progress/../../x", "/progress//etc/passwd", "/v1/models/salad/../lines",
])  # fmt: skip
def test_no_path_of_a_client_is_read(server, path):
    status, answer = server.get(path)
    assert status == 404
    assert set(answer["error"]) == {"message", "type", "param", "code"}


def test_errors_of_paths_and_methods_have_the_form_of_the_api(server):
    assert server.get("/nothing")[1]["error"]["type"] == "not_found_error"
    status, headers, body = server.request("GET", "/v1/completions")
    assert (status, headers["allow"]) == (405, "POST")
    assert json.loads(body)["error"]["type"] == "invalid_request_error"
    assert server.request("POST", "/health", "{}", JSON)[0] == 405
