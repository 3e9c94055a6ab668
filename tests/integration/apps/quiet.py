"""An application that sets up no logging, with a hub that starts, and is published to, on import.

What its clients send makes `on_message` raise.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from ws_hub import Client, Hub, HubConfig, Message, middleware


def on_message(client: Client, message: Message) -> object:
    """Raise."""
    raise LookupError("on_message of the quiet application")


def pages(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
    """Answer every request with nothing."""
    start_response("200 OK", [("Content-Type", "text/plain"), ("Content-Length", "0")])
    return [b""]


hub = Hub(HubConfig(on_message=on_message)).start()
hub.send_event("imported", channel="news")
application = middleware(pages, hub, "/ws")
