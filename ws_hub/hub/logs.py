"""Reads the output of programs by lines: from the file of the whole log, or the kept history.

A log's file is that of a program of this process, or, for other processes and after a restart,
the one with the name of its process id in the folder `HubConfig.logs`. Where there is none, or it
is a recording, the lines are those of the messages that the channel keeps.

Threads: any.
"""

from __future__ import annotations

import os
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from ..backplane.store import Middle
from ..errors import HistoryError
from ..lines import GOES_ON, REPLACED
from ..process.log_digest import digest
from ..process.log_folder import find_log, is_recording
from ..process.log_index import FileLines
from ..process.log_reader import (
    LogMatches,
    LogPage,
    LogSource,
    MissingLines,
    Span,
    late_at,
    read_below,
    read_page,
    search_lines,
)
from ..process.log_texts import TextLines
from ..process.log_times import Origin
from ..protocol.message import Message, MessageType
from ..reentrant import Lock
from .statuses import Pages, stored_status_of

__all__ = ["HistoryLines", "Logs", "begins"]

_MOST_LOGS = 10_000  # whose files are known
_MOST_FILES = 64  # whose places are known
_ROWS = 512  # messages behind missing ones, among which some may be missing as well
_CHUNK = 1000  # messages at once
_PATIENCE = 2.0  # seconds of one read, search or digest
_GLANCE = 0.1  # seconds in which a search may look for the end of a log

States = Callable[[str], Mapping[int, bytes]]


class Logs:
    """The logs of the programs of a hub.

    Args:
        folder: returns `HubConfig.logs`.
        pages: `Hub.history`.
        states: returns the states that a channel has beside its history, by their lines.
    """

    def __init__(self, folder: Callable[[], Any], pages: Pages, states: States) -> None:
        self._folder = folder
        self._pages = pages
        self._states = states
        self._paths: OrderedDict[str, str] = OrderedDict()  # process id -> file
        self.forget()

    def forget(self) -> None:
        """Make the locks anew in a forked child.

        Threads: the only one there is, right after the fork, or when it is made.
        """
        # guards: _paths, _files. Nothing is taken under it.
        self._lock = Lock()
        self._files: OrderedDict[str, FileLines] = OrderedDict()

    def add(self, process_id: str, path: str) -> None:
        """Note the file of a program's log, "" for none; it takes the place of the one before."""
        with self._lock:
            self._paths.pop(process_id, None)
            self._paths[process_id] = path
            if len(self._paths) > _MOST_LOGS:
                self._paths.popitem(last=False)

    def path(self, process_id: str) -> str | None:
        """Return the file of a program's log; None where there is none."""
        with self._lock:
            known = self._paths.get(process_id)
        if known == "":
            return None  # a file in the folder is of an earlier run
        if known is not None and os.path.isfile(known):
            return known
        folder = self._folder()
        return None if folder is None else find_log(folder, process_id)

    def source(self, channel: str, process_id: str) -> LogSource:
        """Return where the lines of a program are read from."""
        path = self.path(process_id)
        if path is None or is_recording(path):
            messages, middle = _messages(self._pages, channel)
            return HistoryLines(messages, middle=middle)
        with self._lock:
            found = self._files.setdefault(path, FileLines(path))
            self._files.move_to_end(path)
            if len(self._files) > _MOST_FILES:
                self._files.popitem(last=False)
            return found

    def page(
        self,
        source: LogSource,
        lines: int,
        *,
        first: int | None = None,
        before: int | None = None,
    ) -> LogPage:
        """Return so many lines: from a number on, the last ones below a number, or the newest.

        Of those whose numbers are not known within two seconds none.
        """
        late = late_at(time.monotonic() + _PATIENCE)
        try:
            oldest, newest, is_known = source.span(late)
            if first is None:
                is_there = is_known or (before is not None and before <= newest + 1)
                end = newest + 1 if before is None else min(before, newest + 1)
                first = max(end - lines, oldest)
                found = read_below(source, first, end, late) if is_there else ()
            else:
                found = read_page(source, max(first, oldest), lines, late)
            found = source.dated(found)
            return LogPage(oldest, newest, found, source.name, is_known, source.missing)
        except OSError as error:
            raise _unreadable(error) from error

    def text(self, source: LogSource) -> Iterator[bytes]:
        """Yield all lines in parts, and in the place of missing ones a line that says so."""
        missing = source.missing
        for numbers, data, _ in source.chunks(source.first):
            if missing is not None and data and numbers[0] > missing.after:
                yield (
                    f"(ws_hub: {missing.lines:,} lines, {missing.total_bytes:,} bytes of messages, "
                    "are missing here: no longer kept)\n"
                ).encode()
                missing = None
            if data:
                yield data

    def search(
        self, source: LogSource, text: str, first: int, limit: int, *, ignore_case: bool
    ) -> tuple[LogMatches, Span]:
        """Return lines from a number on that contain a text, and which lines there are.

        Ends after two seconds.
        """
        late = late_at(time.monotonic() + _PATIENCE)
        try:
            lines, after = search_lines(
                source, text, first, limit, ignore_case=ignore_case, late=late
            )
            lines = source.dated(lines)
            # The end is near where it was reached, and of little interest elsewhere.
            span = source.span(late if after is None else late_at(time.monotonic() + _GLANCE))
        except OSError as error:
            raise _unreadable(error) from error
        return LogMatches(lines, after, source.name), span

    def digest(self, source: LogSource) -> dict[str, Any]:
        """Return what a log holds, for tools; see `process.log_digest`."""
        try:
            return digest(source, late=late_at(time.monotonic() + _PATIENCE))
        except OSError as error:
            raise _unreadable(error) from error

    def status(self, channel: str) -> dict[str, Any] | None:
        """Return the status of a program; None where none is known."""
        return stored_status_of(self._pages, self._states, channel)


