"""The methods that publish, wherever what they publish goes.

Must not know queues, clients or sockets: a subclass says how one message is handed on.
"""

from __future__ import annotations

import abc
import dataclasses
import time
from collections.abc import Mapping, Sequence
from typing import Any

from .message import (
    Message,
    MessageType,
    check_channel,
    encode,
    encode_fields,
    process_channel,
    timestamp,
)

__all__ = ["Publisher"]

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

        Threads: any; waits while the queue is full, at most `timeout` seconds.
        """
        self._publish([encode(message, time.time())], "", timeout)

    def send_to_channel(
        self, channel: str, message: Message, *, timeout: float | None = None
    ) -> None:
        """Send a message to the subscribers of a channel, which it names on the wire.

        Raises InvalidName for a bad channel name.

        Threads: any; waits while the queue is full, at most `timeout` seconds.
        """
        if not channel:
            check_channel(channel)  # raises: "" further down means everybody
        message = dataclasses.replace(
            message,
            channel=channel,
            seq=None,  # the hub numbers
            timestamp=message.timestamp or _now(),
        )
        over = _is_last_word(message.type, message.data)
        self._publish([encode(message)], channel, timeout, over=over)

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
        channel, now = process_channel(process_id), _now()
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
        self, event: str, data: Any = None, *, channel: str = "", timeout: float | None = None
    ) -> None:
        """Send a named event to every client, or to the subscribers of a channel.

        Threads: any; waits while the queue is full, at most `timeout` seconds.
        """
        found = {"event": event, "data": data}
        self._publish([encode_fields(_EVENT, channel, "", found, _now())], channel, timeout)

    def send_error(self, text: str, *, channel: str = "", timeout: float | None = None) -> None:
        """Send an error text to every client, or to the subscribers of a channel.

        Threads: any; waits while the queue is full, at most `timeout` seconds.
        """
        self._publish([encode_fields(_ERROR, channel, "", text, _now())], channel, timeout)

    def _to_process(self, kind: str, process_id: str, data: Any, timeout: float | None) -> None:
        channel = process_channel(process_id)
        text = encode_fields(kind, channel, process_id, data, _now())
        self._publish([text], channel, timeout, over=_is_last_word(kind, data))


def _now() -> str:
    return timestamp(time.time())


def _is_last_word(kind: str, data: Any) -> bool:
    """Say whether a message tells that a process is over."""
    return (
        kind == _STATUS
        and isinstance(data, dict)
        and (data.get("status") == "failed" or "exitCode" in data)
    )
