"""`ws-hub tail`: subscribes to channels of a hub and shows them in this terminal.

The callbacks of the client run on the thread in `connect()`; a second thread writes the lines
that change no more. Both wait for an output that is not read. The main thread, in `follow`, waits
for a signal or for the end of the first.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import json
import os
import signal
import sys
import threading
from collections.abc import Callable, Sequence
from typing import Any
from urllib.parse import parse_qs, urlsplit, urlunsplit

from .. import threads
from ..errors import WsHubError
from ..protocol.message import Message, MessageType, is_sample, to_dict
from ..reconnect.client import ReconnectingClient
from ..reconnect.config import ReconnectConfig
from ..signals import Signals
from .common import FAILED, USAGE, add_command, add_layout, count, fail, say
from .margin import Margin, Origin
from .terminal import Screen, describe

__all__ = ["Tail", "View", "add_tail", "socket_url"]

_JOIN = 5.0
_SETTLE = 0.1  # seconds between two looks for lines that change no more
_LEAVE = 1.0  # seconds at the end in which an output that is not read is waited for

_SILENT = (MessageType.ACK, MessageType.PONG, MessageType.LAGGED)
_REFUSED = ("bad_channel", "forbidden")  # codes of refusals that would come again

_TAIL_EXAMPLES = """\
examples:
  ws-hub tail ws://127.0.0.1:8765/ws process:build-42
  ws-hub tail http://127.0.0.1:8765/ process:build-42 > build.log
  ws-hub tail --last 20 http://127.0.0.1:8765/ process:build-42
  ws-hub tail --json --since 0 ws://127.0.0.1:8765/ws process:build-42 news
  ws-hub tail --time elapsed --mark http://127.0.0.1:8765/ process:build-42
  ws-hub tail --stream stderr http://127.0.0.1:8765/ process:build-42 > errors.log

  WS_HUB_TOKEN in the environment is sent as the token, for a server that requires one.

exit codes:
  130 after Ctrl-C, 143 after SIGTERM; 1 when the server refuses us; 2 for a wrong option
"""


def add_tail(commands: Any) -> None:
    """Add the command to the parser."""
    text = "follow channels in this terminal, and reconnect"
    command = add_command(commands, "tail", text, _TAIL_EXAMPLES, _tail)
    command.add_argument("--json", action="store_true", help="print whole messages, one a line")
    add_layout(
        command,
        stream="of programs the lines of this output alone (both, in their order)",
        time="at which the hub has read it: of the clock here, since the program's start, or "
        "since the line before",
    )
    begin = command.add_mutually_exclusive_group()
    begin.add_argument(
        "--since",
        type=count,
        metavar="SEQ",
        help="begin after this message; 0 for all that is kept, as processes do by default",
    )
    begin.add_argument(
        "--last", type=count, metavar="N", help="begin with the last N messages that are kept"
    )
    command.add_argument("url", metavar="URL", help="of the WebSocket, or of the page")
    command.add_argument("channels", nargs="*", metavar="CHANNEL")


def _tail(arguments: argparse.Namespace, signals: Signals) -> int:
    url, named = socket_url(arguments.url)
    channels = arguments.channels or named
    if not channels:
        return fail("tail: a channel is required: ws-hub tail URL CHANNEL", USAGE)
    if arguments.json and (arguments.time or arguments.mark):
        text = "tail: --time and --mark are for lines: messages printed by --json have both"
        return fail(text, USAGE)
    tail = Tail(
        # The token is no option, which `ps` would show.
        ReconnectConfig(url=url, token=os.environ.get("WS_HUB_TOKEN") or None),
        channels,
        since=arguments.since,
        last=arguments.last,
        view=View(
            as_json=arguments.json,
            colours=arguments.colours,
            stream=arguments.stream or "",
            time=arguments.time or "",
            marks=arguments.mark,
        ),
        tell=say,
    )
    number = tail.follow(signals)
    return FAILED if number is None else 128 + number


def socket_url(text: str) -> tuple[str, list[str]]:
    """Return the WebSocket's URL, also for the page's URL, and the page's channel."""
    parts = urlsplit(text)
    scheme = {"http": "ws", "https": "wss"}.get(parts.scheme)
    if scheme is None:
        return text, []
    path = parts.path or "/"
    if path.endswith("/"):  # the page's, below any prefix
        path += "ws"
    url = urlunsplit((scheme, parts.netloc, path, "", ""))
    return url, parse_qs(parts.query).get("channel", [])


