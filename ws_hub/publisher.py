"""The methods that publish, wherever what they publish goes.

Must not know queues, clients or sockets: a subclass says how one message is handed on.
"""

from __future__ import annotations

import abc
import dataclasses
import time
from collections.abc import Mapping
from typing import Any

from .message import (
    Message,
    MessageType,
    check_channel,
    process_channel,
    stamped,
    timestamp,
)

__all__ = ["Publisher"]


class Publisher(abc.ABC):
    """Publishes messages to everybody or to a channel.

    All methods encode the message in the calling thread and raise MessageEncodeError
    there when it has no JSON form: then nobody gets any of it. What else they raise is
    what `_publish` raises; `timeout` is in seconds, None for the default.
    """

    @abc.abstractmethod
    def _publish(self, message: Message, channel: str, timeout: float | None) -> None:
        """Hand on one stamped message, for a channel or, with "", for everybody."""

    def broadcast(self, message: Message, *, timeout: float | None = None) -> None:
        """Send a message to every client.

        Threads: any; waits while the queue is full, at most `timeout` seconds.
        """
        self._publish(stamped(message, time.time()), "", timeout)

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
            timestamp=message.timestamp or timestamp(time.time()),
        )
        self._publish(message, channel, timeout)

    def send_process_output(
        self, process_id: str, data: str, *, timeout: float | None = None
    ) -> None:
        """Send a piece of a process's output, usually a line, to who watches it.

        Its channel, `process:<id>`, keeps the last lines for those who come late.
        Raises InvalidName for a bad process id.

        Threads: any; waits while the queue is full, at most `timeout` seconds.
        """
        self._to_process(MessageType.PROCESS_OUTPUT, process_id, data, timeout)

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
        self._to_process(MessageType.PROCESS_STATUS, process_id, data, timeout)

    def send_event(
        self, event: str, data: Any = None, *, channel: str = "", timeout: float | None = None
    ) -> None:
        """Send a named event to every client, or to the subscribers of a channel.

        Threads: any; waits while the queue is full, at most `timeout` seconds.
        """
        message = Message(
            MessageType.EVENT,
            channel=channel,
            data={"event": event, "data": data},
            timestamp=timestamp(time.time()),
        )
        self._publish(message, channel, timeout)

    def send_error(self, text: str, *, channel: str = "", timeout: float | None = None) -> None:
        """Send an error text to every client, or to the subscribers of a channel.

        Threads: any; waits while the queue is full, at most `timeout` seconds.
        """
        message = Message(
            MessageType.ERROR, channel=channel, data=text, timestamp=timestamp(time.time())
        )
        self._publish(message, channel, timeout)

    def _to_process(
        self, kind: MessageType, process_id: str, data: Any, timeout: float | None
    ) -> None:
        channel = process_channel(process_id)
        message = Message(
            kind,
            channel=channel,
            process_id=process_id,
            data=data,
            timestamp=timestamp(time.time()),
        )
        self._publish(message, channel, timeout)
