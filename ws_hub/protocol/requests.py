"""Decodes a client's text message into a request, a value that the hub carries out.

The error texts are the Go original's (INTEROP); `id`, `code` and `channel` accompany them.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable
from dataclasses import dataclass

from ..errors import HubError, MessageDecodeError, excerpt
from ..validation import is_terminal_length
from .filters import Filter, filter_of
from .message import Message, MessageType, SubscribeMessage, decode, is_key, parse_timestamp
from .names import PROCESS_PREFIX

__all__ = [
    "ACTIONS",
    "ASK_ID",
    "Control",
    "Effect",
    "Id",
    "Other",
    "Publish",
    "ReadHistory",
    "Reply",
    "ShowPresence",
    "Subscribe",
    "Unsubscribe",
    "ack",
    "error",
    "interpret",
    "refusal",
    "unknown_type",
]

Id = str | int | None

ACTIONS = ("input", "stop", "kill")  # what a client may be allowed to do to a program
ASK_ID = "ws-hub:ask:"  # begins the ids of what a hub asks its clients

# Far below Python's own limit: a text that one thread could just parse, another thread with a
# deeper stack could not encode again (FAULTS 22).
_MAX_DEPTH = 128
_TEXTS = re.compile(r'"[^"\\]*(?:\\.[^"\\]*)*"', re.DOTALL)
_BRACKETS = b"[]{}"
_NO_BRACKETS = bytes(each for each in range(256) if each not in _BRACKETS)
_STEPS = bytes.maketrans(b"[{]}", b"\x01\x01\xff\xff")  # +1 and -1, as signed bytes
# Bytes of a name in a request, whatever the rule for names: it is stored and repeated in answers.
_MAX_CHANNEL = 1024


@dataclass(frozen=True, slots=True)
class Subscribe:
    """A request to subscribe to a channel, from a position or from now."""

    channel: str
    id: Id = None
    since: int | None = None
    epoch: str = ""
    last: int | None = None
    since_time: float | None = None
    filter: Filter | None = None


@dataclass(frozen=True, slots=True)
class ReadHistory:
    """A request for a page of the kept messages of a channel."""

    channel: str
    id: Id
    since: int | None = None
    before: int | None = None
    last: int | None = None
    since_time: float | None = None
    limit: int | None = None


@dataclass(frozen=True, slots=True)
class Unsubscribe:
    """A request to end a subscription."""

    channel: str
    id: Id = None


@dataclass(frozen=True, slots=True)
class Publish:
    """A request to publish data to the subscribers of a channel."""

    channel: str
    data: object = None
    id: Id = None
    idempotency_key: str = ""
    key: str = ""


@dataclass(frozen=True, slots=True)
class ShowPresence:
    """A request to say who is present in a channel."""

    channel: str
    id: Id


@dataclass(frozen=True, slots=True)
class Control:
    """A request to do something to a program.

    Args:
        type: the type of the message.
        channel: the channel of the program.
        process_id: its process id.
        data: of an input its text, or None for its end; of a size columns and rows; of a signal
            "stop" or "kill"; of a hold whether it is taken.
    """

    type: str
    channel: str
    process_id: str
    data: object
    id: Id

    @property
    def action(self) -> str:
        """What it has to be allowed to do, of ACTIONS."""
        return str(self.data) if self.type == MessageType.PROCESS_SIGNAL else "input"


@dataclass(frozen=True, slots=True)
class Reply:
    """A request that is answered without the hub, or refused as malformed."""

    message: Message


@dataclass(frozen=True, slots=True)
class Other:
    """A message of an application's own type."""

    message: Message


Effect = Subscribe | ReadHistory | Unsubscribe | Publish | ShowPresence | Control | Reply | Other


def error(text: str, code: str, *, id: Id = None, channel: str = "") -> Message:
    """Return an `error` reply."""
    return Message(MessageType.ERROR, channel=channel, data=text, id=id, code=code)


def ack(id: Id, data: object) -> Message:
    """Return the reply to a request that was carried out."""
    return Message(MessageType.ACK, data=data, id=id)


