"""A Flask extension: the hub's WebSocket at one path, started where the requests are.

Must not know what is published. Flask is imported here and nowhere else in the package;
`pip install 'ws-hub[flask]'` brings it.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable
from typing import Any

try:
    from flask import Flask
except ImportError as error:
    raise ImportError("ws_hub.flask needs Flask: pip install 'ws-hub[flask]'") from error

from . import workers
from .hub import Hub
from .log import get_logger
from .wsgi import middleware

__all__ = ["HubExtension"]

logger = get_logger(__name__)

_NAME = "ws_hub"  # in app.extensions


class HubExtension:
    """A hub for a Flask application.

    The hub starts with the first request or handshake, in the process that serves it:
    a process that only imports the application (gunicorn's master with `--preload`, the
    parent of the reloader, `flask shell`) has no threads of it, and a forked worker has
    its own. Started once in a process: after `hub.stop()` it stays stopped.

    Args:
        app: the application, or None for `init_app` later.
        path: where the WebSocket is, below the place the application is mounted at.
        hub: a hub with settings of your own; None makes one.

    Attributes:
        hub: the hub. To publish before the first request, `start()` it.
    """

    def __init__(self, app: Flask | None = None, path: str = "/ws", hub: Hub | None = None) -> None:
        self.hub = hub if hub is not None else Hub()
        self._path = path
        self._forget()
        workers.forget_after_fork(self)
        if app is not None:
            self.init_app(app)

    def _forget(self) -> None:
        # guards: _started. Taken before the hub's lock.
        self._lock = threading.Lock()
        self._started = False

    def init_app(self, app: Flask, path: str | None = None) -> None:
        """Serve the hub's WebSocket in an application, at `path` or the extension's own.

        The extension is in `app.extensions["ws_hub"]` then. Raises RuntimeError when the
        application has one already.

        Threads: the one that sets the application up.
        """
        if _NAME in app.extensions:
            raise RuntimeError("this application has a HubExtension already")
        app.extensions[_NAME] = self
        served = middleware(app.wsgi_app, self.hub, path if path is not None else self._path)

        def wsgi_app(
            environ: dict[str, Any], start_response: Callable[..., Any]
        ) -> Iterable[bytes]:
            self._start()
            return served(environ, start_response)

        app.wsgi_app = wsgi_app  # type: ignore[method-assign]  # Flask's way to wrap an app

    def forget(self) -> None:
        """Start anew in a forked child.

        Threads: the only one there is, right after the fork.
        """
        self._forget()

    def _start(self) -> None:
        if not self._started:
            with self._lock:
                self._start_locked()

    def _start_locked(self) -> None:
        assert self._lock.locked()
        if self._started:  # by another request, meanwhile
            return
        try:
            self.hub.start()
        except RuntimeError as error:  # no more threads: pages are served all the same
            logger.warning("the hub could not start: %s", error)
        else:
            self._started = True
