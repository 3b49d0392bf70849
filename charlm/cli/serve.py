"""``charlm serve``."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer

from charlm.cli.options import ThreadsOption
from charlm.cli.output import say
from charlm.errors import MissingInputError, UsageError


def serve(
    checkpoint: Annotated[
        list[Path] | None,
        typer.Option(
            "--checkpoint",
            "-c",
            help="A run, one of its steps, a folder of runs, or shakespeare; may be given several times. "
            "[default: the runs in ./checkpoints, and shakespeare]",
        ),
    ] = None,
    host: Annotated[str, typer.Option(help="The address to listen at. The default is open to this machine only.")] = (
        "127.0.0.1"
    ),
    port: Annotated[int, typer.Option(min=0, max=65535, help="The port; 0: any free one.")] = 8000,
    api_key: Annotated[
        str | None,
        typer.Option(
            "--api-key",
            metavar="KEY",
            envvar="CHARLM_API_KEY",
            show_envvar=True,
            help="Ask clients for this key. Other users of this machine can read the option, but not the variable.",
        ),
    ] = None,
    allow_host: Annotated[
        list[str] | None,
        typer.Option(
            "--allow-host", metavar="NAME", help="A name under which clients reach the server, such as a proxy's."
        ),
    ] = None,
    max_tokens: Annotated[int, typer.Option(min=1, help="New characters of one text, at most.")] = 10_000,
    max_input: Annotated[int, typer.Option(min=1, help="Characters of the prompts of a request, at most.")] = 100_000,
    streams: Annotated[int, typer.Option(min=1, help="Texts that are generated at the same time.")] = 256,
    queue: Annotated[int, typer.Option(min=0, help="Requests that may wait; one more is refused (429).")] = 256,
    timeout: Annotated[str, typer.Option(help="Time for one request, such as 30s or 5m.")] = "2m",
    precision: Annotated[
        str, typer.Option(help="fp32, bf16, int8, or auto: the fastest that loses less than 0.001 nats/char.")
    ] = "auto",
    threads: ThreadsOption = None,
) -> None:
    """Serve models over HTTP: the completions API of OpenAI, and a page to play with."""
    from charlm.config import parse_duration
    from charlm.engine import check_engine_options

    check_engine_options("auto", precision, threads)
    seconds = parse_duration(timeout, "--timeout")
    if api_key is not None and (not api_key.isascii() or not api_key.strip() or api_key != api_key.strip()):
        raise UsageError("--api-key must be ASCII characters without spaces around them")
    try:
        from charlm.serving import app, guard, limits, models, server, service
    except ModuleNotFoundError as error:
        raise MissingInputError(
            f"charlm serve needs {error.name}, which is not installed: pip install 'charlm-lstm[serve]'"
        ) from None

    served = service.Service(
        models.ServedModels(checkpoint or _default_places(), precision, threads),
        limits.Limits(max_tokens, max_input, streams, queue, seconds),
    )
    is_open = not guard.is_loopback(host)
    hosts = [*guard.LOOPBACK_NAMES, host, *(allow_host or [])]
    listener = server.listen(host, port)
    asgi = app.create_app(served, hosts, guard.is_wildcard(host), api_key)
    _announce(list(served.models.paths()), host, listener.getsockname()[1], is_open, api_key is not None)
    server.run(asgi, served, listener)


def _default_places() -> list[Path]:
    from charlm.checkpoint.run_folder import RUNS

    if from_environment := os.environ.get("CHARLM_CHECKPOINT"):
        return [Path(from_environment)]
    return [*([RUNS] if RUNS.is_dir() else []), Path("shakespeare")]


def _announce(names: list[str], host: str, port: int, is_open: bool, has_key: bool) -> None:
    shown = f"[{host}]" if ":" in host else host
    more = f" and {len(names) - 3:,} more" if len(names) > 3 else ""
    say(f"serving {', '.join(names[:3])}{more} at http://{shown}:{port}/ (Ctrl-C ends)")
    if is_open:
        key = "whoever has the key" if has_key else "everyone, because there is no --api-key,"
        say(
            f"this is open to the network: {key} can use these models from other machines; what is sent, the key "
            "included, is not encrypted unless a proxy does it"
        )
