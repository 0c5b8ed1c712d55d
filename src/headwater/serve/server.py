"""What the command `serve` does: take the port, open the models once, and answer until Ctrl-C."""

from __future__ import annotations

import errno
import ipaddress
import socket
from collections.abc import Sequence
from pathlib import Path

import torch
import uvicorn

from headwater import tracing
from headwater.core.errors import InputError
from headwater.core.hardware import Machine
from headwater.core.log import console, logger
from headwater.evaluation.arena import Votes
from headwater.serve.app import app_of
from headwater.serve.browse import Shelf
from headwater.serve.fence import loopback
from headwater.serve.models import open_models

MOST_CONNECTIONS = 64
"""At a time; a browser opens up to six."""


def serve(
    places: Sequence[str],
    machine: Machine,
    *,
    host: str = "127.0.0.1",
    port: int = 7878,
    votes: Path = Path("arena/votes.jsonl"),
    trace: str | None = None,
    max_tokens: int = 512,
    dtype: str = "float32",
) -> None:
    """Serve the web app until it is stopped.

    Args:
        places: models, as for `headwater compare`; none: runs, scores and documents alone.
        machine: where to compute, where runs are.
        host: address to listen at.
        port: of it; 0 takes a free one.
        votes: file that the votes are appended to.
        trace: run in whose training documents all texts are looked up; None: each model's own.
        max_tokens: the most that one text may have.
        dtype: number format of weights and arithmetic.

    Raises:
        InputError: the port is taken, a model or run is not there.
        MismatchError: a model and its tokenizer do not belong together.
        StoreError: the file of votes is damaged.
    """
    if max_tokens < 1:
        raise InputError("is less than 1", place="--max-tokens", hint="such as --max-tokens 512")
    origin = tracing.run_folder(trace, machine) if trace is not None else None
    if origin is not None:
        tracing.open_index(origin)  # says at once that there is none
    with listen(host, port) as listening:
        kept = Votes(votes)
        models = open_models(places, machine, dtype=getattr(torch, dtype), most_tokens=max_tokens, origin=origin)
        app = app_of(models, kept, Shelf(Path(machine.runs)), host)
        if not loopback(host):
            logger.warning(
                "%s is reached from other machines, and there is no password: anybody there may use this", host
            )
        console.print(f"http://{_named(host)}:{listening.getsockname()[1]}   (Ctrl-C ends it)", markup=False)
        config = uvicorn.Config(
            app,
            log_level="warning",
            access_log=False,
            server_header=False,
            proxy_headers=False,
            ws="none",
            lifespan="on",
            limit_concurrency=MOST_CONNECTIONS,
            timeout_graceful_shutdown=2,
        )
        try:
            uvicorn.Server(config).run(sockets=[listening])
        except KeyboardInterrupt:
            console.print("ended", markup=False)


def listen(host: str, port: int) -> socket.socket:
    """A socket that listens, taken before the models are opened.

    Raises:
        InputError: the port is taken, may not be used, or the host is none of this machine.
    """
    if not 0 <= port < 65536:
        raise InputError("is no port", place="--port", hint="give 1 to 65535, or 0 for a free one")
    try:
        (family, kind, protocol, _, address), *_ = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except OSError as error:
        raise InputError(
            f"is no address ({error.strerror})", place=f"--host {host}", hint="such as 127.0.0.1"
        ) from None
    listening = socket.socket(family, kind, protocol)
    try:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind(address)
        listening.listen(128)
    except OSError as error:
        listening.close()
        taken = error.errno == errno.EADDRINUSE
        problem = f"port {port} is in use" if taken else f"cannot listen here ({error.strerror})"
        hint = "end what uses it, or give another: --port 0 takes a free one"
        raise InputError(problem, place=f"{host}:{port}", hint=hint) from None
    return listening


def _named(host: str) -> str:
    """A host as it stands in an address."""
    try:
        version = ipaddress.ip_address(host).version
    except ValueError:
        return host
    return f"[{host}]" if version == 6 else host
