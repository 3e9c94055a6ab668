"""The clients of a run: of the package, of the wire alone, on Node, in a page.

Each connects through a proxy, keeps what it receives in a `Record`, and is ended by `close`.
"""

from __future__ import annotations

import contextlib
import json
import subprocess
import tempfile
import threading
from array import array
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, Protocol

from websockets.exceptions import WebSocketException
from websockets.sync.client import ClientConnection, connect

from tests import node
from tests.browser.chromium import Browser, Page
from tests.chaos.plan import CHANNELS, PRESENT, data_of, value_of
from tests.chaos.record import Record, Track
from ws_hub import HubError, Message, MessagesLost, NotConnected, ReconnectingClient, WaitTimeout

__all__ = [
    "Client",
    "NodeClients",
    "PageClient",
    "PythonClient",
    "RawClient",
    "RemotePublisher",
    "Visitors",
]

HERE = Path(__file__).parent
TIMES = {"initialBackoff": 100, "maxBackoff": 1000, "stableAfter": 1000, "connectTimeout": 3000,
         "pingInterval": 1500, "pingTimeout": 2500}  # fmt: skip
SETTINGS: dict[str, Any] = {
    "initial_backoff": 0.1,
    "max_backoff": 1.0,
    "stable_after": 1.0,
    "connect_timeout": 3.0,
    "ping_interval": 1.5,
    "ping_timeout": 2.5,
}
BACKOFF = 0.3  # seconds
ANSWER = 60.0  # seconds: the patience of a publisher


class Client(Protocol):
    """What the judge asks of clients that run in one place."""

    records: Sequence[Record]

    def look(self) -> None:
        """Bring up to date what the records say of presence, and of their beginning and end."""

    def finish(self) -> None:
        """Bring all else up to date, once; it may take so long that connections are lost."""

    def close(self) -> None:
        """End them."""


# --- of the package ------------------------------------------------------------------------


class PythonClient:
    """A `ReconnectingClient`."""

    def __init__(self, name: str, url: str, *, compression: bool) -> None:
        self._record = Record("ReconnectingClient", name)
        self.records = [self._record]
        self._client = ReconnectingClient(
            url,
            on_message=self._message,
            on_error=self._error,
            compression=compression,
            **SETTINGS,
        )
        for channel in CHANNELS:
            self._client.subscribe(channel, since=0)
        self._client.start()

    def _message(self, message: Message) -> None:
        if message.type == "event":
            self._record.message(message.channel, message.seq, value_of(message.data))
        elif message.type == "lagged":
            self._record.lagged += 1
        else:
            self._record.complaints.append(f"a message of type {message.type}")

    def _error(self, error: Exception) -> None:
        if isinstance(error, MessagesLost):
            if error.channel in self._record.tracks:
                self._record.tracks[error.channel].gap(error.count)
            else:
                self._record.complaints.append(str(error))

    def look(self) -> None:
        known = self._client.presence(PRESENT)
        self._record.present = [each.user for each in (known and known.members) or ()]

    def finish(self) -> None:
        pass

    def close(self) -> None:
        self._client.close()


# --- of the wire alone ---------------------------------------------------------------------


class _Position:
    """How far a client of the wire is in a channel."""

    def __init__(self) -> None:
        self.seq = 0
        self.epoch = ""
        self.pending = True  # the newest subscription has no answer
        self.lost = False  # the answer said that something is missing before what comes next


