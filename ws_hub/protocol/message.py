"""One message: its fields, and its JSON text in and out.

Must not know frames, sockets, or who receives. The wire spelling (`processId`)
lives here and nowhere else. Rules of this file:

- The field order and what is left out are those of the Go original (INTEROP):
  `type, channel, processId, data, timestamp`, then our extensions.
- A text that is not a message raises MessageDecodeError, never anything else:
  not RecursionError, not the ValueError of a 5,000-digit integer (FAULTS 22-26).
- Of duplicate keys the last wins, as in Go and in browsers (FAULTS 25).
"""

from __future__ import annotations

import datetime
import enum
import functools
import json
import math
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, NoReturn

from ..errors import MessageDecodeError, MessageEncodeError, excerpt

__all__ = [
    "FINAL_STATUSES",
    "MAX_MESSAGE_BYTES",
    "Message",
    "MessageType",
    "decode",
    "encode",
    "encode_fields",
    "is_timestamp",
    "number",
    "parse_timestamp",
    "split_batch",
    "timestamp",
    "to_dict",
]

# What tells that a process is over; an `exitCode` does not: a Go hub sends one always.
FINAL_STATUSES = frozenset({"exited", "failed", "lost"})
# Below what our clients take by default, beside the number that the hub may add.
MAX_MESSAGE_BYTES = 16_000_000

_MAX_ID = 128  # bytes
_EXACT = 2**53  # up to it a double holds every integer
_BAD_ID = "id must be a string of at most 128 bytes or an integer from -2^53 to 2^53"
_TIMESTAMP = re.compile(
    r"(\d{4}-\d\d-\d\d)[Tt](\d\d:\d\d:\d\d)(?:\.(\d{1,9}))?([Zz]|[+-]\d\d:[0-5]\d)\Z",
    re.ASCII,
)
# Brackets that may all be nested: so deep every thread can read, and most texts have fewer.
_SAFE_DEPTH = 800
_DEPTH_TO_SPARE = 50
_SURROGATE = re.compile(r"\\u[dD][89a-fA-F]")


class MessageType(enum.StrEnum):
    """The message types of the wire. Any other string is an application's own type."""

    PROCESS_OUTPUT = "process_output"
    PROCESS_STATUS = "process_status"
    EVENT = "event"
    ERROR = "error"
    PING = "ping"
    PONG = "pong"
    SUBSCRIBE = "subscribe"
    UNSUBSCRIBE = "unsubscribe"
    PUBLISH = "publish"
    ACK = "ack"
    LAGGED = "lagged"
    AUTH = "auth"


@dataclass(frozen=True, slots=True)
class Message:
    """One message of the wire, in or out.

    Args:
        type: what it is: a MessageType or an application's own string.
        channel: the channel it belongs to; "" for none.
        process_id: the process it belongs to; "" for none.
        data: any JSON value; None is left out on the wire.
        timestamp: RFC 3339 text; "" lets the sending hub fill it in.
        id: ties a reply to its request (PROTOCOL, Replies).
        code: what kind of error, in an `error` reply.
        seq: position in a channel that keeps history, from 1.
        epoch: which numbering `seq` and `since` belong to.
        since: in `subscribe`: send what came after this `seq`; 0 for all that is kept.
        last: in `subscribe`: send this many of the newest messages.
    """

    type: str
    channel: str = ""
    process_id: str = ""
    data: Any = None
    timestamp: str = ""
    id: str | int | None = None
    code: str = ""
    seq: int | None = None
    epoch: str = ""
    since: int | None = None
    last: int | None = None

    @property
    def target(self) -> str | None:
        """The channel that a subscribe or unsubscribe names; None when it names none.

        `channel` wins; the Go original's first release knew `data` only.
        """
        if self.channel:
            return self.channel
        return self.data if isinstance(self.data, str) else None


# --- time ----------------------------------------------------------------------------------


