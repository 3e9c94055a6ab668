"""One message of the wire: its fields, its JSON encoding and its decoding.

The wire spelling (`processId`) is in this module and nowhere else. Rules of this file:

- The order of the fields, and which are left out, are those of the Go original (INTEROP):
  `type, channel, processId, data, timestamp`, then the extensions.
- A text that is not a message raises MessageDecodeError, never anything else: not
  RecursionError, not the ValueError of a 5,000-digit integer (FAULTS 22-26).
- Of duplicate keys the last wins, as in Go and in browsers (FAULTS 25).
"""

from __future__ import annotations

import contextlib
import datetime
import enum
import functools
import json
import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, NoReturn

from ..errors import MessageDecodeError, MessageEncodeError, excerpt
from .json_text import ToJson, to_json

__all__ = [
    "FINAL_STATUSES",
    "MAX_MESSAGE_BYTES",
    "STATUS_PREFIX",
    "AnyMessage",
    "Beside",
    "Encoder",
    "Message",
    "MessageType",
    "SubscribeMessage",
    "as_message",
    "begins_run",
    "decode",
    "encode",
    "encode_fields",
    "from_json",
    "is_key",
    "is_sample",
    "is_timestamp",
    "microseconds",
    "number",
    "parse_timestamp",
    "split_batch",
    "stream_text",
    "timestamp",
    "to_dict",
    "unnumbered",
]

# A process has ended when its status is one of these. Its `exitCode` is no sign of that: a Go hub
# always sends one.
FINAL_STATUSES = frozenset({"exited", "failed", "lost"})
STATUS_PREFIX = b'{"type":"process_status"'  # of an encoded status
# Below the default limit of ws_hub's own clients, with space for the `seq` that the hub may add.
MAX_MESSAGE_BYTES = 16_000_000

_EPOCH = datetime.datetime(1970, 1, 1, tzinfo=datetime.UTC)
_STREAM_TEXTS = {"stdout": "", "stderr": ',"stream":"stderr"'}
_MAX_ID = 128  # bytes
_MAX_KEY = 128  # bytes
_MAX_EXACT = 2**53  # a double represents every integer up to it exactly
_BAD_ID = "id must be a string of at most 128 bytes or an integer from -2^53 to 2^53"
_TIMESTAMP = re.compile(
    r"(\d{4}-\d\d-\d\d)[Tt](\d\d:\d\d:\d\d)(?:\.(\d{1,9}))?([Zz]|[+-]\d\d:[0-5]\d)\Z",
    re.ASCII,
)
# A text with at most so many brackets can be read at any stack depth, even if all are nested.
# Most texts have fewer.
_SAFE_DEPTH = 800
_SPARE_FRAMES = 50
_SURROGATE = re.compile(r"\\u[dD][89a-fA-F]")


class MessageType(enum.StrEnum):
    """The message types of the protocol. Any other string is an application's own type."""

    PROCESS_OUTPUT = "process_output"
    PROCESS_STATUS = "process_status"
    EVENT = "event"
    ERROR = "error"
    PING = "ping"
    PONG = "pong"
    SUBSCRIBE = "subscribe"
    UNSUBSCRIBE = "unsubscribe"
    PUBLISH = "publish"
    HISTORY = "history"
    ACK = "ack"
    LAGGED = "lagged"
    SKIP = "skip"
    HISTORY_GAP = "history_gap"
    PRESENCE = "presence"
    AUTH = "auth"
    ASK = "ask"
    PROCESS_CONTROL = "process_control"
    PROCESS_HOLD = "process_hold"
    PROCESS_INPUT = "process_input"
    PROCESS_RESIZE = "process_resize"
    PROCESS_SIGNAL = "process_signal"


