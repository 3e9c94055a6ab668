"""Serves a hub in a Flask application: its WebSocket, its browser client, its viewer's page.

The WebSocket is answered before Flask sees the request: the connection is the hub's then, and
the request thread is free. The files are routes of a blueprint, `ws_hub`, so that `url_for` finds
them and the application's own hooks run for them.
"""

from __future__ import annotations

import contextlib
import functools
import io
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, NoReturn

from flask import Blueprint, Flask, current_app, request
from werkzeug.wrappers import Response

from ..access.contexts import CONTEXT_KEY
from ..config import HubConfig
from ..errors import ConfigError, excerpt
from ..hub.hub import Hub
from ..server.viewer import CLIENT, page_app, script_app
from ..wsgi.app import check_hub, mount
from ..wsgi.servers import look_at_processes
from ..wsgi.starter import Starter
from .app_log import forward
from .commands import commands
from .settings import UNSET, Place, Places, differing, hub_settings, places

__all__ = ["HubExtension"]

_NAME = "ws_hub"  # in app.extensions, and of the blueprint
_ELEMENT = "ws_hub_log.js"

Environ = dict[str, Any]
Application = Callable[[Environ, Callable[..., Any]], Iterable[bytes]]


class HubExtension:
    """A hub for a Flask application.

    The hub starts with the first request or handshake, in the process that serves it. So a
    process that only imports the application (gunicorn's master with `--preload`, the parent of
    the reloader, `flask shell`) has no threads of the hub, and each forked worker has its own.
    It is started once for an application and process: after `hub.stop()` it stays stopped.

    The hub is there from the beginning, so that modules can import it; unless you give one, the
    `WS_HUB_*` keys of `app.config` are its settings from `init_app` on. The settings of a hub
    that you give are yours: a key that says something else raises ConfigError.

    Callbacks run in a request context with the handshake's request and session; those that are
    for no client run in an application context.

    Args:
        app: the application, or None for `init_app` later.
        path: the path of the WebSocket, below the path that the application is mounted at.
            Like the two below: None serves nothing, and left out it is `WS_HUB_PATH` of the
            config, else "/ws".
        hub: a hub with settings of your own; None makes one.
        js_path: the path of the browser client; "/ws_hub.js". Beside it are `ws_hub_log.js`, for
            the element `<ws-hub-log>`, and what the two load.
        viewer_prefix: the path of the viewer's page; None.

    Attributes:
        hub: the hub. To publish before the first request, `start()` it.

    Threads: the one that sets the application up.
    """

    def __init__(
        self,
        app: Flask | None = None,
        path: Place = UNSET,
        hub: Hub | None = None,
        *,
        js_path: Place = UNSET,
        viewer_prefix: Place = UNSET,
    ) -> None:
        given: object = path
        if app is not None:
            _check_app(app)
        if isinstance(given, (Hub, HubConfig)):
            raise TypeError(
                f"HubExtension(app) was given {excerpt(given)} as the path: pass a hub by hub=, "
                'settings by hub=Hub(HubConfig(...)) or keys of app.config ("WS_HUB_RULES")'
            )
        if hub is not None:
            check_hub("HubExtension(app, hub=hub)", hub)
        self.hub = hub if hub is not None else Hub()
        self._makes_settings = hub is None
        self._given = {"path": path, "js_path": js_path, "viewer_prefix": viewer_prefix}
        self._starter: Starter | None = None  # of the newest application
        places({}, self._given)  # raises ConfigError here, and not in init_app
        if app is not None:
            self.init_app(app)

    if not TYPE_CHECKING:  # to a type checker it would mean that every name is there

        def __getattr__(self, name: str) -> NoReturn:
            """Say where the hub is, for a name of its own."""
            hint = (
                ": the hub has it, write hub = HubExtension(app).hub" if hasattr(Hub, name) else ""
            )
            raise AttributeError(f"HubExtension has no attribute {name!r}{hint}")

    def init_app(
        self,
        app: Flask,
        path: Place = UNSET,
        *,
        js_path: Place = UNSET,
        viewer_prefix: Place = UNSET,
    ) -> None:
        """Serve the hub in an application; the arguments are those of the class, and win.

        The extension is in `app.extensions["ws_hub"]` afterwards. Raises RuntimeError when the
        application has one already, ConfigError for an unknown or invalid key of its config,
        and for one that contradicts the hub's settings.

        Threads: the one that sets the application up.
        """
        _check_app(app)
        if _NAME in app.extensions:
            raise RuntimeError(
                f"Flask application {excerpt(app.name)} has a HubExtension already: use "
                'app.extensions["ws_hub"], or call init_app once'
            )
        given = {"path": path, "js_path": js_path, "viewer_prefix": viewer_prefix}
        where = places(app.config, self._given, given)
        self._set_up_hub(app)
        app.extensions[_NAME] = self
        app.register_blueprint(_blueprint(self.hub, where))
        app.cli.add_command(commands)
        forward(app)
        self._starter = starter = Starter(self.hub)
        served: Application = app.wsgi_app
        if where.path is not None:
            served = mount(served, self.hub, where.path, advice=_advice(where))
        context = functools.partial(_request_context, app)

        def wsgi_app(environ: Environ, start_response: Callable[..., Any]) -> Iterable[bytes]:
            if not starter.started:
                self._check_late_keys(app, where, given)
                starter.start()
                look_at_processes(environ, self.hub.config.backplane)
            environ[CONTEXT_KEY] = context
            return served(environ, start_response)

        app.wsgi_app = wsgi_app  # type: ignore[method-assign]  # Flask's way to wrap an app

    def _check_late_keys(self, app: Flask, where: Places, given: Mapping[str, Place]) -> None:
        """Raise ConfigError for keys that were set too late: one may be the authenticator."""
        late = differing(hub_settings(app.config), self.hub.config)
        if places(app.config, self._given, given) != where:
            late.append("a path")
        if late:
            raise ConfigError(
                f"app.config: {', '.join(late)} was set after HubExtension(app), which had read "
                "the config by then: set it before, or make HubExtension() and call init_app(app) "
                "when the config is complete"
            )

    def _set_up_hub(self, app: Flask) -> None:
        """Give the hub the settings and the context of its first application."""
        fields = hub_settings(app.config)
        # A hub that was stopped belongs to nobody: tests make one application after another.
        first = self._starter is None or (self._starter.started and not self.hub.running)
        if first and self._makes_settings and not self.hub.running:
            self.hub.configure(HubConfig(**fields))
        elif wrong := differing(fields, self.hub.config):
            why = "serves another application, or runs," if self._makes_settings else "was given,"
            raise ConfigError(
                f"app.config: {', '.join(wrong)}: the hub {why} and has other settings: leave "
                "the key out, or give this application a HubExtension of its own"
            )
        if first:
            self.hub.set_context(app.app_context)


