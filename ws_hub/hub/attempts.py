"""The last lines of the attempts at a program's work that came before the present one.

The channel of a program keeps its newest lines, whichever run they are of: a retry that prints
much pushes out what made the attempt before it fail. So the hub that begins an attempt first copies
the last lines of the run before to `attempts:<id>`, a channel with a history as any other: one
event for each attempt. Other processes and later ones read it where they share a history store.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Protocol

from ..backplane.store import HistoryPage
from ..config import HubConfig
from ..errors import HistoryError, HubFull, HubNotRunning, InvalidName, MessageEncodeError
from ..log import get_logger
from ..process.log_reader import LogLine, LogSource, line_fields, read_page
from ..protocol.json_text import to_json
from ..protocol.message import MAX_MESSAGE_BYTES, Message, MessageType
from ..protocol.names import ATTEMPTS_PREFIX
from .logs import HistoryLines, Logs, begins

__all__ = ["Attempts", "KeepingHub"]

logger = get_logger(__name__)

_EVENT = "attempt"
_PAGE = 1000  # messages that are read at once
_MOST = MAX_MESSAGE_BYTES // 2  # bytes of lines as JSON: all of them are one message
_PATIENCE = 1.0  # seconds until what the run before has printed is in the history
_OWN = ("attempt", "before")  # fields of a status that are not of the end of the attempt


class KeepingHub(Protocol):
    """What is asked of the hub; see `Hub` for each."""

    @property
    def config(self) -> HubConfig:
        """Its settings."""

    @property
    def logs(self) -> Logs:
        """The logs of its programs."""

    def process_channel(self, process_id: str) -> str:
        """Return the channel of a process id; raises InvalidName."""

    def history(
        self,
        channel: str,
        *,
        before: int | None = None,
        last: int | None = None,
        limit: int = 1000,
    ) -> HistoryPage:
        """Return kept messages; raises HubNotRunning, HistoryError, InvalidName."""

    def wait_for_room(self, channel: str, timeout: float | None = None) -> bool:
        """Wait until what was published is kept; raises HubNotRunning, HubFull."""

    def send_event(
        self, event: str, data: Any = None, *, channel: str, timeout: float | None = None
    ) -> None:
        """Publish an event; raises HubNotRunning, HubFull, InvalidName."""


class Attempts:
    """Keeps and reads the last lines of earlier attempts.

    Threads: any; waits as publishing does, and for a history store.

    Args:
        hub: the hub.
    """

    def __init__(self, hub: KeepingHub) -> None:
        self._hub = hub

    def begin(self, process_id: str, attempt: int | None) -> dict[str, object]:
        """Keep the last lines of the attempt before this one, which has printed nothing yet.

        Returns the fields of all statuses of the new attempt: its number, and in `before` how
        the one before has ended, and how many of its lines are kept.
        """
        if attempt is None:
            return {}
        fields: dict[str, object] = {"attempt": attempt}
        if attempt == 1 or not self._hub.config.attempt_bytes:
            return fields
        try:
            before = self._keep(process_id, attempt)
        except (
            HistoryError, HubFull, HubNotRunning, InvalidName, MessageEncodeError,
        ) as error:  # fmt: skip
            logger.warning(
                "the last lines of the attempt before attempt %d of %s are not kept: %s",
                attempt,
                process_id,
                error,
            )
            return fields
        return fields if before is None else {**fields, "before": before}

    def _keep(self, process_id: str, attempt: int) -> dict[str, object] | None:
        hub, kept = self._hub, ATTEMPTS_PREFIX + process_id
        if not hub.config.rule_for(kept).history_messages:
            return None
        channel = hub.process_channel(process_id)
        hub.wait_for_room(channel, _PATIENCE)  # what was printed is in the history then
        run = self._last_run(channel, hub.config.attempt_bytes)
        status: dict[str, Any] = {}
        for message in run:
            if message.type == MessageType.PROCESS_STATUS and isinstance(message.data, dict):
                status |= message.data
        if not run:
            return None
        number = status.get("attempt")
        if number is None and not begins(run[0]):  # it was killed, and has printed much
            number = self._attempt_of(channel)
        number = number if isinstance(number, int) else attempt - 1
        if number >= attempt:
            return None
        lines = _last(run, hub.config.attempt_bytes)
        ended = {name: value for name, value in status.items() if name not in _OWN}
        data = {"attempt": number, "status": ended, "lines": [line_fields(each) for each in lines]}
        hub.send_event(_EVENT, data, channel=kept)
        return {"attempt": number, **ended, "lines": len(lines)}

    def _last_run(self, channel: str, most: int) -> list[Message]:
        """Return the newest messages of a run: enough for so many bytes, or all of them."""
        found: list[Message] = []
        for message in self._newest(channel):
            found.append(message)
            most -= len(message.data) if isinstance(message.data, str) else 0
            if begins(message) or most < 0:
                break
        return found[::-1]

    def _newest(self, channel: str) -> Iterator[Message]:
        """Yield the messages that a channel keeps, newest first."""
        page = self._hub.history(channel, last=_PAGE)
        while page.messages:
            yield from reversed(page.messages)
            page = self._hub.history(channel, before=page.messages[0].seq, limit=_PAGE)

    def read(self, process_id: str, attempt: int) -> tuple[LogSource, dict[str, Any] | None]:
        """Return the last lines of an earlier attempt, or the newest one's, and its status.

        Without lines and None where nothing is known of it. Raises HubNotRunning, HistoryError.
        """
        with contextlib.suppress(InvalidName):  # of `HubConfig.channel_name`: none are kept
            for message in self._newest(ATTEMPTS_PREFIX + process_id):
                data = _data_of(message)
                if _is_of(data, attempt):
                    lines = HistoryLines(map(_message, data["lines"]), "attempt")
                    return lines, {**data["status"], "attempt": attempt}
        channel, logs = self._hub.process_channel(process_id), self._hub.logs
        status = logs.status(channel)
        if status is not None:
            number = status["attempt"] if "attempt" in status else self._attempt_of(channel)
            if number == attempt:
                return logs.source(channel, process_id), {**status, "attempt": attempt}
        return HistoryLines(iter(()), "attempt"), None

    def _attempt_of(self, channel: str) -> object:
        """Return the number of the newest attempt, as its first status says."""
        first = next(filter(begins, self._newest(channel)), None)
        return None if first is None else first.data.get("attempt")


def _last(run: Sequence[Message], most: int) -> list[LogLine]:
    """Return the last lines of a run, so many bytes of them, and no more than fit a message."""
    source = HistoryLines(iter(run))
    first, last, _ = source.span()
    lines: list[LogLine] = []
    while page := read_page(source, first, last - first + 1):
        lines += page
        first = page[-1].number + 1
    found, room = list[LogLine](), _MOST
    for line in source.dated(tuple(reversed(lines))):
        most -= len(line.text.encode("utf-8", "replace"))
        room -= len(to_json(line_fields(line)))
        if found and min(most, room) < 0:
            break
        found.append(line)
    return found[::-1]


def _data_of(message: Message) -> Mapping[str, Any]:
    """Return what a message says of an attempt; nothing where it is about something else."""
    event = message.data if isinstance(message.data, dict) else {}
    data = event.get("data")
    return data if event.get("event") == _EVENT and isinstance(data, dict) else {}


def _is_of(data: Mapping[str, Any], attempt: int) -> bool:
    return (
        data.get("attempt") == attempt
        and isinstance(data.get("lines"), list)
        and all(map(_is_line, data["lines"]))
        and isinstance(data.get("status"), dict)
    )


def _is_line(line: object) -> bool:
    return (
        isinstance(line, dict)
        and isinstance(line.get("text"), str)
        and isinstance(line.get("line"), int)
        and isinstance(line.get("stream", ""), str)
        and isinstance(line.get("time", 0), int)
    )


def _message(line: Mapping[str, Any]) -> Message:
    """Return the message of a line that was kept."""
    return Message(
        MessageType.PROCESS_OUTPUT,
        data=line["text"],
        line=line["line"],
        stream=line.get("stream", ""),
        time=line.get("time"),
    )