def refusal(message: Message) -> HubError:
    """Return the exception that an `error` reply stands for."""
    return HubError(message.code or "error", str(message.data))


def interpret(text: str, is_channel: Callable[[str], bool], *, any_case: bool = False) -> Effect:
    """Return the request in a client's text message.

    `is_channel` is the rule for channel names; `any_case` as in `decode`. Never raises,
    whatever the peer sent.
    """
    try:
        message = decode(text, any_case=any_case)
    except MessageDecodeError as fault:
        return Reply(error(str(fault), fault.code, id=fault.id))
    if text.count("[") + text.count("{") > _MAX_DEPTH and _is_deep(text):
        return Reply(error("invalid JSON: nested too deeply", "bad_message", id=message.id))
    if message.type == MessageType.PING:
        return Reply(Message(MessageType.PONG, id=message.id))
    if message.type == MessageType.SUBSCRIBE:
        return _subscribe(message, is_channel)
    if message.type == MessageType.HISTORY:
        return _history(message, is_channel)
    if message.type == MessageType.UNSUBSCRIBE:
        target = message.target
        if target is None:
            return Reply(
                error("Unsubscribe: channel must be a string", "bad_channel", id=message.id)
            )
        if message.id is not None and _is_unusable(target):
            return _bad_channel("Unsubscribe", target, message.id)
        return Unsubscribe(target, message.id)
    if message.type == MessageType.PUBLISH:
        if _is_unusable(message.channel) or not is_channel(message.channel):
            return _bad_channel("Publish", message.channel, message.id)
        return _publish(message)
    if message.type == MessageType.PRESENCE:
        if _is_unusable(message.channel) or not is_channel(message.channel):
            return _bad_channel("Presence", message.channel, message.id)
        if message.id is None:  # that the answer would go by
            text = "Presence: id is required"
            return Reply(error(text, "bad_message", channel=message.channel))
        return ShowPresence(message.channel, message.id)
    if message.type in _CONTROLS:
        return _control(message, is_channel)
    return Other(message)


def _is_deep(text: str) -> bool:
    """Return whether a JSON text is nested more deeply than allowed."""
    # One pass, whatever the text: checking 64 KiB of JSON must not cost more than parsing it.
    brackets = _TEXTS.sub("", text).encode("utf-8", "replace").translate(_STEPS, _NO_BRACKETS)
    return max(itertools.accumulate(memoryview(brackets).cast("b")), default=0) > _MAX_DEPTH


def _subscribe(message: Message, is_channel: Callable[[str], bool]) -> Effect:
    target = message.target
    if target is None:
        return Reply(error("Subscribe: channel must be a string", "bad_channel", id=message.id))
    if _is_unusable(target) or not is_channel(target):
        return _bad_channel("Subscribe", target, message.id)
    fault, filter = _bad_position(message), None
    if isinstance(message, SubscribeMessage):
        try:
            filter = filter_of(message.filter)
        except (TypeError, ValueError) as refused:
            fault = fault or str(refused)
    if fault:
        text = f"Subscribe: {fault}"
        return Reply(error(text, "bad_message", id=message.id, channel=target))
    return Subscribe(
        target, message.id, message.since, message.epoch, message.last, _moment(message), filter
    )


def _history(message: Message, is_channel: Callable[[str], bool]) -> Effect:
    channel = message.channel
    if _is_unusable(channel) or not is_channel(channel):
        return _bad_channel("History", channel, message.id)
    given = [message.since, message.before, message.last, message.since_time or None]
    fault = _bad_position(message)
    if message.id is None:
        fault = "an id is required"
    elif sum(each is not None for each in given) > 1:
        fault = "since, before, last and since_time are mutually exclusive"
    if fault:
        return Reply(error(f"History: {fault}", "bad_message", id=message.id, channel=channel))
    return ReadHistory(
        channel,
        message.id,
        message.since,
        message.before,
        message.last,
        _moment(message),
        message.limit,
    )


