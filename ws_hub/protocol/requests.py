"""What one text from a client asks for, as a value that the hub carries out.

Must not know sockets, threads or `client`. The texts of the errors are the Go
original's (INTEROP); `id`, `code` and `channel` stand beside them.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable
from dataclasses import dataclass

from ..errors import MessageDecodeError, excerpt
from .message import Message, MessageType, decode
from .names import PROCESS_PREFIX

__all__ = [
    "Effect",
    "Id",
    "Other",
    "Publish",
    "Reply",
    "Subscribe",
    "Unsubscribe",
    "ack",
    "error",
    "interpret",
    "unknown_type",
]

Id = str | int | None

# Far below what Python can take apart: what one thread could just so read, another that is
# deeper in its calls could not write again (FAULTS 22).
_MAX_DEPTH = 128
_TEXTS = re.compile(r'"[^"\\]*(?:\\.[^"\\]*)*"', re.DOTALL)
_BRACKETS = b"[]{}"
_NO_BRACKETS = bytes(each for each in range(256) if each not in _BRACKETS)
_STEPS = bytes.maketrans(b"[{]}", b"\x01\x01\xff\xff")  # one in, and one out, as signed bytes
# In requests, whatever the rule for names may be: they are kept, and come back in answers.
_MAX_CHANNEL = 1024  # bytes


@dataclass(frozen=True, slots=True)
class Subscribe:
    """The client wants to listen to a channel, from a position or from now."""

    channel: str
    id: Id = None
    since: int | None = None
    epoch: str = ""
    last: int | None = None


@dataclass(frozen=True, slots=True)
class Unsubscribe:
    """The client wants to hear no more of a channel."""

    channel: str
    id: Id = None


@dataclass(frozen=True, slots=True)
class Publish:
    """The client has something to say to everybody in a channel."""

    channel: str
    data: object = None
    id: Id = None


@dataclass(frozen=True, slots=True)
class Reply:
    """The answer is known already."""

    message: Message


@dataclass(frozen=True, slots=True)
class Other:
    """A message of a type that is the application's to handle."""

    message: Message


Effect = Subscribe | Unsubscribe | Publish | Reply | Other


def error(text: str, code: str, *, id: Id = None, channel: str = "") -> Message:
    """Return an `error` reply."""
    return Message(MessageType.ERROR, channel=channel, data=text, id=id, code=code)


def ack(id: Id, data: object) -> Message:
    """Return the reply to a request that was carried out."""
    return Message(MessageType.ACK, data=data, id=id)


def interpret(text: str, is_channel: Callable[[str], bool], *, any_case: bool = False) -> Effect:
    """Return what a client's text message asks for.

    `is_channel` is the rule for channel names; `any_case` as in `decode`. Never
    raises for what a peer can send.
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
        return Publish(message.channel, message.data, message.id)
    return Other(message)


def _is_deep(text: str) -> bool:
    """Say whether a JSON text is nested more deeply than it may be."""
    # One pass, whatever it is made of: JSON of 64 KiB must not cost more than reading it did.
    brackets = _TEXTS.sub("", text).encode("utf-8", "replace").translate(_STEPS, _NO_BRACKETS)
    return max(itertools.accumulate(memoryview(brackets).cast("b")), default=0) > _MAX_DEPTH


def _subscribe(message: Message, is_channel: Callable[[str], bool]) -> Effect:
    target = message.target
    if target is None:
        return Reply(error("Subscribe: channel must be a string", "bad_channel", id=message.id))
    if _is_unusable(target) or not is_channel(target):
        return _bad_channel("Subscribe", target, message.id)
    for name, count in (("since", message.since), ("last", message.last)):
        if count is not None and count < 0:
            return Reply(
                error(
                    f"Subscribe: {name} must not be negative",
                    "bad_message",
                    id=message.id,
                    channel=target,
                )
            )
    return Subscribe(target, message.id, message.since, message.epoch, message.last)


def _is_unusable(name: str) -> bool:
    """Say whether no rule can make this a channel: "" would be everybody."""
    return not name or len(name) > _MAX_CHANNEL or len(name.encode()) > _MAX_CHANNEL


def _bad_channel(request: str, name: str, id: Id) -> Reply:
    what = "process ID" if name.startswith(PROCESS_PREFIX) else "channel name"
    # Not echoed whole: the name may be a megabyte.
    shown = name if len(name) <= 256 else ""
    return Reply(error(f"{request}: invalid {what}", "bad_channel", id=id, channel=shown))


def unknown_type(message: Message) -> Message:
    """Return the reply to a message that nobody handles."""
    return error(f"unknown message type {excerpt(message.type)}", "bad_message", id=message.id)