@dataclasses.dataclass(frozen=True, slots=True)
class View:
    """How messages are shown.

    Args:
        as_json: print whole messages, one a line.
        colours: pass colours on where stdout is no terminal.
        stream: "stdout" or "stderr", to show lines of this output alone; "" for both.
        time: what time stands before each line, of `margin.TIMES`; "" for none.
        marks: say which lines are of stderr.
    """

    as_json: bool = False
    colours: bool = False
    stream: str = ""
    time: str = ""
    marks: bool = False


class Tail:
    """Shows the messages of some channels on stdout, as lines or as JSON.

    Args:
        server: the WebSocket's URL, and what it asks for: a token, headers.
        channels: their names.
        since: begin after the message with this number; None for the server's default.
        last: begin with this many of the newest messages.
        view: how they are shown.
        tell: called with status lines and errors.
    """

    def __init__(
        self,
        server: ReconnectConfig,
        channels: Sequence[str],
        *,
        since: int | None = None,
        last: int | None = None,
        view: View = View(),  # noqa: B008 - it cannot be changed
        tell: Callable[[str], object],
    ) -> None:
        self._wanted = set(channels)  # channels that the server has not refused
        margin = Margin(view.time, marks=view.marks)
        self._screen = Screen(
            sys.stdout, named=len(channels) > 1, colours=view.colours, margin=margin
        )
        self._show = self._show_json if view.as_json else self._show_text
        self._stream = view.stream
        self._tell = tell
        self._place = server.url.partition("?")[0]
        self._signals: Signals | None = None
        self._leaving = False  # set by follow(): we end the connection
        config = dataclasses.replace(
            server,
            on_connect=lambda: tell(f"connected to {self._place}"),
            on_disconnect=self._disconnected,
            on_error=self._failed,
            on_message=self._received,
        )
        self._client = ReconnectingClient(config)
        for channel in channels:
            self._client.subscribe(channel, since=since, last=last)

    def follow(self, signals: Signals) -> int | None:
        """Show messages until a signal is received; return its number.

        None when the server refuses the connection for good, or every one of the channels.
        SIGPIPE when stdout has been closed at its other end.

        Threads: the main thread; blocks.
        """
        self._signals = signals
        over = threading.Event()
        started = [threads.start("ws-hub:tail", self._connect)]
        if not self._screen.is_terminal:
            started.append(threads.start("ws-hub:settle", self._settle, over))
        try:
            return signals.wait()
        finally:
            self._leaving = True
            self._screen.leave(_LEAVE)
            over.set()
            self._client.close()
            for thread in started:
                threads.join(thread, _JOIN)
            self._screen.settle(everything=True)

    def _settle(self, over: threading.Event) -> None:
        # Not on the main thread, which has to see a signal while the output is not read.
        while not over.wait(_SETTLE):
            self._screen.settle()

    def _failed(self, error: Exception) -> None:
        self._tell(f"{self._place}: {error}" if isinstance(error, OSError) else str(error))

    def _connect(self) -> None:
        try:
            # on_error or on_disconnect has reported it already.
            with contextlib.suppress(WsHubError):
                self._client.connect()
        finally:
            self._post(None)

    def _post(self, number: int | None) -> None:
        assert self._signals is not None  # follow() starts the thread that calls this
        self._signals.put(number)

    def _received(self, message: Message) -> None:
        if message.type != MessageType.PROCESS_OUTPUT or self._stream in ("", _stream(message)):
            self._show(message)
        if self._screen.gone:
            self._post(signal.SIGPIPE)
        if message.type == MessageType.ERROR and message.code in _REFUSED:
            self._wanted.discard(message.channel)
            if not self._wanted:
                self._post(None)

    def _disconnected(self, code: int, reason: str, will_retry: bool) -> None:
        if self._leaving:
            return
        again = "reconnecting" if will_retry else "not reconnecting"
        self._tell(f"disconnected ({code}{f' {reason!r}' if reason else ''}), {again}")

    def _show_json(self, message: Message) -> None:
        self._screen.line(json.dumps(to_dict(message), ensure_ascii=False))

    def _show_text(self, message: Message) -> None:
        if message.type == MessageType.PROCESS_OUTPUT and isinstance(message.data, str):
            origin = Origin(message.read_at, _stream(message) == "stderr")
            self._screen.text(message.channel, message.data, message.line, origin)
        elif message.type in (MessageType.PROCESS_STATUS, MessageType.ERROR):
            if is_sample(message.data):
                return
            if message.type == MessageType.PROCESS_STATUS:
                self._screen.settle(message.channel)  # another run counts its lines from 1
                if _is_start(message):
                    self._screen.begin(message.channel, message.read_at)
            self._tell(describe(message))
        elif message.type not in _SILENT:
            self._screen.line(describe(message))


def _stream(message: Message) -> str:
    return message.stream or "stdout"


def _is_start(message: Message) -> bool:
    return isinstance(message.data, dict) and message.data.get("status") == "running"