def _bad_position(message: Message) -> str:
    """Return the reason why a position is none; "" for a good one."""
    for name in ("since", "last", "before", "limit"):
        count = getattr(message, name)
        if count is not None and count < 0:
            return f"{name} must not be negative"
    if message.since_time and _moment(message) is None:
        return "since_time must be an RFC 3339 time"
    return ""


def _moment(message: Message) -> float | None:
    """Return `since_time` as POSIX time; None when it is not there, or no time."""
    if not message.since_time:
        return None
    try:
        return parse_timestamp(message.since_time).timestamp()
    except (ValueError, OverflowError):
        return None


def _publish(message: Message) -> Effect:
    key = message.idempotency_key
    if key and not is_key(key):
        text = "Publish: idempotencyKey must be at most 128 bytes"
        return Reply(error(text, "bad_message", id=message.id, channel=message.channel))
    if message.key and not is_key(message.key):
        text = "Publish: key must be at most 128 bytes"
        return Reply(error(text, "bad_message", id=message.id, channel=message.channel))
    return Publish(message.channel, message.data, message.id, key, message.key)


_CONTROLS = frozenset(
    {
        MessageType.PROCESS_CONTROL,
        MessageType.PROCESS_HOLD,
        MessageType.PROCESS_INPUT,
        MessageType.PROCESS_RESIZE,
        MessageType.PROCESS_SIGNAL,
    }
)


def _control(message: Message, is_channel: Callable[[str], bool]) -> Effect:
    channel, data = message.channel, message.data
    process_id = channel.removeprefix(PROCESS_PREFIX)
    if process_id == channel or _is_unusable(channel) or not is_channel(channel):
        return _bad_channel("Control", channel, message.id)
    fault = ""
    if message.type == MessageType.PROCESS_CONTROL and message.id is None:
        fault = "an id is required"
    elif message.type == MessageType.PROCESS_HOLD and not isinstance(data, bool):
        fault = "data must be true, to take the hold, or false"
    elif message.type == MessageType.PROCESS_INPUT and not (data is None or _is_text(data)):
        fault = "data must be the text, or be left out to end the input"
    elif message.type == MessageType.PROCESS_SIGNAL and data not in ("stop", "kill"):
        fault = 'data must be "stop" or "kill"'
    elif message.type == MessageType.PROCESS_RESIZE:
        data = _size(data)
        fault = "" if data else 'data must be {"columns": n, "rows": n}, from 1 to 65535'
    if fault:
        text = f"Control: {fault}"
        return Reply(error(text, "bad_message", id=message.id, channel=channel))
    return Control(message.type, channel, process_id, data, message.id)


def _is_text(data: object) -> bool:
    return isinstance(data, str) and data != ""


def _size(data: object) -> tuple[int, int] | None:
    """Return the columns and rows of a terminal; None for anything else."""
    if not isinstance(data, dict):
        return None
    columns, rows = data.get("columns"), data.get("rows")
    return (columns, rows) if is_terminal_length(columns) and is_terminal_length(rows) else None


def _is_unusable(name: str) -> bool:
    """Return whether no rule can accept this as a channel: "" stands for every client."""
    return not name or len(name) > _MAX_CHANNEL or len(name.encode()) > _MAX_CHANNEL


def _bad_channel(request: str, name: str, id: Id) -> Reply:
    what = "process ID" if name.startswith(PROCESS_PREFIX) else "channel name"
    # A long name is not echoed: it may be a megabyte.
    shown = name if len(name) <= 256 else ""
    text = f"{request}: invalid {what}"  # those of a Go hub: frontends may look for them
    if "*" in name:
        text += (
            ". A * makes it a pattern, for the server's rules only: give each channel's whole name"
        )
    return Reply(error(text, "bad_channel", id=id, channel=shown))


def unknown_type(message: Message) -> Message:
    """Return the reply to a message of a type that has no handler."""
    return error(f"unknown message type {excerpt(message.type)}", "bad_message", id=message.id)
