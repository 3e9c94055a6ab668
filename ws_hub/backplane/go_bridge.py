"""The messages of Go hubs on a server: what the Redis bridge of the Go original sends and takes.

    {prefix}:broadcast       {"sourceId":"0a1b...","message":{"type":...,"timestamp":...}}
    {prefix}:channel:{name}  the same; the name of the channel is there, not in the message

Rules of this file:

- A body has at most 65,536 bytes in all. Go drops a longer one in silence, one with a name that
  it does not accept, and one that it cannot parse: none of these is sent, and none is taken.
- `n` beside `message`, which Go ignores, is the number of the notice that brings the same to the
  hubs of this library. So these leave out what has it: they have it already.
- What Go makes of a message has the fields type, channel, processId, data and timestamp. No
  others are taken from it.
- An empty name would mean everybody: it comes from the channel for broadcasts alone.
"""

from __future__ import annotations

import datetime
import json
import re
import time
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

from ..errors import excerpt
from ..log import get_logger
from ..protocol.message import encode_fields, from_json, is_timestamp, parse_timestamp, timestamp
from ..protocol.names import is_channel_name, is_process_id
from .bus import Notice, NoticeKind
from .peers import Counts

__all__ = ["MAX_GO_BYTES", "GoBridge"]

logger = get_logger(__name__)

T = TypeVar("T", str, dict[str, Any])

MAX_GO_BYTES = 65_536  # of a body; and of a message, for a client that is written in Go
_MAX_TYPE = 256  # characters of a type: what begins messages is cached
_STRING = rb'"(?:[^"\\]|\\.)*"'
_HEAD = re.compile(
    rb'(\{"type":%b)(?:,"channel":(%b))?(?:,"processId":(%b))?' % (_STRING, _STRING, _STRING)
)
# What Go escapes, and the bytes that each of them takes more than here.
_ESCAPED = ((b"<", 5), (b">", 5), (b"&", 5), (b"\xe2\x80\xa8", 3), (b"\xe2\x80\xa9", 3))
_MOST_LONGER = 6  # times as long, at most
_ZERO = datetime.datetime(1, 1, 1, tzinfo=datetime.UTC)  # Go's time that was not set


class _NotForGo(Exception):
    """Go hubs, or their clients, would drop a message.

    Args:
        what: kind of the reason.
        shown: the reason.
    """

    def __init__(self, what: str, shown: str) -> None:
        super().__init__(what, shown)
        self.what, self.shown = what, shown


