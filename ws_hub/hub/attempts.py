"""The last lines of the attempts at a program's work that came before the present one.

The channel of a program keeps its newest lines, whichever run they are of: a retry that prints
much pushes out what made the attempt before it fail. So the hub that begins an attempt first copies
the last lines of the run before to `attempts:<id>`, a channel with a history as any other: one
event for each attempt. Other processes and later ones read it where they share a history store.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from ..backplane.store import HistoryPage
from ..config import HubConfig
from ..errors import HistoryError, HubFull, HubNotRunning, InvalidName
from ..log import get_logger
from ..process.log_reader import LogLine, LogSource, line_fields, read_page
from ..protocol.message import Message, MessageType
from ..protocol.names import ATTEMPTS_PREFIX
from .logs import HistoryLines, Logs, begins

__all__ = ["Attempts", "KeepingHub"]

logger = get_logger(__name__)

_EVENT = "attempt"
_PAGE = 1000  # messages that are read at once
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
        except (HistoryError, HubFull, HubNotRunning, InvalidName) as error:
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
        if not run or status.get("attempt", attempt - 1) >= attempt:
            return None
        number = status.get("attempt", attempt - 1)
        lines = _last(run, hub.config.attempt_bytes)
        ended = {name: value for name, value in status.items() if name not in _OWN}
        data = {"attempt": number, "status": ended, "lines": [line_fields(each) for each in lines]}
        hub.send_event(_EVENT, data, channel=kept)
        return {"attempt": number, **ended, "lines": len(lines)}

    def _last_run(self, channel: str, most: int) -> list[Message]:
        """Return the newest messages of a run: enough for so many bytes, or all of them."""
        found: list[Message] = []
        page = self._hub.history(channel, last=_PAGE)
        while page.messages:
            for message in reversed(page.messages):
                found.append(message)
                most -= len(message.data) if isinstance(message.data, str) else 0
                if begins(message) or most < 0:
                    return found[::-1]
            page = self._hub.history(channel, before=page.messages[0].seq, limit=_PAGE)
        return found[::-1]

    def read(self, process_id: str, attempt: int) -> tuple[LogSource, dict[str, Any] | None]:
        """Return the last lines of an earlier attempt, or the newest one's, and its status.

        Without lines and None where nothing is known of it. Raises HubNotRunning, HistoryError.
        """
        page = self._hub.history(ATTEMPTS_PREFIX + process_id, last=_PAGE)
        for message in reversed(page.messages):
            event = message.data if isinstance(message.data, dict) else {}
            data = event.get("data")
            if event.get("event") == _EVENT and isinstance(data, dict) and _is_of(data, attempt):
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
        """Return the number of the attempt that runs, as its first status says."""
        first = next(iter(self._last_run(channel, sys.maxsize)), None)
        return first.data.get("attempt") if first is not None and begins(first) else None


def _last(run: Sequence[Message], most: int) -> list[LogLine]:
    """Return the last lines of a run, so many bytes of them."""
    source = HistoryLines(iter(run))
    first, last, _ = source.span()
    found: list[LogLine] = []
    for line in reversed(source.dated(read_page(source, first, last - first + 1))):
        most -= len(line.text.encode("utf-8", "replace"))
        if found and most < 0:
            break
        found.append(line)
    return found[::-1]


def _is_of(data: Mapping[str, Any], attempt: int) -> bool:
    return (
        data.get("attempt") == attempt
        and isinstance(data.get("lines"), list)
        and isinstance(data.get("status"), dict)
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