@dataclass(frozen=True, slots=True)
class Message:
    """One message of the wire, incoming or outgoing. Immutable.

    Args:
        type: a MessageType or an application's own string.
        channel: the channel of the message; "" for none.
        process_id: the process of the message; "" for none.
        data: any JSON value; None is left out on the wire.
        timestamp: RFC 3339 text; the sending hub replaces "" by the present time.
        id: ties a reply to its request (PROTOCOL, Replies).
        code: the kind of error, in an `error` reply.
        seq: position in a channel that keeps history, from 1.
        epoch: the numbering that `seq` and `since` belong to.
        since: in `subscribe`: replay the messages after this `seq`; 0 for all that are kept.
        last: in `subscribe`: replay this many of the newest messages.
        since_time: in `subscribe`: replay the messages from this time on, RFC 3339 text.
        before: in `history`: the newest messages below this `seq`.
        limit: in `history`: messages of one answer at most.
        idempotency_key: in `publish`: the same in a repetition, which does not count again.
        key: what the message is the newest state of, in a keyed channel; "" for nothing.
            Without data it deletes the key.
        line: in `process_output`: the number of the line in its program's output, from 1; what
            comes later with the same number replaces it. 0 is the program's status row.
        stream: in `process_output`: "stderr"; "" or "stdout" for the standard output.
        time: in `process_output`: when it was read, in microseconds since 1970, where that was
            not at its `timestamp`. See `read_at`.

    Threads: any; immutable, unless its data is changed.
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
    since_time: str = ""
    before: int | None = None
    limit: int | None = None
    idempotency_key: str = ""
    key: str = ""
    line: int | None = None
    stream: str = ""
    time: int | None = None

    @property
    def read_at(self) -> datetime.datetime | None:
        """When the hub has read it from its program, to the microsecond, in UTC.

        Its `time`, or else its `timestamp`; None without any, and for one that is no moment.
        """
        try:
            if self.time is None:
                return parse_timestamp(self.timestamp).astimezone(datetime.UTC)
            return _EPOCH + datetime.timedelta(microseconds=self.time)
        except (ValueError, OverflowError):
            return None

    @property
    def target(self) -> str | None:
        """The channel that a subscribe or unsubscribe names; None when it names none.

        `channel` takes precedence; the Go original's first release knew `data` only.
        """
        if self.channel:
            return self.channel
        return self.data if isinstance(self.data, str) else None


@dataclass(frozen=True, slots=True)
class SubscribeMessage(Message):
    """A `subscribe` with a filter. A type of its own: all others are made without the field.

    Args:
        filter: the values that fields of the data may have, as JSON; not checked here.
    """

    filter: Any = None


AnyMessage = Message | Mapping[str, Any]  # what `as_message` accepts

_NAMES = {name: name for name in Message.__slots__} | {
    "processId": "process_id",
    "idempotencyKey": "idempotency_key",
}
_EXAMPLE = (
    '{"type": "event", "data": {"event": "saved", "data": 1}}, or call send_event(name, data)'
)


def as_message(value: object) -> Message:
    """Return a message for one, or for a mapping of its fields.

    A mapping has a `type`, and other fields by the names that `Message` or the wire gives
    them. Raises MessageEncodeError for any other mapping, TypeError for what is neither.
    """
    if isinstance(value, Message):
        return value
    if not isinstance(value, Mapping):
        raise TypeError(
            f"a message must be a Message or a mapping, not {excerpt(value)}: pass {_EXAMPLE}"
        )
    fields: dict[str, Any] = {}
    for key, found in value.items():
        name = _NAMES.get(key) if isinstance(key, str) else None
        if name is None:
            known = ", ".join(_NAMES)
            raise _no_message(value, f"{excerpt(key)} is none of its fields ({known})")
        if name in fields:
            raise _no_message(value, f"{name} is there twice")
        fields[name] = found
    if "type" not in fields:
        raise _no_message(value, "it has no type")
    return Message(**fields)


def _no_message(value: object, fault: str) -> MessageEncodeError:
    return MessageEncodeError(f"{excerpt(value)} is no message, {fault}: pass {_EXAMPLE}")


# --- time ----------------------------------------------------------------------------------


def is_sample(data: object) -> bool:
    """Return whether the data of a status say what a program uses that runs, and nothing new."""
    return isinstance(data, dict) and data.get("status") == "running" and "usage" in data


def timestamp(seconds: float) -> str:
    """Format POSIX seconds as the wire does: RFC 3339, UTC, microseconds."""
    second, micro = divmod(microseconds(seconds), 1_000_000)
    return f"{_format_second(second)}.{micro:06d}Z"


def microseconds(seconds: float) -> int:
    """Return POSIX seconds as whole microseconds, the nearest ones."""
    second = int(seconds // 1)  # apart from the rest, whose digits are then exact
    return second * 1_000_000 + round((seconds - second) * 1_000_000)


@functools.lru_cache(16)
def _format_second(second: int) -> str:
    moment = datetime.datetime.fromtimestamp(second, datetime.UTC)
    return moment.strftime("%Y-%m-%dT%H:%M:%S")


def is_timestamp(text: str) -> bool:
    """Return whether every receiver can read a time: Go is stricter than `parse_timestamp`.

    Go silently drops a message with a `timestamp` that it cannot parse.
    """
    try:
        parse_timestamp(text)
    except ValueError:
        return False
    return text[10] == "T" and not text.endswith("z")


def parse_timestamp(text: str) -> datetime.datetime:
    """Parse an RFC 3339 time with any offset; fractions are cut to microseconds.

    Not `fromisoformat`, which takes neither `Z` nor Go's nine fraction digits before Python
    3.11. Raises ValueError.
    """
    match = _TIMESTAMP.match(text)
    if match is None:
        raise ValueError(f"not an RFC 3339 time: {excerpt(text)}")
    day, clock, fraction, zone = match.groups()
    micro = (fraction or "0")[:6].ljust(6, "0")
    offset = "+00:00" if zone in "Zz" else zone
    return datetime.datetime.fromisoformat(f"{day}T{clock}.{micro}{offset}")


# --- encoding ------------------------------------------------------------------------------


@functools.lru_cache(4096)
def _leading_fields(kind: str, channel: str, process_id: str) -> str:
    """Return the beginning of a message's JSON text, cached: most messages share theirs."""
    for name, text in (("type", kind), ("channel", channel), ("process_id", process_id)):
        if not isinstance(text, str):
            raise TypeError(f"{name} must be text, not {type(text).__name__}")
    if not kind:
        raise ValueError("type must not be empty")
    parts = ['{"type":', to_json(kind)]
    if channel != "":
        parts += ',"channel":', to_json(channel)
    if process_id != "":
        parts += ',"processId":', to_json(process_id)
    return "".join(parts)


