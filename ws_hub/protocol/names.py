"""The rules for channel names and process ids, and checks by them.

`process:<id>` is the channel of a process. An application may replace the rule for channel
names by one of its own (`HubConfig.channel_name`).
"""

from __future__ import annotations

import functools
import re
import uuid
from collections.abc import Callable
from typing import NoReturn

from ..errors import InvalidName, excerpt
from .message import is_key

__all__ = [
    "ATTEMPTS_PREFIX",
    "PROCESS_PREFIX",
    "AnyId",
    "channel_rule",
    "channel_text",
    "check_channel",
    "check_process_id",
    "id_text",
    "is_channel_name",
    "is_process_id",
    "key_text",
    "process_channel",
    "process_rule",
    "refuse_channel",
]

PROCESS_PREFIX = "process:"
ATTEMPTS_PREFIX = "attempts:"  # of what is kept of earlier attempts, see `hub.attempts`

AnyId = str | int | uuid.UUID  # what `id_text` accepts

_MAX_CHANNEL = 256
_CHANNEL = re.compile(r"[A-Za-z0-9_\-.:]+\Z")
_PROCESS_ID = re.compile(r"[A-Za-z0-9_\-.]{1,128}\Z")


def is_process_id(name: str) -> bool:
    """Return whether `name` is 1-128 characters of `A-Z a-z 0-9 _ - .`."""
    return _PROCESS_ID.match(name) is not None


def is_channel_name(name: str) -> bool:
    """Return whether `name` is 1-256 characters of `A-Z a-z 0-9 _ - . :`.

    A name that starts with `process:` must continue with a process id.
    """
    # The length first: the cache must not keep a peer's megabyte.
    return len(name) <= _MAX_CHANNEL and _is_short_channel_name(name)


@functools.lru_cache(4096)
def _is_short_channel_name(name: str) -> bool:
    if _CHANNEL.match(name) is None:
        return False
    return not name.startswith(PROCESS_PREFIX) or is_process_id(name[len(PROCESS_PREFIX) :])


def id_text(value: object, what: str) -> str:
    """Return the text of an id, which may be a number or a UUID: the key of a row of a database.

    Raises TypeError for anything else: None and False are variables that were not set. `what`
    names the id in the error.
    """
    if isinstance(value, str):
        return str.__str__(value)  # a subclass may override __str__ and __eq__
    if isinstance(value, int) and not isinstance(value, bool):
        return int.__repr__(value)  # an enumeration has a repr of its own
    if isinstance(value, uuid.UUID):
        return str(value)
    raise TypeError(f"a {what} must be text, an int or a UUID, not {excerpt(value)}")


def key_text(value: object) -> str:
    """Return the key of a message as text; an int or a UUID means its text.

    Raises TypeError and InvalidName for what is no key.
    """
    text = id_text(value, "key")
    if not is_key(text) or any("\ud800" <= each <= "\udfff" for each in text):
        raise InvalidName(
            f"key {excerpt(text)} is refused: it must be 1 to 128 bytes of UTF-8, the name of "
            "what the message is the newest state of"
        )
    return text


def channel_rule(own: Callable[[str], bool] | None) -> Callable[[str], bool]:
    """Return the rule for channel names: the protocol's, or an application's own.

    No rule accepts "": inside a hub it stands for a broadcast to every client.
    """
    if own is None:
        return is_channel_name
    return lambda name: bool(name) and own(name)


def process_rule(own: Callable[[str], bool] | None) -> Callable[[str], bool]:
    """Return the rule for process ids: for the part of a channel name after `process:`."""
    if own is None:
        return is_process_id
    return lambda name: bool(name) and own(PROCESS_PREFIX + name)


def channel_text(name: object) -> str:
    """Return the name of a channel as a plain str, valid or not.

    Raises TypeError for anything else: None is a variable that was not set, and a number
    may be a timeout.
    """
    if not isinstance(name, str):
        raise TypeError(f"channel must be the name of a channel, a str, not {excerpt(name)}")
    return str.__str__(name)  # a subclass may override __str__ and __eq__


def check_channel(name: object, rule: Callable[[str], bool] = is_channel_name) -> None:
    """Raise TypeError unless `name` is a str, and InvalidName unless `rule` accepts it."""
    text = channel_text(name)
    if not text or not rule(text):
        refuse_channel(text)


def refuse_channel(name: str) -> NoReturn:
    """Raise InvalidName for the name of a channel that a rule has refused."""
    if "*" in name:
        raise InvalidName(
            f"channel name {excerpt(name)} is refused: a * makes it a pattern, which only rules "
            "and decorators take; give the whole name of each channel"
        )
    raise InvalidName(
        f"channel name {excerpt(name)} is refused: it must be 1-256 characters of "
        "A-Z a-z 0-9 _ - . :, with a process id after 'process:'"
    )


def check_process_id(name: str, rule: Callable[[str], bool] = is_process_id) -> None:
    """Raise InvalidName unless `name` is a process id by `rule`."""
    if not name or not rule(name):
        hint = ", without 'process:'" if name.startswith("process:") else ""
        raise InvalidName(
            f"process id {excerpt(name)} is refused: it must be 1-128 characters of "
            f"A-Z a-z 0-9 _ - .{hint}"
        )


def process_channel(process_id: str, rule: Callable[[str], bool] = is_process_id) -> str:
    """Return the channel of a process; raises InvalidName for an id that `rule` refuses."""
    if rule is is_process_id:
        return _process_channel(process_id)
    check_process_id(process_id, rule)
    return PROCESS_PREFIX + process_id


@functools.lru_cache(4096)
def _process_channel(process_id: str) -> str:
    check_process_id(process_id)
    return PROCESS_PREFIX + process_id
