"""Numbered messages, and a client's account of them: whole, in order, none twice.

It does no I/O. What is published carries the stream that it belongs to and its number in
it; how long the rest is follows from the number. A program prints the numbers from 1. So
whoever gets a message can tell whether it is all there and the next one.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Mapping
from typing import Any, NamedTuple

from .wire import frames

__all__ = ["LINES", "NEWS", "PACE", "PROGRAMS", "TARGETS", "Ledger", "Said", "Spoiled", "said"]

NEWS = "news"  # keeps history
PACE = "pace"  # nothing is said there; who listens is waited for
TARGETS = ("", NEWS, "chat-0", "chat-1")  # "" is everybody
PROGRAMS = ("seq-0", "seq-1")  # process ids
LINES = 20_000  # that a program prints

_SIZES = (16, 40, 100, 160, 300, 1000)
_LARGE, _EVERY = 16_000, 97  # bytes, and one message of how many has them

_TEXT, _CLOSE, _PING, _PONG = 0x81, 0x88, 0x89, 0x8A


class Spoiled(Exception):
    """A client did not get what was published, whole and in order."""


class Said(NamedTuple):
    """One frame of the server's.

    Args:
        kind: the type of the message; or "ping", "pong" or "close".
        channel: where it was said.
        stream: what its number counts; "" when it has none.
        number: its place in the stream.
        seq: its position in its channel; 0 when that keeps no history.
        body: the whole message.
    """

    kind: str
    channel: str = ""
    stream: str = ""
    number: int = 0
    seq: int = 0
    body: Mapping[str, Any] = {}


def said(stream: str, number: int) -> list[Any]:
    """Return the data of message `number` of a stream."""
    size = _SIZES[number % len(_SIZES)] if number % _EVERY else _LARGE
    return [stream, number, "x" * size]


class Ledger:
    """What one client has got, checked as it comes.

    Args:
        whole: it was there before anything was published, so that each stream begins at
            its beginning.

    Attributes:
        messages: how many publications it got.
        epochs: channel -> the numbering that its positions belong to.
    """

    def __init__(self, *, whole: bool = False) -> None:
        self.messages = 0
        self.epochs: dict[str, str] = {}
        self._whole = whole
        self._rest = b""
        self._next: dict[str, int] = {}
        self._position: dict[str, int] = {}  # of a channel: the seq that comes next
        self._left: set[str] = set()

    def feed(self, data: bytes) -> list[Said]:
        """Take in bytes as they came; return what was no publication.

        An answer to a request changes what is expected from its place on: its id is
        "subscribe" or "unsubscribe" and the channel.
        """
        data = self._rest + data
        at, others = 0, []
        for first, payload in frames(data):
            size = len(payload)
            at += size + (2 if size < 126 else 4 if size < 1 << 16 else 10)
            found = _read(first, payload)
            if found.channel in self._left:
                raise Spoiled(f"{found.channel!r} goes on after the ack of unsubscribe")
            if found.stream or (found.seq and found.kind != "lagged"):
                self._enter(found)
                continue
            if found.kind == "ack":
                self._settle(found)
            others.append(found)
        self._rest = data[at:]
        return others

    def position(self, channel: str) -> int:
        """Return the seq of the last message of a channel."""
        return self._position[channel] - 1

    def count(self, stream: str) -> int:
        """Return how many messages a stream had, of which it got all since it listened."""
        return self._next.get(stream, 0)

    def successor(self) -> Ledger:
        """Return the ledger of the same client for when it comes back to the news."""
        found = Ledger()
        found.epochs[NEWS], found._position[NEWS] = self.epochs[NEWS], self._position[NEWS]
        return found

    def _settle(self, ack: Said) -> None:
        kind, channel = ack.body["id"].split()
        if kind == "unsubscribe":
            self._left.add(channel)
            self._forget(channel)
            return
        answer = ack.body["data"]
        self._left.discard(channel)
        if not answer.get("epoch"):  # a channel that keeps nothing
            return
        self.epochs[channel] = answer["epoch"]
        begin = answer["seq"] - answer["replayed"] + 1
        expected = self._position.get(channel, begin)
        if answer["recovered"] and begin != expected:
            raise Spoiled(f"{channel!r} is replayed from {begin}, not {expected}")
        if not answer["recovered"]:  # the streams in it skip as well
            self._forget(channel)
        self._position[channel] = begin

    def _forget(self, channel: str) -> None:
        self._position.pop(channel, None)
        for stream in [each for each in self._next if each.partition("/")[0] == channel]:
            del self._next[stream]

    def _enter(self, found: Said) -> None:
        self.messages += 1
        if found.seq:
            expected = self._position.get(found.channel, 1 if self._whole else found.seq)
            if found.seq != expected:
                raise Spoiled(f"{found.channel!r} goes on with {found.seq}, not {expected}")
            self._position[found.channel] = found.seq + 1
        if found.kind == "process_status":
            self._enter_status(found)
        elif found.stream:
            expected = self._next.get(found.stream, 0 if self._whole else found.number)
            if found.number != expected:
                raise Spoiled(f"{found.stream!r} goes on with {found.number}, not {expected}")
            self._next[found.stream] = found.number + 1

    def _enter_status(self, found: Said) -> None:
        printed = self._next.pop(found.channel, None)
        if found.body["data"]["status"] == "running":
            self._next[found.channel] = 1
        elif printed is not None and printed != LINES + 1:
            raise Spoiled(f"{found.channel!r} ends after {printed - 1} of {LINES} lines")


# All get the same bytes: what one has read the others need not read again.
@functools.lru_cache(maxsize=16_384)
def _read(first: int, payload: bytes) -> Said:
    """Return what a frame says; raise Spoiled when it is not what anybody sent."""
    if first == _PING:
        return Said("ping")
    if first == _PONG:
        return Said("pong")
    if first == _CLOSE:
        code = int.from_bytes(payload[:2], "big")
        return Said("close", number=code, body={"data": payload[2:].decode()})
    try:
        if first != _TEXT:
            raise ValueError
        body = json.loads(payload)
        kind, channel, seq = body["type"], body.get("channel", ""), body.get("seq", 0)
        if kind == "process_output":
            return Said(kind, channel, channel, int(body["data"]), seq, body)
        if kind != "event":
            return Said(kind, channel, "", 0, seq, body)
        stream, number, _ = body["data"]
        if body["data"] != said(stream, number):
            raise ValueError
    except (ValueError, TypeError, KeyError):
        raise Spoiled(f"no message of ours: {first:#x} {payload[:80]!r}") from None
    return Said(kind, channel, stream, number, seq, body)