def _has_extensions(message: Message) -> bool:
    """Return whether a message has any of the extension fields, which few have."""
    return not (
        message.id is message.seq is message.since is message.last is None
        and message.before is message.limit is message.line is message.time is None
        # Compared, because what is no text may be false as well.
        and message.code == message.epoch == message.since_time == message.stream == ""
        and message.idempotency_key == message.key == ""
        and message.__class__ is not SubscribeMessage
    )


def _extension_fields(message: Message) -> str:
    """Return the JSON of the extension fields."""
    if not _has_extensions(message):
        return ""
    return "".join(
        f',"{key}":{to_json(value)}'
        for key, value in (
            ("key", message.key or None),
            ("id", message.id),
            ("code", message.code or None),
            ("epoch", message.epoch or None),
            ("stream", None if message.stream in ("", "stdout") else message.stream),
            ("time", message.time),
            ("line", message.line),
            ("seq", message.seq),
            ("since", message.since),
            ("last", message.last),
            ("since_time", message.since_time or None),
            ("before", message.before),
            ("limit", message.limit),
            ("idempotencyKey", message.idempotency_key or None),
            ("filter", getattr(message, "filter", None)),
        )
        if value is not None
    )


_TEXTS = ("type", "channel", "process_id", "timestamp")
_EXTENSION_TEXTS = ("code", "epoch", "since_time", "idempotency_key", "key", "stream")
_NUMBERS = ("seq", "since", "last", "before", "limit", "line", "time")


def _invalid_field(message: Message, is_process: Callable[[str], bool] | None) -> str:
    """Return the reason why a receiver would drop a message, naming the field; "" for none."""
    for name in _TEXTS:
        if not isinstance(getattr(message, name), str):
            return f"{name} must be text, not {excerpt(getattr(message, name))}"
    if not message.type:
        return "type must not be empty"
    if message.timestamp and not is_timestamp(message.timestamp):
        return f"timestamp must be an RFC 3339 time, not {excerpt(message.timestamp)}"
    if message.process_id and is_process is not None and not is_process(message.process_id):
        return f"process id {excerpt(message.process_id)} is refused"
    return _invalid_extension(message) if _has_extensions(message) else ""


