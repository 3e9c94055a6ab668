"""The same faults for servers of other libraries, for the record: `--peer flask-socketio`.

They keep no history, so that a client cannot know what it has missed, and nobody tells it. A
client here reconnects as ours do, and its record has what came. What a server's `emit()` or
`send()` returned for counts as published.
"""

from __future__ import annotations

import contextlib
import importlib.util
import json
import tempfile
import threading
import time
from collections import Counter
from pathlib import Path
from typing import Any

from websockets.exceptions import WebSocketException
from websockets.sync.client import ClientConnection

from tests.chaos.clients import BACKOFF, connected
from tests.chaos.faults import break_things
from tests.chaos.judge import Count
from tests.chaos.plan import BEGIN, END, MARK, PROXIES, Plan, parts_of, schedule, value_of
from tests.chaos.run import BUFFER, PATIENCE, Outcome, Tell, silent
from tests.chaos.server import Servers
from tests.support import wait_until
from ws_hub.testing import FaultProxy

__all__ = ["PEERS", "count_of", "run_peer"]

PEERS = {"flask-sock": "flask_sock", "flask-socketio": "flask_socketio"}  # and their modules
_PATHS = {"flask-sock": "/ws", "flask-socketio": "/socket.io/?EIO=4&transport=websocket"}


class _PeerClient:
    """Keeps what one client receives, and connects again."""

    def __init__(self, peer: str, proxy: FaultProxy) -> None:
        self.values: list[int] = []
        self.marks: set[int] = set()
        self._url = f"ws://{proxy.host}:{proxy.port}{_PATHS[peer]}"
        self._take = self._socketio if peer == "flask-socketio" else self._plain
        self._closed = threading.Event()
        self._socket: ClientConnection | None = None
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def close(self) -> None:
        self._closed.set()
        if self._socket is not None:
            self._socket.close()
        self._thread.join()

    def _run(self) -> None:
        while not self._closed.is_set():
            try:
                with connected(self._url) as socket:
                    self._socket = socket
                    while not self._closed.is_set():
                        self._take(socket, str(socket.recv()))
            except (OSError, WebSocketException):
                self._closed.wait(BACKOFF)

    def _plain(self, socket: ClientConnection, text: str) -> None:
        self._keep(json.loads(text))

    def _socketio(self, socket: ClientConnection, text: str) -> None:
        if text.startswith("42"):
            self._keep(json.loads(text[2:])[1])
        elif text.startswith("0"):
            socket.send("40")  # joins the default namespace
        elif text == "2":
            socket.send("3")  # a ping, and its pong

    def _keep(self, data: dict[str, Any]) -> None:
        value = value_of(data)
        publisher, number = parts_of(value)
        if publisher == MARK:
            self.marks.add(number)
        else:
            self.values.append(value)


def run_peer(peer: str, plan: Plan, tell: Tell) -> Outcome:
    """Run another library's server under the faults of a plan; return what has come of it."""
    if importlib.util.find_spec(PEERS[peer]) is None:
        raise SystemExit(f"{peer} is not installed: pip install -e '.[bench]'")
    with contextlib.ExitStack() as stack:
        stack.enter_context(silent("websockets"))
        folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="ws-hub-chaos-"))
        server = Servers(Path(folder), "tests.chaos.peer", peer)
        stack.callback(server.close)
        server.start()
        proxies = [
            stack.enter_context(FaultProxy(*server.target(), buffer=BUFFER)) for _ in range(PROXIES)
        ]
        clients = [_PeerClient(peer, proxies[each % PROXIES]) for each in range(plan.clients)]
        for client in clients:
            stack.callback(client.close)
        _mark(server, clients, BEGIN)
        server.ask("go")
        faults = break_things(schedule(plan), plan.seconds, server, proxies, tell)
        server.ask("quiet")
        _mark(server, clients, END)
        published = [each.value for each in server.accepted()]
        outcome = Outcome(faults=faults, accepted=len(published), is_peer=True)
        outcome.connections = sum(proxy.accepted for proxy in proxies)
        count = outcome.verdict.kinds[peer] = Count()
        for client in clients:
            count.add(count_of(client.values, set(published)))
        return outcome


def _mark(server: Servers, clients: list[_PeerClient], number: int) -> None:
    """Wait until every client is there, and has what was sent before."""
    last = 0.0

    def have_it() -> bool:
        nonlocal last
        if time.monotonic() > last + 1.0:  # it is not kept for those that are not connected
            last = time.monotonic()
            server.ask("mark", number)
        return all(number in client.marks for client in clients)

    wait_until(have_it, PATIENCE, "the mark at every client")


def count_of(values: list[int], published: set[int]) -> Count:
    """Compare what one client received with what was published."""
    count = Count(clients=1, messages=len(values), silent=len(published - set(values)))
    count.duplicates = sum(each - 1 for each in Counter(values).values())
    newest: dict[int, int] = {}
    for value in values:
        publisher, number = parts_of(value)
        count.disordered += number < newest.get(publisher, 0)
        newest[publisher] = number
    return count
