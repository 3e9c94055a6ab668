"""`ws-hub serve`: serves a hub and the page that shows its channels."""

from __future__ import annotations

import argparse
import contextlib
import errno
import socket
from collections.abc import Iterator
from typing import Any

from ..backplane.sqlite import SqliteHistory
from ..config import ChannelRule, HubConfig
from ..hub.hub import Hub
from ..server.server import Server, serve
from ..server.viewer import page_app
from ..signals import Signals
from .common import DEFAULT_PORT, add_address, add_command, say

__all__ = ["add_serve", "page_url", "served"]

_LOCAL = ("127.0.0.1", "::1", "localhost")
_KEPT = 1000  # messages in the history of a channel to which every client may publish

_SERVE_EXAMPLES = """\
examples:
  ws-hub serve
  ws-hub serve --port 9000 --publish 'news' --publish 'chat:*'
  ws-hub serve --publish 'chat:*' --history hub.db
"""


def add_serve(commands: Any) -> None:
    """Add the command to the parser."""
    text = "serve a hub and a page that watches its channels"
    command = add_command(commands, "serve", text, _SERVE_EXAMPLES, _serve)
    add_address(command, f"port to serve on ({DEFAULT_PORT})")
    command.add_argument(
        "--publish",
        action="append",
        default=[],
        metavar="PATTERN",
        help="let every client publish to the channels of this pattern, which keep their "
        "last 1,000 messages; can be given again (by default no client may publish)",
    )
    command.add_argument(
        "--history",
        metavar="FILE",
        help="keep the history of channels in this file, which is made if it is missing, so that "
        "it outlives the server (by default in memory)",
    )


@contextlib.contextmanager
def served(
    hub: Hub,
    arguments: argparse.Namespace,
    channel: str = "",
    *,
    shown: str = "",
    any_port: bool = False,
) -> Iterator[Server]:
    """Serve the hub and its page; at the end viewers get queued messages, then 1001.

    Args:
        hub: a hub, which is started.
        arguments: the address.
        channel: of a page without a list; "" for one with it.
        shown: the channel that a page with a list shows first.
        any_port: take a free port when the default one is in use.
    """
    app = page_app(hub, channel=channel)
    port = DEFAULT_PORT if arguments.port is None else arguments.port
    try:
        server = serve(hub, arguments.host, port, app=app, allowed_hosts=arguments.allow_host)
    except OSError as error:
        if not any_port or arguments.port is not None or error.errno != errno.EADDRINUSE:
            why = error.__cause__ or error
            why = getattr(why, "strerror", None) or why
            raise OSError(
                f"cannot serve on {arguments.host}:{port}: {why}; choose another --port or --host"
            ) from error
        server = serve(hub, arguments.host, 0, app=app, allowed_hosts=arguments.allow_host)
    with server:
        say(f"watch at {page_url(server, shown)}")
        if arguments.host not in _LOCAL:
            say(f"warning: anybody who reaches {arguments.host}:{server.port} may watch")
        yield server


def page_url(server: Server, shown: str = "") -> str:
    """Return the URL of the page, with the host name of this machine for a wildcard address."""
    host = socket.gethostname() if server.host in ("0.0.0.0", "::") else server.host
    query = f"?channel={shown}" if shown else ""
    return f"http://{f'[{host}]' if ':' in host else host}:{server.port}/{query}"


def _serve(arguments: argparse.Namespace, signals: Signals) -> int:
    public = [
        ChannelRule(pattern=pattern, history_messages=_KEPT, replay=True, publish=True)
        for pattern in arguments.publish
    ]
    history = SqliteHistory(arguments.history) if arguments.history else None
    with served(Hub(HubConfig(history=history, rules=public)), arguments):
        number = signals.wait()
    return 128 + (number or 0)