def _invalid_extension(message: Message) -> str:
    for name in _EXTENSION_TEXTS:
        if not isinstance(getattr(message, name), str):
            return f"{name} must be text, not {excerpt(getattr(message, name))}"
    for name in _NUMBERS:
        value = getattr(message, name)
        if value is not None and (not isinstance(value, int) or isinstance(value, bool)):
            return f"{name} must be a whole number, not {excerpt(value)}"
    if message.id is not None and not _is_id(message.id):
        return _BAD_ID
    if message.stream and message.stream not in _STREAM_TEXTS:
        return f'stream must be "stdout" or "stderr", not {excerpt(message.stream)}'
    if message.key and not is_key(message.key):
        return f"key {excerpt(message.key)} must be at most {_MAX_KEY} bytes of UTF-8"
    return ""


def stream_text(stream: object) -> str:
    """Return the JSON text of the field `stream`; "" for the standard output, which has none.

    Raises MessageEncodeError for what is no stream.
    """
    found = _STREAM_TEXTS.get(stream) if isinstance(stream, str) else None
    if found is None:
        raise MessageEncodeError(
            "cannot encode process_output message: stream must be "
            f'"stdout" or "stderr", not {excerpt(stream)}'
        )
    return found


class Beside(NamedTuple):
    """What messages of a program's output have beside their data.

    Args:
        lines: the number of the line of each; None where they have none.
        stream: what `stream_text` returns.
        times: by their places, when those were read that were not read at their timestamp.
    """

    lines: Sequence[int] | None = None
    stream: str = ""
    times: Mapping[int, int] = {}  # noqa: RUF012

    def tail(self, at: int) -> str:
        """Return the JSON text of these fields of the message at a place."""
        time = f',"time":{self.times[at]}' if at in self.times else ""
        line = "" if self.lines is None else f',"line":{self.lines[at]}'
        return f"{self.stream}{time}{line}"


class Encoder:
    """Encodes messages: a hub has one, and so has everything that publishes without a hub.

    Args:
        to_json: encodes the data of a message.
        is_process: the rule for process ids, if they are to be checked.
    """

    __slots__ = ("_to_json", "is_process")

    def __init__(
        self, to_json: ToJson = to_json, is_process: Callable[[str], bool] | None = None
    ) -> None:
        self._to_json = to_json
        self.is_process = is_process

    def encode(self, message: Message, seconds: float | None = None, channel: str = "") -> bytes:
        """Return the message as one JSON object in UTF-8.

        A message without a timestamp gets `seconds` (POSIX), and one without a channel
        `channel`, if given: a copy that has them would cost more than the encoding. Raises
        MessageEncodeError when a field has no JSON form or makes receivers drop the message:
        an invalid type, time, or id.

        Threads: any; calls `json_default`.
        """
        fault = _invalid_field(message, self.is_process)
        if fault:
            raise MessageEncodeError(f"cannot encode {excerpt(message.type)} message: {fault}")
        return self.write(message, "" if seconds is None else timestamp(seconds), channel)

    def encode_listing(
        self, message: Message, name: str, texts: Sequence[bytes], seconds: float
    ) -> bytes:
        """Encode a message whose data, an object with fields, has encoded messages as the last one.

        They are not decoded for that. Raises MessageEncodeError.

        Threads: any; calls `json_default`.
        """
        data = self.data_text(message.data, f"{message.type} data")
        begin, middle, end = self.encode(message, seconds).partition(b',"data":')
        for text in texts:
            if text.count(b"[") + text.count(b"{") > _SAFE_DEPTH:
                try:
                    _check_depth(text.decode(), _SPARE_FRAMES)
                except Exception as error:  # noqa: BLE001 - as in `encode_fields`
                    raise _encode_error(message.type, excerpt(text), error) from error
        head = data.removesuffix("}").encode()
        listed = b'%s,"%s":[%s]}' % (head, name.encode(), b",".join(texts))
        return begin + middle + listed + end[len(data.encode()) :]

    def write(self, message: Message, now: str = "", channel: str = "") -> bytes:
        """Return the JSON object of a message whose fields are not checked.

        Threads: any; calls `json_default`.
        """
        try:
            tail = _extension_fields(message)
        except Exception as error:  # noqa: BLE001 - a user's class may raise anything
            raise _encode_error(message.type, message.data, error) from error
        return self.encode_fields(
            message.type,
            message.channel or channel,
            message.process_id,
            message.data,
            message.timestamp or now,
            tail,
        )

    def encode_fields(
        self,
        kind: str,
        channel: str,
        process_id: str,
        data: Any,
        timestamp: str,
        tail: str = "",
    ) -> bytes:
        """Encode a message from its fields, as one JSON object in UTF-8.

        Publishing uses this, because building a Message costs more than encoding it. `tail`
        is JSON text that follows these fields. Raises MessageEncodeError.

        Threads: any; calls `json_default`.
        """
        try:
            text = _leading_fields(kind, channel, process_id)
            if data is not None:
                # Of a plain text no encoder makes another, and this one takes the least time.
                to_text = to_json if data.__class__ is str else self._to_json
                text += f',"data":{to_text(data)}'
            if timestamp:
                if not isinstance(timestamp, str):
                    raise TypeError("timestamp must be text")
                text += f',"timestamp":{to_json(timestamp)}'
            text = f"{text}{tail}}}"
            if len(text) > _SAFE_DEPTH and text.count("[") + text.count("{") > _SAFE_DEPTH:
                _check_depth(text, _SPARE_FRAMES)
            return text.encode()
        except Exception as error:  # noqa: BLE001 - a user's class may raise anything
            raise _encode_error(kind, data, error) from error

    def encode_each(
        self,
        kind: str,
        channel: str,
        process_id: str,
        several: Sequence[Any],
        timestamp: str,
        beside: Beside | None = None,
    ) -> list[bytes]:
        """Encode messages that differ in their data alone, each as by `encode_fields`.

        What is the same in all of them is encoded once, where each is a plain text: lines.
        `beside` is what stands beside the data of each.

        Threads: any; calls `json_default`.
        """
        beside = Beside() if beside is None else beside
        if {*map(type, several)} == {str}:
            begin = _leading_fields(kind, channel, process_id)
            end = f',"timestamp":{to_json(timestamp)}'
            with contextlib.suppress(UnicodeEncodeError):  # to be met again, and reported, below
                found = _each(begin, several, f"{end}{beside.stream}", beside.lines)
                for at in beside.times:
                    text = to_json(several[at])
                    found[at] = f'{begin},"data":{text}{end}{beside.tail(at)}}}'.encode()
                return found
        return [
            self.encode_fields(kind, channel, process_id, each, timestamp, beside.tail(at))
            for at, each in enumerate(several)
        ]

    def data_text(self, data: object, what: str) -> str:
        """Return data as JSON text; raises MessageEncodeError, which names it by `what`.

        Threads: any; calls `json_default`.
        """
        try:
            text = self._to_json(data)
            text.encode()
            return text
        except Exception as error:  # noqa: BLE001 - a user's class may raise anything
            raise MessageEncodeError(f"cannot encode {what}, {excerpt(data)}: {error}") from error