@contextlib.contextmanager
def _request_context(app: Flask, environ: Environ) -> Iterator[None]:
    """Enter the contexts of a callback: the request is the handshake's, and has no body."""
    # A copy: Flask adds the request object to its environ. The server's own streams are not
    # valid after the request.
    own = {**environ, "wsgi.input": io.BytesIO(), "wsgi.errors": sys.stderr}
    # An application context of its own, with its own `g`, also inside a route that attaches.
    with app.app_context(), app.request_context(own):
        yield


def _advice(where: Places) -> str:
    """Say where the browser client is, for the log of a page that looks for it elsewhere."""
    if where.js_path is None:
        return "WS_HUB_JS_PATH (js_path) is None: set the path at which to serve the browser client"
    return (
        f"the browser client is at {excerpt(where.js_path)} (WS_HUB_JS_PATH, js_path): write "
        "{{ url_for('ws_hub.js') }} or {{ url_for('ws_hub.log') }} in the page"
    )


def _check_app(app: object) -> None:
    if not isinstance(app, Flask):
        raise TypeError(
            f"HubExtension takes the Flask application first, not {excerpt(app)}: "
            "HubExtension(app, hub=hub), or HubExtension() and init_app(app) later"
        )


def _blueprint(hub: Hub, where: Places) -> Blueprint:
    """Return the routes: `ws_hub.ws`, `ws_hub.js`, `ws_hub.log`, `ws_hub.viewer`, and parts."""
    blueprint = Blueprint(_NAME, __name__)
    prefix = (where.viewer_prefix or "").rstrip("/")
    # The WebSocket's path is relative to the page's: a proxy may have removed a prefix.
    page = page_app(hub, ws_path="../" * prefix.count("/") + (where.path or "/ws").lstrip("/"))

    def viewer(name: str = "") -> Response:
        return _answer(page, prefix, f"/{name}")

    if where.path is not None:  # for url_for alone: the middleware is before all routes
        blueprint.add_url_rule(where.path, "ws", build_only=True)
    if where.js_path is not None:
        _add_scripts(blueprint, hub, where.js_path)
    if where.viewer_prefix is not None:
        # Not by Flask's own redirect, which names the host: a proxy may have changed that.
        blueprint.add_url_rule(prefix, "slash", functools.partial(_answer, page, prefix, ""))
        blueprint.add_url_rule(f"{prefix}/", "viewer", viewer)
        blueprint.add_url_rule(f"{prefix}/<path:name>", "viewer", viewer)
    return blueprint


def _add_scripts(blueprint: Blueprint, hub: Hub, js_path: str) -> None:
    """Add the routes of the browser client, and of what may be loaded beside it.

    These are found by their names: the client loads `ws_hub_shared.js` from beside itself, a page
    `ws_hub_state.js` and others, and the element's files import the client from one
    level above theirs.
    """
    folder = js_path.rpartition("/")[0]
    scripts = script_app(hub)

    def script(name: str) -> Response:
        return _answer(scripts, "", f"/{name}")

    def part(name: str) -> Response:
        return script(f"ws_hub/{name}")

    blueprint.add_url_rule(js_path, "js", functools.partial(script, "ws_hub.js"))
    for name in {*CLIENT} - {js_path.rpartition("/")[2]}:
        endpoint = name.removesuffix(".js")
        blueprint.add_url_rule(f"{folder}/{name}", endpoint, functools.partial(script, name))
    blueprint.add_url_rule(f"{folder}/{_ELEMENT}", "log", functools.partial(script, _ELEMENT))
    blueprint.add_url_rule(f"{folder}/ws_hub/<name>", "part", part)


def _answer(page: Application, prefix: str, path: str) -> Response:
    """Return the answer of a WSGI application to the current request, below a prefix."""
    environ = request.environ
    below = {**environ, "SCRIPT_NAME": environ.get("SCRIPT_NAME", "") + prefix, "PATH_INFO": path}
    return current_app.response_class.from_app(page, below)
