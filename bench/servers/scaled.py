"""The application of `make bench-scale`, which gunicorn serves with several workers.

A worker is told what to do over a Unix socket, to which it connects by itself: requests to
a page would go to any of them. It answers to what every server under test answers to, and
says which clients are its own.
"""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Callable, Sequence
from typing import Any, ClassVar

from flask import Flask

from ws_hub import AuthResult

from ..control import Answer, obey
from .base import Server, prepare
from .flask_ import FlaskSocketIO, HubBesideFlask

__all__ = ["CONTROL", "QUEUE", "application"]

CONTROL = "WS_HUB_BENCH_CONTROL"  # of the environment: the path of the socket
QUEUE = "WS_HUB_BENCH_QUEUE"  # the same: what connects the processes of Flask-SocketIO


def _address(environ: dict[str, Any]) -> AuthResult:
    """Have a client's user be where it comes from."""
    return AuthResult(valid=True, user_id=f"{environ['REMOTE_ADDR']}:{environ['REMOTE_PORT']}")


class _Hub(HubBesideFlask):
    """A hub in each worker, with the backplane that the environment names."""

    settings: ClassVar[dict[str, Any]] = {
        **HubBesideFlask.settings,
        "authenticator": _address,
        "max_connections": None,
    }

    def requests(self) -> dict[str, Callable[..., Answer | None]]:
        return {**super().requests(), "addresses": self.addresses, "listen": self.listen}

    def addresses(self) -> Answer:
        """Return where the clients of this worker come from."""
        return {"addresses": [client.user_id for client in self.hub.all_clients()]}

    def listen(self, *, channel: str, addresses: Sequence[str]) -> None:
        """Subscribe these clients of this worker."""
        chosen = set(addresses)
        for client in self.hub.all_clients():
            if client.user_id in chosen:
                self.hub.subscribe(client, channel)


class _SocketIO(FlaskSocketIO):
    """Flask-SocketIO with a message queue, as its documentation has it for several processes."""

    def prepare(self) -> None:
        self.message_queue = os.environ[QUEUE]
        super().prepare()


_KINDS: dict[str, type[Server]] = {"ws_hub": _Hub, "Flask-SocketIO": _SocketIO}


def application(kind: str) -> Flask:
    """Return the application of one worker, which is told what to do from now on."""
    prepare()
    server: Any = _KINDS[kind]()
    app: Flask = server.application()
    control = socket.socket(socket.AF_UNIX)
    control.connect(os.environ[CONTROL])
    threading.Thread(target=_obey, args=(server, control), name="control", daemon=True).start()
    return app


def _obey(server: Server, control: socket.socket) -> None:
    hello = {"pid": os.getpid(), "path": server.path, "greeting": server.greeting}
    own: dict[str, Callable[..., Answer | None]] = {
        "hello": lambda: hello,
        "clients": lambda: {"clients": server.clients()},
    }
    with control, control.makefile("r") as requests, control.makefile("w") as answers:
        obey({**server.requests(), **own}, requests, answers)
