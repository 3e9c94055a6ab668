"""A Flask extension: the hub's WebSocket at one path, started where the requests are.

Must not know what is published. Flask is imported here and nowhere else in the package;
`pip install 'ws-hub[flask]'` brings it.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Mapping
from typing import Any

try:
    from flask import Flask
except ImportError as error:
    raise ImportError("ws_hub.flask needs Flask: pip install 'ws-hub[flask]'") from error

from . import threads
from .access.authenticators import AuthResult
from .errors import ConfigError
from .hub.hub import Hub
from .log import get_logger
from .wsgi.app import middleware

__all__ = ["FlaskSessionAuth", "HubExtension"]

logger = get_logger(__name__)

_NAME = "ws_hub"  # in app.extensions
_APP_KEY = "ws_hub.flask"  # in environ: the application whose session it is


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
        threads.forget_after_fork(self)
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
            environ[_APP_KEY] = app
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
        except ConfigError as error:  # it never will: pages are served, handshakes get 503
            logger.error("the hub does not start: %s", error)
            self._started = True
        else:
            self._started = True


class FlaskSessionAuth:
    """Knows its users by the session of the Flask application that HubExtension serves.

    The session is opened as Flask opens it, with whatever session interface the
    application has, and is not saved; no context is pushed. It comes by a cookie, so a
    handshake without an Origin is refused (FAULTS 2).

    Args:
        key: what holds the user's id in the session: "_user_id" for Flask-Login.
        validate: called with the session instead, returns an AuthResult.
    """

    def __init__(
        self,
        key: str = "user_id",
        validate: Callable[[Mapping[str, Any]], AuthResult] | None = None,
    ) -> None:
        self._key = key
        self._validate = validate

    def __call__(self, environ: Mapping[str, Any]) -> AuthResult:
        """Look at the session of a request."""
        app = environ.get(_APP_KEY)
        if app is None:  # a first message, or a hub that is not a HubExtension's
            return AuthResult(False, error="no Flask session here")
        # A copy: the request that it makes would stay in there.
        session = app.session_interface.open_session(app, app.request_class(dict(environ)))
        if session is None:
            logger.error("the application has no secret key, so it has no sessions")
            return AuthResult(False, error="no secret key")
        if self._validate is not None:
            return self._validate(session)
        user = session.get(self._key)
        if user is None:
            return AuthResult(False, error="not logged in")
        if isinstance(user, (bool, bytes)):  # "True" would be everybody's id
            return AuthResult(False, error="the user's id in the session is no text")
        return AuthResult(True, str(user))
