"""The methods that publish, wherever what they publish goes.

Must not know queues, clients or sockets: a subclass says how one message is handed on.
"""

from __future__ import annotations

import abc
import dataclasses
import enum
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from .errors import InvalidName, excerpt
from .message import (
    Message,
    MessageType,
    check_channel,
    encode,
    encode_fields,
    is_process_id,
    process_channel,
    timestamp,
)

__all__ = ["EVERYBODY", "Everybody", "Publisher"]


class Everybody(enum.Enum):
    """The type of EVERYBODY."""

    EVERYBODY = "everybody"


# What a channel is that was left out. Not None and not "", which is what a variable holds
# that nobody has set: that must not make a message everybody's (FAULTS 106).
EVERYBODY = Everybody.EVERYBODY

_OUTPUT, _STATUS = str(MessageType.PROCESS_OUTPUT), str(MessageType.PROCESS_STATUS)
_EVENT, _ERROR = str(MessageType.EVENT), str(MessageType.ERROR)


class Publisher(abc.ABC):
    """Publishes messages to everybody or to a channel.

    All methods encode the message in the calling thread and raise MessageEncodeError
    there when it has no JSON form: then nobody gets any of it. What else they raise is
    what `_publish` raises; `timeout` is in seconds, None for the default.
    """

    @abc.abstractmethod
    def _publish(
        self, texts: Sequence[bytes], channel: str, timeout: float | None, *, over: bool = False
    ) -> None:
        """Hand on encoded messages, all or none, for a channel or, with "", for everybody.

        `over`: the last of them is the last of its channel for the time being.
        """

    def broadcast(self, message: Message, *, timeout: float | None = None) -> None:
        """Send a message to every client.

        Raises InvalidName for a message that names a channel: that is for its subscribers.

        Threads: any; waits while the queue is full, at most `timeout` seconds.
        """
        text = encode(message, time.time(), self._is_process)
        if message.channel:
            name = excerpt(message.channel)
            raise InvalidName(
                f"a broadcast goes to everybody, and this message names the channel {name}: "
                f"send it with send_to_channel({name}, message), or leave the channel out"
            )
        self._publish([text], "", timeout)

    def send_to_channel(
        self, channel: str, message: Message, *, timeout: float | None = None
    ) -> None:
        """Send a message to the subscribers of a channel, which it names on the wire.

        Raises InvalidName for a bad channel name.

        Threads: any; waits while the queue is full, at most `timeout` seconds.
        """
        if not channel or not isinstance(channel, str):
            check_channel(channel)  # raises: "" further down means everybody
        message = dataclasses.replace(
            message,
            channel=channel,
            seq=None,  # the hub numbers
            timestamp=message.timestamp or _now(),
        )
        over = _is_last_word(message.type, message.data)
        text = encode(message, is_process=self._is_process)
        self._publish([text], channel, timeout, over=over)

    def send_process_output(
        self, process_id: str, data: str, *, timeout: float | None = None
    ) -> None:
        """Send a piece of a process's output, usually a line, to who watches it.

        Its channel, `process:<id>`, keeps the last lines for those who come late.
        Raises InvalidName for a bad process id.

        Threads: any; waits while the queue is full, at most `timeout` seconds.
        """
        self._to_process(_OUTPUT, process_id, data, timeout)

    def send_process_lines(
        self, process_id: str, lines: Sequence[str], *, timeout: float | None = None
    ) -> None:
        """Send several pieces of a process's output, all or none of them.

        The same as `send_process_output` for each, at half the cost. Together they take
        one place in the hub's queue: send hundreds at a time, not millions.

        Threads: any; waits while the queue is full, at most `timeout` seconds.
        """
        channel, now = self.process_channel(process_id), _now()
        texts = [encode_fields(_OUTPUT, channel, process_id, line, now) for line in lines]
        if texts:
            self._publish(texts, channel, timeout)

    def send_process_status(
        self,
        process_id: str,
        status: str,
        exit_code: int | None = None,
        *,
        extra: Mapping[str, Any] | None = None,
        timeout: float | None = None,
    ) -> None:
        """Send what became of a process: "running", "exited" with its code, "failed".

        `extra` are further fields of the message's data (`signal`, `error`). With an
        exit code, or as "failed", it is the process's last word: what the channel keeps
        is freed some minutes later.

        Threads: any; waits while the queue is full, at most `timeout` seconds.
        """
        data: dict[str, Any] = {"status": status}
        if exit_code is not None:
            data["exitCode"] = exit_code
        data.update(extra or {})
        self._to_process(_STATUS, process_id, data, timeout)

    def send_event(
        self,
        event: str,
        data: Any = None,
        *,
        channel: str | Everybody = EVERYBODY,
        timeout: float | None = None,
    ) -> None:
        """Send a named event to the subscribers of a channel; to every client without one.

        Raises TypeError for a channel that is no text, InvalidName for one that is "".

        Threads: any; waits while the queue is full, at most `timeout` seconds.
        """
        self._send(_EVENT, channel, {"event": event, "data": data}, timeout)

    def send_error(
        self,
        text: str,
        *,
        channel: str | Everybody = EVERYBODY,
        timeout: float | None = None,
    ) -> None:
        """Send an error text to the subscribers of a channel; to every client without one.

        Raises TypeError for a channel that is no text, InvalidName for one that is "".

        Threads: any; waits while the queue is full, at most `timeout` seconds.
        """
        self._send(_ERROR, channel, text, timeout)

    def process_channel(self, process_id: str) -> str:
        """Return the channel of a process; raises InvalidName for an id that is none here.

        Threads: any.
        """
        return process_channel(process_id, self._is_process)

    @property
    def _is_process(self) -> Callable[[str], bool]:
        """The rule for process ids."""
        return is_process_id

    def _send(self, kind: str, channel: object, data: Any, timeout: float | None) -> None:
        where = _checked(channel)
        self._publish([encode_fields(kind, where, "", data, _now())], where, timeout)

    def _to_process(self, kind: str, process_id: str, data: Any, timeout: float | None) -> None:
        channel = self.process_channel(process_id)
        text = encode_fields(kind, channel, process_id, data, _now())
        self._publish([text], channel, timeout, over=_is_last_word(kind, data))


def _checked(channel: object) -> str:
    """Return a channel, "" for everybody, where that and nothing else was asked for."""
    if channel is EVERYBODY:
        return ""
    if not isinstance(channel, str):
        raise TypeError(
            f"channel must be the name of a channel, not {excerpt(channel)}: leave it out to "
            "send to everybody"
        )
    if not channel:
        raise InvalidName("channel must not be empty: leave it out to send to everybody")
    return channel


def _now() -> str:
    return timestamp(time.time())


def _is_last_word(kind: str, data: Any) -> bool:
    """Say whether a message tells that a process is over."""
    return (
        kind == _STATUS
        and isinstance(data, dict)
        and (data.get("status") == "failed" or "exitCode" in data)
    )
