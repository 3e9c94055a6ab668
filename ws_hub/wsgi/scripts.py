"""Says what serves the browser client, once a page has asked an application for it in vain.

The middleware serves the WebSocket alone. A page whose `import` fails shows nothing, and its
browser's console says no more than 404.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ..errors import excerpt
from .servers import log_once

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


def watched(path: str, start_response: StartResponse, advice: str) -> StartResponse:
    """Return a `start_response` that logs `advice` when a script's answer is none.

    That is a 404, or a page, as an application answers that sends its own for every unknown
    path. The answer passes as it is.

    Threads: the request's.
    """

    def start(status: str, headers: Any, *more: Any, **named: Any) -> Any:
        if status.startswith("404") or (status.startswith("2") and _is_page(headers)):
            tell_of_script(path, status, advice)
        return start_response(status, headers, *more, **named)

    return start


def tell_of_script(path: str, status: str, advice: str) -> None:
    """Log that a script is not served: once in a process, whoever asks.

    Threads: any.
    """
    log_once(
        "no script",
        f"{excerpt(path)} was asked for, and the answer is {excerpt(status)}: {advice}",
    )


def _is_page(headers: Any) -> bool:
    # Nothing else is looked at: what is no list could be read only once.
    return isinstance(headers, list) and any(
        name.lower() == "content-type" and value.lower().startswith("text/html")
        for name, value in headers
    )