def timestamp(seconds: float) -> str:
    """Write a POSIX time as the wire has it: RFC 3339, UTC, microseconds."""
    second = int(seconds // 1)
    micro = round((seconds - second) * 1_000_000)
    if micro == 1_000_000:
        second, micro = second + 1, 0
    return f"{_to_the_second(second)}.{micro:06d}Z"


@functools.lru_cache(16)
def _to_the_second(second: int) -> str:
    moment = datetime.datetime.fromtimestamp(second, datetime.UTC)
    return moment.strftime("%Y-%m-%dT%H:%M:%S")


def is_timestamp(text: str) -> bool:
    """Say whether every receiver can read a time: Go is stricter than `parse_timestamp`.

    It drops a message whose `timestamp` it cannot read, in silence.
    """
    try:
        parse_timestamp(text)
    except ValueError:
        return False
    return text[10] == "T" and not text.endswith("z")


def parse_timestamp(text: str) -> datetime.datetime:
    """Read an RFC 3339 time with any offset; fractions are cut to microseconds.

    A parser of our own because `fromisoformat` takes neither `Z` nor Go's nine
    fraction digits before Python 3.11. Raises ValueError.
    """
    match = _TIMESTAMP.match(text)
    if match is None:
        raise ValueError(f"not an RFC 3339 time: {excerpt(text)}")
    day, clock, fraction, zone = match.groups()
    micro = (fraction or "0")[:6].ljust(6, "0")
    offset = "+00:00" if zone in "Zz" else zone
    return datetime.datetime.fromisoformat(f"{day}T{clock}.{micro}{offset}")


# --- out -----------------------------------------------------------------------------------

_to_json = json.JSONEncoder(ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode


@functools.lru_cache(4096)
def _head(kind: str, channel: str, process_id: str) -> str:
    """Return a message's beginning; the same ones come again and again."""
    for name, text in (("type", kind), ("channel", channel), ("process_id", process_id)):
        if not isinstance(text, str):
            raise TypeError(f"{name} must be text, not {type(text).__name__}")
    if not kind:
        raise ValueError("type must not be empty")
    parts = ['{"type":', _to_json(kind)]
    if channel != "":
        parts += ',"channel":', _to_json(channel)
    if process_id != "":
        parts += ',"processId":', _to_json(process_id)
    return "".join(parts)


def _tail(message: Message) -> str:
    """Return the fields of a message that hardly any has."""
    if (
        message.id is message.seq is message.since is message.last is None
        and not message.code
        and not message.epoch
    ):
        return ""
    return "".join(
        f',"{key}":{_to_json(value)}'
        for key, value in (
            ("id", message.id),
            ("code", message.code or None),
            ("epoch", message.epoch or None),
            ("seq", message.seq),
            ("since", message.since),
            ("last", message.last),
        )
        if value is not None
    )


_TEXTS = ("type", "channel", "process_id", "timestamp", "code", "epoch")
_NUMBERS = ("seq", "since", "last")


def _fault_of(message: Message, is_process: Callable[[str], bool] | None) -> str:
    """Say for which of its fields a receiver would drop a message; "" for none."""
    for name in _TEXTS:
        if not isinstance(getattr(message, name), str):
            return f"{name} must be text, not {excerpt(getattr(message, name))}"
    if not message.type:
        return "type must not be empty"
    if message.timestamp and not is_timestamp(message.timestamp):
        return f"timestamp must be an RFC 3339 time, not {excerpt(message.timestamp)}"
    if message.process_id and is_process is not None and not is_process(message.process_id):
        return f"process id {excerpt(message.process_id)} is refused"
    for name in _NUMBERS:
        value = getattr(message, name)
        if value is not None and (not isinstance(value, int) or isinstance(value, bool)):
            return f"{name} must be a whole number, not {excerpt(value)}"
    if message.id is not None and not _is_id(message.id):
        return _BAD_ID
    return ""


def encode(
    message: Message,
    seconds: float | None = None,
    is_process: Callable[[str], bool] | None = None,
) -> bytes:
    """Return the message as one JSON object in UTF-8.

    One without a timestamp gets that of the POSIX time, if one is given. Raises
    MessageEncodeError when a field has no JSON form, or one for which receivers would drop
    the message: a type, a time, an id that is none. `is_process` is the rule for process
    ids, where one is to hold.
    """
    fault = _fault_of(message, is_process)
    if fault:
        raise MessageEncodeError(f"cannot encode {excerpt(message.type)} message: {fault}")
    return _write(message, "" if seconds is None else timestamp(seconds))


def _write(message: Message, now: str = "") -> bytes:
    try:
        tail = _tail(message)
    except Exception as error:  # noqa: BLE001 - a class of the user's may raise anything
        raise _no_json(message.type, message.data, error) from error
    return encode_fields(
        message.type,
        message.channel,
        message.process_id,
        message.data,
        message.timestamp or now,
        tail,
    )


def encode_fields(
    kind: str, channel: str, process_id: str, data: Any, timestamp: str, tail: str = ""
) -> bytes:
    """Return a message of these fields as one JSON object in UTF-8.

    What the hub publishes needs no Message, whose making costs more than its encoding.
    `tail` is JSON that follows them. Raises MessageEncodeError.
    """
    try:
        text = _head(kind, channel, process_id)
        if data is not None:
            text += f',"data":{_to_json(data)}'
        if timestamp:
            if not isinstance(timestamp, str):
                raise TypeError("timestamp must be text")
            text += f',"timestamp":{_to_json(timestamp)}'
        text = f"{text}{tail}}}"
        if len(text) > _SAFE_DEPTH and text.count("[") + text.count("{") > _SAFE_DEPTH:
            _read_deep_down(text, _DEPTH_TO_SPARE)
        return text.encode()
    except Exception as error:  # noqa: BLE001 - a class of the user's may raise anything
        raise _no_json(kind, data, error) from error


def _read_deep_down(text: str, frames: int) -> None:
    """Read a text with so many frames on the stack; raise RecursionError when it is too deep.

    What one thread could just so write, another one could not read again.
    """
    if frames:
        _read_deep_down(text, frames - 1)
    else:
        _from_json(text)


def _no_json(kind: str, data: Any, error: Exception) -> MessageEncodeError:
    return MessageEncodeError(
        f"cannot encode {excerpt(kind)} message with data {excerpt(data)}: {error}"
    )


def number(text: bytes, seq: int) -> bytes:
    """Return an encoded message with its `seq` added.

    The hub numbers a message when it dispatches it, long after the publishing
    thread has encoded it, and must not encode it a second time.
    """
    return b'%b,"seq":%d}' % (text[:-1], seq)


# --- in ------------------------------------------------------------------------------------


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")


def _finite(digits: str) -> float:
    value = float(digits)
    if not math.isfinite(value):  # 1e999 (FAULTS 24)
        raise ValueError("number out of range")
    return value


_from_json = json.JSONDecoder(parse_constant=_refuse_constant, parse_float=_finite).decode


def decode(text: str, *, any_case: bool = False) -> Message:
    """Read one message.

    Raises MessageDecodeError, with the peer's `id` when that much could be read.
    Fields that a message of this type does not use are kept; unknown ones are
    ignored, so that both sides may be extended. `any_case` takes keys in any case, as
    Go's `encoding/json` does: of all that mean one field the last counts.
    """
    try:
        value = _from_json_folded(text) if any_case else _from_json(text)
        if _SURROGATE.search(text):
            # A lone surrogate has no UTF-8 form: refused here, not in the thread of
            # whoever would pass it on (FAULTS 26). A proper pair passes.
            _to_json(value).encode()
    except (ValueError, RecursionError) as error:
        raise MessageDecodeError(f"invalid JSON: {_why(error)}") from error
    if not isinstance(value, dict):
        raise MessageDecodeError("a message must be a JSON object")
    id = value.get("id")
    if id is not None and not _is_id(id):
        raise MessageDecodeError(_BAD_ID)

    fields: dict[str, Any] = {}
    for key, found in value.items():
        name, kind = _FIELDS.get(key, ("", object))
        if not name or found is None:
            continue
        if not isinstance(found, kind) or isinstance(found, bool):
            raise MessageDecodeError(f"{key} must be a {_KINDS[kind]}", id=id)
        fields[name] = found
    if not fields.get("type"):
        raise MessageDecodeError("type is required", id=id)
    return Message(data=value.get("data"), id=id, **fields)


def _is_id(value: object) -> bool:
    """Say whether a value may tie a reply to its request: it comes back with that reply.

    So it is short, and an integer is one that every peer can read exactly.
    """
    if isinstance(value, str):
        return len(value) <= _MAX_ID >= len(value.encode(errors="surrogatepass"))
    return isinstance(value, int) and not isinstance(value, bool) and -_EXACT <= value <= _EXACT


def _from_json_folded(text: str) -> Any:
    """Read JSON whose outermost keys may be of any case."""
    outermost: list[tuple[str, Any]] = []

    def keep(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        outermost[:] = pairs  # the last that is read is the outermost
        return dict(pairs)

    value = json.loads(
        text, parse_constant=_refuse_constant, parse_float=_finite, object_pairs_hook=keep
    )
    if not isinstance(value, dict):
        return value
    return {_KEYS.get(key.casefold(), key): found for key, found in outermost}


_FIELDS: dict[str, tuple[str, type]] = {
    "type": ("type", str),
    "channel": ("channel", str),
    "processId": ("process_id", str),
    "timestamp": ("timestamp", str),
    "code": ("code", str),
    "epoch": ("epoch", str),
    "seq": ("seq", int),
    "since": ("since", int),
    "last": ("last", int),
}
_KEYS = {key.casefold(): key for key in (*_FIELDS, "id", "data")}
_KINDS = {str: "string", int: "whole number"}


def _why(error: BaseException) -> str:
    """A sentence for the peer that repeats nothing of what it sent."""
    if isinstance(error, json.JSONDecodeError):
        return f"{error.msg} at character {error.pos}"
    if isinstance(error, RecursionError):
        return "nested too deeply"
    if isinstance(error, UnicodeError):
        return "a lone surrogate"
    return "a number is out of range"


def to_dict(message: Message) -> dict[str, Any]:
    """Return the message as its JSON object, for a person or a program to read."""
    value: dict[str, Any] = json.loads(_write(message))  # as it came, with what we would not send
    return value


def split_batch(text: str) -> Iterator[str]:
    """Yield the messages of one text frame.

    A Go hub joins queued messages with a newline, which never occurs inside JSON
    text (INTEROP). Empty pieces are left out.
    """
    for piece in text.split("\n"):
        if piece and not piece.isspace():
            yield piece
