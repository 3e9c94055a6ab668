"""gunicorn as `gunicorn -k gthread --threads 4`, one worker.

The worker is who answers the requests: it has the clients, the threads and the memory.
The arbiter is the process that the bench started, and the one that it stops between two
turns: rows on gunicorn are measured alone.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import threading
from collections.abc import Iterable
from typing import Any

from gunicorn.app.base import BaseApplication

from .base import Server, end_with_parent
from .flask_ import FlaskSock, HubBesideFlask
from .floor import Floor, accepting

__all__ = ["FlaskSockOnGunicorn", "FloorOnGunicorn", "HubOnGunicorn"]

_THREADS = 4


class _Gunicorn(Server):
    """Serves what `application()` returns."""

    def run(self) -> None:
        _Application(self).run()

    def work(self, worker: Any) -> None:
        """Carry out requests beside a worker that is about to serve."""
        end_with_parent()
        self._port = int(worker.sockets[0].getsockname()[1])
        threading.Thread(target=super().run, name="control", daemon=True).start()

    def start(self) -> int:
        return self._port

    def end(self) -> None:
        """End arbiter and worker at once."""
        # The worker follows. It must not go first: it would be replaced.
        os.kill(os.getppid(), signal.SIGKILL)


class _Application(BaseApplication):  # type: ignore[misc]
    """The command line's settings, and the application of a server."""

    def __init__(self, server: Any) -> None:
        self._server = server
        super().__init__()

    def load_config(self) -> None:
        settings = {
            "bind": "127.0.0.1:0",
            "worker_class": "gthread",
            "threads": _THREADS,
            "post_worker_init": self._server.work,
            "control_socket_disable": True,
        }
        for name, value in settings.items():
            if name in self.cfg.settings:  # older ones have no such socket
                self.cfg.set(name, value)

    def load(self) -> Any:
        return self._server.application()


class HubOnGunicorn(_Gunicorn, HubBesideFlask):
    """ws_hub in the worker, as README has it."""


class FlaskSockOnGunicorn(_Gunicorn, FlaskSock):
    """flask-sock in the worker."""


class FloorOnGunicorn(_Gunicorn, Floor):
    """Answers each handshake by one send, and keeps the connection: what gunicorn itself costs.

    Nothing reads the connections, nor checks who may have one.
    """

    def application(self) -> Any:
        self._socks = []
        near, far = socket.socketpair()
        far.close()
        self._ended = near  # in the place of what was taken: gunicorn's write to it fails
        return self._answer

    def _answer(self, environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        fd = environ["gunicorn.socket"].fileno()
        sock = socket.socket(fileno=os.dup(fd))
        os.dup2(self._ended.fileno(), fd, inheritable=False)
        sock.setblocking(False)
        sock.send(accepting(environ["HTTP_SEC_WEBSOCKET_KEY"].encode()))
        self._socks.append(sock)
        start_response("101 Switching Protocols", [])
        return ()

    def clients(self) -> int:
        for sock in [*self._socks]:
            with contextlib.suppress(BlockingIOError):
                if not sock.recv(1, socket.MSG_PEEK):
                    self._socks.remove(sock)
                    sock.close()
        return len(self._socks)