def _each(begin: str, several: Sequence[str], end: str, lines: Sequence[int] | None) -> list[bytes]:
    """Return the messages of texts, between what is the same in all of them."""
    if lines is None:
        end += "}"
        return [f'{begin},"data":{to_json(each)}{end}'.encode() for each in several]
    end += ',"line":'
    return [
        f'{begin},"data":{to_json(each)}{end}{line}}}'.encode()
        for each, line in zip(several, lines, strict=True)
    ]


_encoder = Encoder()
encode, encode_fields = _encoder.encode, _encoder.encode_fields


def _check_depth(text: str, frames: int) -> None:
    """Parse a text with `frames` more frames on the stack; raises RecursionError if too deep.

    A text that one thread could just encode might be too deep for another thread to decode.
    """
    if frames:
        _check_depth(text, frames - 1)
    else:
        from_json(text)


def _encode_error(kind: str, data: Any, error: Exception) -> MessageEncodeError:
    return MessageEncodeError(
        f"cannot encode {excerpt(kind)} message with data {excerpt(data)}: {error}"
    )


def number(text: bytes, seq: int) -> bytes:
    """Return an encoded message with its `seq` added.

    The hub numbers a message when it dispatches it, long after the publishing thread has
    encoded it, and must not encode it a second time.
    """
    return b'%b,"seq":%d}' % (text[:-1], seq)


def begins_run(text: bytes) -> bool:
    """Return whether an encoded message says that a program has been started.

    Threads: any.
    """
    if not text.startswith(STATUS_PREFIX):  # nearly always
        return False
    data = json.loads(text).get("data")
    # With `usage` it is a sample of a program that runs.
    return isinstance(data, dict) and data.get("status") == "running" and "usage" not in data


def unnumbered(text: bytes, seq: int) -> bytes:
    """Return a message without the `seq` that `number` has added."""
    return text.removesuffix(b',"seq":%d}' % seq) + b"}"


