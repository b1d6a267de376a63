"""Serve a trained run over HTTP, with a page: python -m dualcap_jax.serve WORKDIR."""

import os
import socket
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from signal import SIGINT, SIGTERM, signal
from typing import Annotated, Any

import tyro

from dualcap_jax import cli
from dualcap_jax.errors import UserError
from dualcap_jax.serving.config import ServingConfig
from dualcap_jax.training.config import Which


@dataclass(frozen=True)
class Arguments:
    """What the command line holds."""

    workdir: tyro.conf.Positional[str]
    """Run directory, or one that a captioner was saved to."""
    checkpoint: Which = "best"
    """best (by validation) or latest."""
    serving: Annotated[ServingConfig, tyro.conf.arg(name="")] = field(default_factory=ServingConfig)
    """What the server accepts."""


def main(args: Sequence[str]) -> int:
    """Serve until SIGTERM or Ctrl-C; returns the exit code."""
    description = "Serve captions over HTTP: a page for people, and an API for programs."
    arguments = cli.parse(Arguments, args, "serve", description)
    config = arguments.serving
    try:
        import uvicorn

        from dualcap_jax.serving.app import create_app
    except ModuleNotFoundError as error:
        raise UserError(f"serve needs {error.name}: pip install 'dualcap-jax[serve]'") from None
    from dualcap_jax.captioner import Captioner
    from dualcap_jax.info import about
    from dualcap_jax.serving.engine import Engine

    token = _token(config.token_file)
    listener = _listen(config.host, config.port)
    engine = Engine(Captioner.load(arguments.workdir, arguments.checkpoint), config)
    app = create_app(engine, config, about(Path(arguments.workdir)), token)

    class Server(uvicorn.Server):
        """One that ends with exit code 0 when it is asked to end, all that it accepted answered."""

        @contextmanager
        def capture_signals(self) -> Iterator[None]:
            before = {number: signal(number, self.handle_exit) for number in (SIGINT, SIGTERM)}
            yield
            for number, handler in before.items():
                signal(number, handler)

    settings: dict[str, Any] = {"log_level": "error", "access_log": False, "server_header": False, "ws": "none"}
    server = Server(uvicorn.Config(app, proxy_headers=False, lifespan="on", limit_concurrency=4096, **settings))
    host, port = listener.getsockname()[:2]
    if not token and host not in ("127.0.0.1", "::1"):
        print(f"anyone who reaches {host} may use this server: --token-file asks for a secret", file=sys.stderr)
    shown = f"[{host}]" if ":" in host else host
    print(f"http://{shown}:{port}  (Ctrl-C ends it)", flush=True)
    server.run([listener])
    sys.stdout.flush()
    os._exit(0 if server.started else 1)  # a thread may be compiling still what nobody waits for


def _token(path: str) -> str:
    """The secret in a file; empty where there is no file.

    Raises:
        UserError: it has none.
    """
    token = Path(path).read_text().strip() if path else ""
    if path and not token:
        raise UserError(f"--token-file {path}: is empty; write a secret into it")
    return token


def _listen(host: str, port: int) -> socket.socket:
    """A socket that listens.

    Raises:
        UserError: it can't.
    """
    try:
        (family, *_, address), *_ = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        return socket.create_server(address[:2], family=family, backlog=1024)
    except OSError as error:
        told = (error.strerror or str(error)).partition(" (")[0].lower()
        raise UserError(f"--host {host} --port {port}: {told}; give others, or --port 0 for one that is free") from None


if __name__ == "__main__":
    cli.run(main)