class GoBridge:
    """What one life of a backplane tells Go hubs, and hears of them.

    Args:
        prefix: the prefix of the application's channels.
        source: the name of this process, 32 hex digits.
        counts: what to count in.
        clock: seconds since 1970, for messages without a time.

    Attributes:
        patterns: of the channels to subscribe to.

    Threads: one; the sender and the listener have one each.
    """

    def __init__(
        self, prefix: str, source: str, counts: Counts, *, clock: Callable[[], float] = time.time
    ) -> None:
        self._broadcast = f"{prefix}:broadcast"
        self._channel = f"{prefix}:channel:"
        self.patterns = (self._broadcast, f"{self._channel}*")
        self._source = source
        self._begin = b'{"sourceId":"%b","message":' % source.encode()
        self._counts = counts
        self._clock = clock
        self._warned: set[str] = set()

    # --- the sender's thread -----------------------------------------------------------------

    def bodies(self, tail: bytes, number: int) -> Iterator[tuple[str, bytes]]:
        """Yield what Go hubs get of a notice: channels of the server, and bodies.

        That is nothing for a notice that is for hubs of this library alone. What Go hubs would
        drop is counted, and warned of once.

        Args:
            tail: what `notices.encode` has returned for the notice.
            number: of the notice.
        """
        line, *texts = tail.split(b"\n")
        fields = json.loads(b"{" + line[1:])
        if fields["kind"] != NoticeKind.PUBLISH or "key" in fields:
            return
        name = fields.get("name", "")
        channel = self._channel + name if name else self._broadcast
        for text in texts:
            try:
                yield channel, self._body(name, text, number)
            except _NotForGo as error:
                self._refuse(error)

    def _body(self, name: str, text: bytes, number: int) -> bytes:
        """Return the body of one message; raises _NotForGo."""
        if name and not is_channel_name(name):
            raise _NotForGo("channel", f"the channel {excerpt(name)}")
        _check_size(name, _size_from_go(text))
        found = _HEAD.match(text)
        message = text
        if found is not None:
            process = found[3]
            if process is not None and not is_process_id(process[1:-1].decode()):
                raise _NotForGo("process", f"the process id {excerpt(process.decode())}")
            if found[2] is not None and name:
                message = found[1] + text[found.end(2) :]
        body = b'%b%b,"n":%d}' % (self._begin, message, number)
        _check_size(name, len(body))
        return body

    def _refuse(self, error: _NotForGo) -> None:
        self._counts.go_refused += 1
        if error.what not in self._warned:
            self._warned.add(error.what)
            logger.warning(
                "a message reaches no client of a Go hub, which would not accept %s. From now on "
                "such messages are counted alone, as go_refused in hub.stats()",
                error.shown,
            )

    # --- the listener's thread ---------------------------------------------------------------

    def heard(self, channel: bytes, body: bytes) -> Notice | None:
        """Return the notice of what has come in a channel of Go hubs.

        None for what is of this process, or of another hub of this library, which tells it in
        another channel as well. Raises ValueError for what breaks the rules of Go hubs.
        """
        if body.startswith(self._begin):
            return None
        if not 0 < len(body) <= MAX_GO_BYTES:
            raise ValueError(f"{len(body)} bytes, at most {MAX_GO_BYTES} from a Go hub")
        try:
            envelope = from_json(body.decode())
        except RecursionError as error:
            raise ValueError(f"nested too deeply: {excerpt(body)}") from error
        if not isinstance(envelope, dict):
            raise ValueError(f"not a JSON object: {excerpt(body)}")
        number = envelope.get("n")
        if number is not None and type(number) is not int:
            raise ValueError(f"n is {excerpt(number)}")
        is_own = _field(envelope, "sourceId", "") == self._source
        if is_own or number is not None:
            return None
        name = self._name(channel.decode("ascii"))
        return Notice(NoticeKind.PUBLISH, name, (self._text(name, envelope),))

    def _name(self, channel: str) -> str:
        """Return the name of the channel that a channel of the server is for; "" for all."""
        if channel == self._broadcast:
            return ""
        name = channel[len(self._channel) :]
        if not channel.startswith(self._channel) or not is_channel_name(name):
            raise ValueError(f"not the name of a channel, in {excerpt(channel)}")
        return name

    def _text(self, name: str, envelope: dict[str, Any]) -> bytes:
        """Return the message of an envelope, as it is delivered here."""
        message = _field(envelope, "message", {})
        kind, process = _field(message, "type", ""), _field(message, "processId", "")
        channel, when = _field(message, "channel", ""), _field(message, "timestamp", "")
        if not 0 < len(kind) <= _MAX_TYPE:
            raise ValueError(f"no type of a message: {excerpt(kind)}")
        if process and not is_process_id(process):
            raise ValueError(f"not a process id: {excerpt(process)}")
        if channel and not name and not is_channel_name(channel):
            raise ValueError(f"not the name of a channel: {excerpt(channel)}")
        if when and not is_timestamp(when):
            raise ValueError(f"timestamp is {excerpt(when)}")
        if not when or parse_timestamp(when) == _ZERO:
            when = timestamp(self._clock())
        return encode_fields(kind, name or channel, process, message.get("data"), when)


def _field(fields: dict[str, Any], name: str, default: T) -> T:
    """Return a field as Go reads it: what is missing and what is null are its zero."""
    value = fields.get(name)
    if value is None:
        return default
    if type(value) is not type(default):
        raise ValueError(f"{name} is {excerpt(value)}")
    return value


def _check_size(name: str, size: int) -> None:
    if size > MAX_GO_BYTES:
        where = f"the channel {excerpt(name)}" if name else "all clients"
        raise _NotForGo("size", f"{size} bytes (at most {MAX_GO_BYTES}) in a message for {where}")


def _size_from_go(text: bytes) -> int:
    """Return the bytes of a message, about, when a Go hub sends it to its clients."""
    if len(text) * _MOST_LONGER <= MAX_GO_BYTES:
        return len(text)
    return len(text) + sum([text.count(what) * more for what, more in _ESCAPED])