class RawClient:
    """A client on the package `websockets`, which follows docs/protocol.md and keeps positions."""

    def __init__(self, name: str, url: str, *, compression: bool) -> None:
        self._record = Record("the wire", name)
        self._compression = compression
        self.records = [self._record]
        self._url = url
        self._positions = {channel: _Position() for channel in CHANNELS}
        self._members: dict[str, Any] = {}  # connection -> user
        self._closed = threading.Event()
        self._socket: ClientConnection | None = None
        self._thread = threading.Thread(target=self._run, name=name)
        self._thread.start()

    def look(self) -> None:
        self._record.present = sorted(set(self._members.copy().values()))

    def finish(self) -> None:
        pass

    def close(self) -> None:
        self._closed.set()
        socket = self._socket
        if socket is not None:
            socket.close()
        self._thread.join()

    def _run(self) -> None:
        while not self._closed.is_set():
            try:
                with connected(self._url, compression=self._compression) as socket:
                    self._socket = socket
                    self._converse(socket)
            except (OSError, WebSocketException):
                self._closed.wait(BACKOFF)

    def _converse(self, socket: ClientConnection) -> None:
        for channel, position in self._positions.items():
            self._subscribe(socket, channel, position)
        while not self._closed.is_set():
            self._take(socket, json.loads(socket.recv()))

    def _subscribe(self, socket: ClientConnection, channel: str, position: _Position) -> None:
        position.pending, position.lost = True, False
        where = {"since": position.seq}
        if position.epoch:
            where["epoch"] = position.epoch
        request = {"type": "subscribe", "channel": channel, "id": channel, **where}
        socket.send(json.dumps(request))

    def _take(self, socket: ClientConnection, message: dict[str, Any]) -> None:
        kind, channel = message["type"], message.get("channel", message.get("id", ""))
        position = self._positions[channel]
        if kind == "ack":
            self._answered(channel, position, message["data"])
        elif kind == "presence":
            self._presence(message["data"])
        elif position.pending:
            if kind == "error":  # it is too busy, and says so
                self._subscribe(socket, channel, position)
        elif kind == "lagged":
            self._record.lagged += 1
            # After an answer that is not recovered it counts from what was kept then.
            if message["seq"] != position.seq and not position.lost:
                self._record.complaints.append(
                    f"lagged says {message['seq']} to a client that has {position.seq}"
                )
            self._subscribe(socket, channel, position)
        elif kind == "event":
            seq = message.get("seq")
            if seq is not None and seq > position.seq + 1:  # a hole, or not all was kept
                self._record.tracks[channel].gap(seq - position.seq - 1)
                position.lost = False
            position.seq = position.seq if seq is None else seq
            self._record.message(channel, seq, value_of(message["data"]))
        else:
            self._record.complaints.append(f"{channel}: {message}")

    def _answered(self, channel: str, position: _Position, data: dict[str, Any]) -> None:
        if "epoch" not in data:
            self._record.complaints.append(f"{channel}: the ack {data} has no epoch")
            return
        if position.epoch not in ("", data["epoch"]):
            self._record.complaints.append(f"{channel} has another epoch")
        position.epoch, position.pending = data["epoch"], False
        if not data["recovered"]:
            if data["replayed"]:
                position.lost = True
            else:
                self._record.tracks[channel].gap(data["seq"] - position.seq)
                position.seq = data["seq"]
        if "presence" in data:
            self._members.clear()
            self._presence(data["presence"])

    def _presence(self, data: dict[str, Any]) -> None:
        if "users" in data:
            self._members = {each["connection"]: each["user"] for each in data["members"]}
            return
        for each in data.get("join", ()):
            self._members[each["connection"]] = each["user"]
        for each in data.get("leave", ()):
            self._members.pop(each["connection"], None)


def connected(url: str, *, compression: bool = False) -> AbstractContextManager[ClientConnection]:
    """Connect, in a way that finds out soon when the peer is gone."""
    return connect(
        url,
        proxy=None,
        compression="deflate" if compression else None,
        open_timeout=3,
        ping_interval=1.5,
        ping_timeout=2.5,
        close_timeout=1,
    )


# --- in JavaScript -------------------------------------------------------------------------


def _filled(records: Mapping[str, Record], reports: Sequence[dict[str, Any]]) -> None:
    """Take what recorders in JavaScript report."""
    for report in reports:
        record = records[report["name"]]
        for name, value in report.items():
            if name != "tracks":
                setattr(record, name, value)
        for channel, (seqs, values, gaps, unnumbered) in report.get("tracks", {}).items():
            told = [(at, count) for at, count in gaps]
            record.tracks[channel] = Track(seqs, values, told, unnumbered)


_PROGRAM = """
import {createInterface} from "node:readline";
import {WebSocket} from "ws";
import {HubClient} from "./ws_hub.js";
import {presence} from "./ws_hub_presence.js";
import {Recorder} from "./recorder.js";

const {places, channels, present, times} = JSON.parse(process.argv[2]);
const recorders = Object.entries(places).map(([name, url]) =>
  new Recorder(name, new HubClient(url, {WebSocket, ...times}), presence, channels, present));
for await (const line of createInterface({input: process.stdin})) {
  const reports = recorders.map((each) => each[line]());
  process.stdout.write(JSON.stringify(reports) + "\\n");
}
process.exit(0);
"""


class NodeClients:
    """All clients on Node, in one process: ws_hub.js on the package `ws`.

    Raises what skips a test where there is no Node, or no package.
    """

    def __init__(self, places: Mapping[str, str]) -> None:
        self._by_name = {name: Record("ws_hub.js on Node", name) for name in places}
        self.records = list(self._by_name.values())
        self._folder = tempfile.TemporaryDirectory(prefix="ws-hub-chaos-")
        folder = node.prepare(Path(self._folder.name))
        (folder / "recorder.js").write_bytes((HERE / "recorder.js").read_bytes())
        (folder / "program.mjs").write_text(_PROGRAM, encoding="utf-8")
        assert node.NODE is not None
        what = {"places": places, "channels": CHANNELS, "present": PRESENT, "times": TIMES}
        self._process = subprocess.Popen(
            [node.NODE, "program.mjs", json.dumps(what)],
            cwd=folder,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            start_new_session=True,  # Ctrl-C is for the run, which ends it
        )

    def _ask(self, what: str) -> Any:
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.write(f"{what}\n")
        self._process.stdin.flush()
        return json.loads(self._process.stdout.readline())

    def look(self) -> None:
        _filled(self._by_name, self._ask("look"))

    def finish(self) -> None:
        _filled(self._by_name, self._ask("finish"))

    def close(self) -> None:
        try:
            self._process.communicate(timeout=10)  # its input ends
        finally:
            self._process.kill()
            self._process.wait()
            self._folder.cleanup()


