"""Says what serves the browser client and the WebSocket, once a page has missed one of them.

The middleware serves the WebSocket alone, at one path. A page whose `import` or whose
connection fails shows nothing, and its browser's console says no more than 404.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ..errors import excerpt
from .servers import Environ, log_once

__all__ = ["SERVES_NONE", "is_script", "tell_of_script", "watched"]

_SCRIPTS = ("/ws_hub.js", "/ws_hub_log.js")
SERVES_NONE = (
    "middleware(app, hub) answers the WebSocket alone. For the browser client mount "
    "middleware(script_app(hub, fallback=app), hub), or serve(hub, app=script_app(hub)), with "
    "from ws_hub.page import script_app; in Flask use ws_hub.flask.HubExtension(app)"
)

StartResponse = Callable[..., Any]


def is_script(path: str) -> bool:
    """Return whether a path ends as that of the browser client, or of the element, does.

    Threads: any.
    """
    return path.endswith(_SCRIPTS)


def watched(
    environ: Environ, start_response: StartResponse, socket_path: str, advice: str
) -> StartResponse:
    """Return a `start_response` that logs what a page has missed; most requests get their own.

    A script is missed by a 404, and by a page, as an application answers that sends its own for
    every unknown path; a WebSocket by a 404. The answer passes as it is.

    Args:
        environ: of a request that is the application's.
        start_response: the request's.
        socket_path: where the WebSocket is.
        advice: says where the scripts are.

    Threads: the request's.
    """
    path = environ.get("PATH_INFO", "")
    script = is_script(path)
    if not script and "HTTP_SEC_WEBSOCKET_KEY" not in environ:
        return start_response

    def start(status: str, headers: Any, *more: Any, **named: Any) -> Any:
        missed = status.startswith("404")
        if script and (missed or (status.startswith("2") and _is_page(headers))):
            tell_of_script(path, status, advice)
        elif missed and not script:
            log_once(
                "no socket",
                f"a WebSocket at {excerpt(path)} was asked for, and the answer is "
                f"{excerpt(status)}: the hub's is at {excerpt(socket_path)}",
                each=path,
            )
        return start_response(status, headers, *more, **named)

    return start


def tell_of_script(path: str, status: str, advice: str) -> None:
    """Log that a script is not served: once a path in a process, whoever asks.

    Threads: any.
    """
    log_once(
        "no script",
        f"{excerpt(path)} was asked for, and the answer is {excerpt(status)}: {advice}",
        each=path,
    )


def _is_page(headers: Any) -> bool:
    # Nothing else is looked at: what is no list could be read only once.
    return isinstance(headers, list) and any(
        name.lower() == "content-type" and value.lower().startswith("text/html")
        for name, value in headers
    )
