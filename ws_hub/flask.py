"""A Flask extension: serves a hub's WebSocket at one path of an application.

Flask is imported here and nowhere else in the package; `pip install 'ws-hub[flask]'`
installs it.
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
_APP_KEY = "ws_hub.flask"  # the environ's key of the Flask application


class HubExtension:
    """A hub for a Flask application.

    The hub starts with the first request or handshake, in the process that serves it. So a
    process that only imports the application (gunicorn's master with `--preload`, the parent of
    the reloader, `flask shell`) has no threads of the hub, and each forked worker has its own.
    It is started once in a process: after `hub.stop()` it stays stopped.

    Args:
        app: the application, or None for `init_app` later.
        path: the path of the WebSocket, below the path that the application is mounted at.
        hub: a hub with settings of your own; None makes one.

    Attributes:
        hub: the hub. To publish before the first request, `start()` it.

    Threads: the one that sets the application up.
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

        The extension is in `app.extensions["ws_hub"]` afterwards. Raises RuntimeError when the
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
        """Reset the extension in a forked child.

        Threads: the child's only one, right after the fork.
        """
        self._forget()

    def _start(self) -> None:
        if not self._started:
            with self._lock:
                self._start_locked()

    def _start_locked(self) -> None:
        assert self._lock.locked()
        if self._started:  # another request has started it meanwhile
            return
        try:
            self.hub.start()
        except RuntimeError as error:  # no more threads: pages are still served
            logger.warning("cannot start the hub: %s", error)
        except ConfigError as error:  # permanent: pages are still served, handshakes get 503
            logger.error("cannot start the hub with these settings: %s", error)
            self._started = True
        else:
            self._started = True


class FlaskSessionAuth:
    """Authenticates users by the session of a Flask application with a HubExtension.

    The session is opened by the application's session interface, as Flask does, and is not
    saved; no context is pushed. The session is in a cookie, so a handshake without an Origin is
    refused (FAULTS 2).

    Args:
        key: the session's key of the user id: "_user_id" for Flask-Login.
        validate: called with the session instead, returns an AuthResult.

    Threads: any; `validate` is called on the thread of the request.
    """

    def __init__(
        self,
        key: str = "user_id",
        validate: Callable[[Mapping[str, Any]], AuthResult] | None = None,
    ) -> None:
        self._key = key
        self._validate = validate

    def __call__(self, environ: Mapping[str, Any]) -> AuthResult:
        """Authenticate the session of a request."""
        app = environ.get(_APP_KEY)
        if app is None:  # a first message, or a hub without a HubExtension
            return AuthResult(False, error="the request has no Flask session")
        # A copy: `request_class` adds the request object to its environ.
        session = app.session_interface.open_session(app, app.request_class(dict(environ)))
        if session is None:
            logger.error("the application has no secret key, so it has no sessions")
            return AuthResult(False, error="no secret key")
        if self._validate is not None:
            return self._validate(session)
        user = session.get(self._key)
        if user is None:
            return AuthResult(False, error="not logged in")
        if isinstance(user, (bool, bytes)):  # "True" would be the id of every user
            return AuthResult(False, error="the user id in the session is not a string")
        return AuthResult(True, str(user))
