"""The application behind every server of the tests: a hub at /ws, pages that look into it.

`application` starts its hub on the first request, in whatever process that comes to;
`WS_HUB_EAGER=1` starts it on import instead, as an application without fork in mind would.
`WS_HUB_HEARTBEAT` is its heartbeat interval; `WS_HUB_COMPRESSION=1` has it compress. At
/guarded is a hub that refuses by what the header `X-User` says, and at /closed one that does
not run; /count counts how often it was asked for.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import threading
from collections.abc import Callable, Iterable
from typing import Any
from urllib.parse import parse_qs

from ws_hub import AuthResult, Client, ConfigError, Hub, HubConfig, Message, middleware

logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(name)s %(message)s")

Environ = dict[str, Any]


def on_message(client: Client, message: Message) -> object:
    """Close with what is asked for, or say it back."""
    if message.type == "close-me":
        client.close(4000, "as you wish")
        return None
    if message.type == "shout":
        return str(message.data).upper()
    return {"echo": message.data}


hub = Hub(
    HubConfig(
        on_message=on_message,
        max_message_size=4 * 1024 * 1024,
        compression=bool(os.environ.get("WS_HUB_COMPRESSION")),
        heartbeat_interval=float(os.environ.get("WS_HUB_HEARTBEAT", "30")),
        # For whoever connects thousands of times from one address.
        max_processing_rate=None if os.environ.get("WS_HUB_UNBOUNDED") else 0.2,
    )
)


departures: list[str] = []  # appended to by single calls


@hub.on_subscribe("room:*")
def welcome(client: Client, channel: str) -> None:
    hub.send_to_channel(channel, Message("event", data="welcome"))


@hub.on_unsubscribe("room:*")
def farewell(client: Client, channel: str) -> None:
    departures.append(channel)


@hub.on("whisper")
def whisper(client: Client, message: Message) -> str:
    return str(message.data).lower()


def authenticate(environ: Environ) -> AuthResult:
    """Believe `X-User`: nobody without one, and "mallory" may not."""
    user = environ.get("HTTP_X_USER")
    return AuthResult(user not in (None, "mallory"), user, forbidden=user == "mallory")


guarded = Hub(HubConfig(authenticator=authenticate, max_connections_per_user=1))
counted: list[str] = []  # appended to by single calls
_first = threading.Lock()  # guards: the first start of the hub in this process.


def pages(environ: Environ, start_response: Callable[..., Any]) -> Iterable[bytes]:
    """Answer ordinary requests."""
    path = environ["PATH_INFO"]
    query = {key: values[0] for key, values in parse_qs(environ["QUERY_STRING"]).items()}
    answer: Any = {"hello": "world"}
    if path == "/state":
        answer = {
            "pid": os.getpid(),
            "clients": hub.client_count(),
            "counted": len(counted),
            "departures": departures,
            "channels": hub.all_channels(),
            "threads": sorted(thread.name for thread in threading.enumerate()),
            "files": len(os.listdir("/proc/self/fd")) - 3 * hub.stats().io_uring,  # its ring has
            "url_scheme": environ["wsgi.url_scheme"],
            "multithread": environ["wsgi.multithread"],
        }
    elif path == "/broadcast":
        hub.broadcast(Message("event", data=query.get("data", "")))
    elif path == "/send":
        hub.send_to_channel(query["channel"], Message("event", data=query.get("data", "")))
    elif path == "/count":
        counted.append(environ["REMOTE_ADDR"])
    elif path == "/stop":
        hub.stop()
    elif path == "/hold":
        environ["wsgi.input"].read(1)  # a page that is slow until somebody sends this byte
    elif path != "/":
        start_response("404 Not Found", [("Content-Type", "text/plain"), ("Content-Length", "0")])
        return [b""]
    body = json.dumps(answer).encode()
    headers = [("Content-Type", "application/json"), ("Content-Length", str(len(body)))]
    start_response("200 OK", headers)
    return [body]


_served = middleware(
    middleware(middleware(pages, Hub(), "/closed"), guarded, "/guarded"), hub, "/ws"
)


def application(environ: Environ, start_response: Callable[..., Any]) -> Iterable[bytes]:
    with _first:
        wanted = guarded if environ["PATH_INFO"] == "/guarded" else hub
        if not wanted.running and environ["PATH_INFO"] != "/stop":
            with contextlib.suppress(ConfigError):  # gevent: handshakes get 503
                wanted.start()
    return _served(environ, start_response)


if os.environ.get("WS_HUB_EAGER"):
    hub.start()