# --- decoding ------------------------------------------------------------------------------


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")


def _parse_finite(digits: str) -> float:
    value = float(digits)
    if not math.isfinite(value):  # 1e999 (FAULTS 24)
        raise ValueError("number out of range")
    return value


# Parses one JSON text. Raises ValueError for what is none, NaN and numbers that are too large
# included, and RecursionError.
from_json = json.JSONDecoder(parse_constant=_refuse_constant, parse_float=_parse_finite).decode


def decode(text: str, *, any_case: bool = False) -> Message:
    """Decode one message.

    Fields that a message of this type does not use are kept; unknown fields are ignored, so
    that both sides can be extended. `any_case` accepts keys in any case, as Go's
    `encoding/json` does: of several keys for one field the last counts.

    Raises MessageDecodeError, with the peer's `id` if it could be read.
    """
    try:
        value = _from_json_folded(text) if any_case else from_json(text)
        if _SURROGATE.search(text):
            # A lone surrogate has no UTF-8 form: refused here, not in the thread that would
            # forward it (FAULTS 26). A proper pair passes.
            to_json(value).encode()
    except (ValueError, RecursionError) as error:
        raise MessageDecodeError(f"invalid JSON: {_describe_error(error)}") from error
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
    type = fields.get("type")
    if not type:
        raise MessageDecodeError("type is required", id=id)
    if type == "process_output":
        # Of other types they are fields of an application's own, which are ignored.
        stream, time = value.get("stream"), value.get("time")
        if isinstance(stream, str):
            fields["stream"] = stream
        if isinstance(time, int) and not isinstance(time, bool):
            fields["time"] = time
    if type == "subscribe" and value.get("filter") is not None:
        return SubscribeMessage(data=value.get("data"), id=id, filter=value["filter"], **fields)
    return Message(data=value.get("data"), id=id, **fields)


def is_key(text: str) -> bool:
    """Return whether a text may be the key of a message: 1 to 128 bytes of UTF-8."""
    return 0 < len(text) <= _MAX_KEY >= len(text.encode(errors="surrogatepass"))


def _is_id(value: object) -> bool:
    """Return whether a value may be the `id` of a request, which its reply repeats.

    So it is short, and an integer must be one that every peer reads exactly.
    """
    if isinstance(value, str):
        return len(value) <= _MAX_ID >= len(value.encode(errors="surrogatepass"))
    return (
        isinstance(value, int)
        and not isinstance(value, bool)
        and -_MAX_EXACT <= value <= _MAX_EXACT
    )


def _from_json_folded(text: str) -> Any:
    """Parse JSON; the keys of the outermost object may be in any case."""
    outermost: list[tuple[str, Any]] = []

    def keep(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        outermost[:] = pairs  # objects are completed inside out: the outermost is last
        return dict(pairs)

    value = json.loads(
        text, parse_constant=_refuse_constant, parse_float=_parse_finite, object_pairs_hook=keep
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
    "key": ("key", str),
    "seq": ("seq", int),
    "since": ("since", int),
    "last": ("last", int),
    "since_time": ("since_time", str),
    "before": ("before", int),
    "limit": ("limit", int),
    "line": ("line", int),
    "idempotencyKey": ("idempotency_key", str),
}
_KEYS = {key.casefold(): key for key in (*_FIELDS, "id", "data", "filter")}
_KINDS = {str: "string", int: "whole number"}


def _describe_error(error: BaseException) -> str:
    """Describe a parse error to the peer without repeating anything that the peer sent."""
    if isinstance(error, json.JSONDecodeError):
        return f"{error.msg} at character {error.pos}"
    if isinstance(error, RecursionError):
        return "nested too deeply"
    if isinstance(error, UnicodeError):
        return "a lone surrogate"
    return "a number is out of range"


def to_dict(message: Message) -> dict[str, Any]:
    """Return the message as its JSON object, for a person or a program to read."""
    # without `encode`'s checks: a received message may fail them
    value: dict[str, Any] = json.loads(_encoder.write(message))
    return value


def split_batch(text: str) -> Iterator[str]:
    """Yield the messages of one text frame.

    A Go hub joins queued messages with a newline, which never occurs inside JSON text
    (INTEROP). Empty pieces are left out.
    """
    for piece in text.split("\n"):
        if piece and not piece.isspace():
            yield piece