_IN_PAGE = """
(async () => {
  const {HubClient} = await import("/ws_hub.js");
  const {presence} = await import("/ws_hub_presence.js");
  const source = new Blob([SOURCE], {type: "text/javascript"});
  const {Recorder} = await import(URL.createObjectURL(source));
  const {name, url, channels, present, times} = WHAT;
  window.recorder = new Recorder(name, new HubClient(url, times), presence, channels, present);
})()
"""


class PageClient:
    """ws_hub.js in a page of a Chromium."""

    def __init__(self, binary: str, name: str, url: str) -> None:
        self._by_name = {name: Record("ws_hub.js in Chromium", name)}
        self.records = list(self._by_name.values())
        self._browser = Browser(binary)
        try:
            self._page = Page(self._browser)
            self._page.open(url.replace("ws://", "http://").split("/ws?")[0] + "/chaos")
            source = json.dumps((HERE / "recorder.js").read_text(encoding="utf-8"))
            what = {
                "name": name, "url": url, "channels": CHANNELS, "present": PRESENT, "times": TIMES
            }  # fmt: skip
            script = _IN_PAGE.replace("SOURCE", source).replace("WHAT", json.dumps(what))
            self._page.eval(script)
        except BaseException:
            self._browser.close()
            raise

    def look(self) -> None:
        _filled(self._by_name, [self._page.eval("window.recorder.look()")])

    def finish(self) -> None:
        _filled(self._by_name, [self._page.eval("window.recorder.finish()")])

    def close(self) -> None:
        self._browser.close()


# --- publishers and visitors ---------------------------------------------------------------


class RemotePublisher:
    """A client that publishes numbers, each with a key, and again until it is accepted.

    Attributes:
        accepted: channel -> the values that the server has accepted.
        again: how often it may have published something again.
    """

    def __init__(self, publisher: int, url: str) -> None:
        self.accepted = {channel: array("q") for channel in CHANNELS}
        self.again = 0
        self.publisher = publisher
        self._client = ReconnectingClient(url, on_connect=self._connected, **SETTINGS).start()
        self._stop, self._abandon = threading.Event(), threading.Event()
        self._thread = threading.Thread(target=self._run, name=f"publisher:{publisher}")
        self._thread.start()

    def _connected(self) -> None:
        self.again += 1

    def stop(self) -> None:
        """Publish no more numbers; return when the last one is accepted."""
        self._stop.set()
        self._thread.join()

    def close(self) -> None:
        self._stop.set()
        self._abandon.set()
        self._client.close()
        self._thread.join()

    def _run(self) -> None:
        number = 0
        while not self._stop.wait(0.01):
            number += 1
            channel, data = CHANNELS[number % len(CHANNELS)], data_of(self.publisher, number)
            while not self._is_accepted(channel, data):
                self.again += 1
                if self._abandon.wait(0.05):
                    return
            self.accepted[channel].append(value_of(data))

    def _is_accepted(self, channel: str, data: dict[str, Any]) -> bool:
        key = f"{self.publisher}:{data['number']}"
        try:
            self._client.publish(channel, data, wait=ANSWER, idempotency_key=key)
        except (HubError, NotConnected, WaitTimeout):
            return False
        return True


class Visitors:
    """Clients that come, enter the channel with presence, and vanish without a word."""

    def __init__(self, url_of: Callable[[str], str]) -> None:
        self.came = 0
        self._url_of = url_of
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="visitors")
        self._thread.start()

    def close(self) -> None:
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        there: list[contextlib.ExitStack] = []
        while not self._stop.wait(0.7):
            with contextlib.suppress(OSError, WebSocketException), contextlib.ExitStack() as stack:
                socket = stack.enter_context(connected(self._url_of(f"visitor-{self.came}")))
                stack.callback(socket.close_socket)  # without a Close frame
                socket.send(json.dumps({"type": "subscribe", "channel": PRESENT}))
                self.came += 1
                there.append(stack.pop_all())
            if len(there) > 4:
                there.pop(0).close()
        for stack in there:
            stack.close()