def _unreadable(error: OSError) -> HistoryError:
    return HistoryError(
        f"the log cannot be read: {error}. It may have been moved or deleted: put it back, or "
        "read what the channel keeps by hub.history(...)"
    )


def _messages(pages: Pages, channel: str) -> tuple[Iterator[Message], Middle | None]:
    """Return the output of the last run that a channel keeps, and what is missing in it."""
    found: list[Message] = []
    after, middle = 0, None
    while (page := pages(channel, since=after, limit=_CHUNK)).messages:
        for message in page.messages:
            if message.type == MessageType.PROCESS_OUTPUT:
                found.append(message)
            elif begins(message):
                found.clear()
        after, middle = page.messages[-1].seq or 0, page.middle
    if middle is None or not found or (found[0].seq or 0) > middle.after:
        return iter(found), None
    return iter(found), middle


def begins(message: Message) -> bool:
    """Return whether a kept message is the status with which a run begins."""
    data = message.data
    return (
        message.type == MessageType.PROCESS_STATUS
        and isinstance(data, dict)
        and data.get("status") == "running"
    )


class HistoryLines(TextLines[Message]):
    """The lines of kept messages, in their last states.

    A message without the number of a line, as of `hub.writer`, counts by its `seq`.

    Args:
        messages: what is kept; what is no output is left out.
        name: what a page is said to be from.
        middle: what is missing between two of these messages; None for nothing.
    """

    def __init__(
        self,
        messages: Iterator[Message],
        name: str = "history",
        *,
        middle: Middle | None = None,
    ) -> None:
        super().__init__(name, _origin)
        before, behind = 0, list[int]()  # the last line before the middle, and those behind it
        piece: int | None = None  # the number of the line that goes on
        for message in messages:
            text = message.data
            if message.type != MessageType.PROCESS_OUTPUT:
                continue
            if not isinstance(text, str) or text.endswith(REPLACED):
                continue
            is_behind = middle is not None and (message.seq or 0) > middle.after
            if is_behind and not behind:
                piece = None  # the rest of that line is missing
            number = message.line if message.line is not None else piece or message.seq or 0
            if is_behind:
                behind.append(number)
            else:
                before = max(before, number)
            self.take(text, number, message)
            piece = number if text.endswith(GOES_ON) and message.line is None else None
        if middle is not None:
            # The first lines behind it may be old ones that have changed.
            lines = self.absent(before, max(behind[:_ROWS], default=before))
            if lines > 0:
                self.missing = MissingLines(before, lines, middle.messages, middle.total_bytes)


def _origin(message: Message) -> Origin:
    return Origin(message.stream or "stdout", message.read_at)
