"""Writes the messages of channels to a terminal or a file.

A terminal shows an unfinished line as it is so far; a file gets each line once, in its
last state (`ws_hub.lines`).
"""

from __future__ import annotations

import codecs
import datetime
import json
import os
import re
import select
import shutil
import time
from collections.abc import Iterator
from typing import Any, TextIO

from ..lines import GOES_ON, REPLACED
from ..protocol.message import FINAL_STATUSES, Message, MessageType, parse_timestamp
from ..reentrant import Lock
from ..rows import STATUS_LINE
from .margin import UNKNOWN, Margin, Origin

__all__ = ["Screen", "describe", "write_within"]

# Control characters of a terminal, and those that change the direction of text.
_CONTROLS = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069]")
_CLEAR = "\x1b[K"
_SEQUENCES = re.compile(r"\x1b(?:\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b]*(?:\x07|\x1b\\))")
_REACH = 64  # lines behind which none changes any more: above the rows of most terminals
_QUIET = 0.5  # seconds after which lines of a program that changes none are written
_LOOK = 0.25  # seconds of one wait for room: then `leave` may apply
_AT_ONCE = getattr(select, "PIPE_BUF", 512)  # bytes that a writable pipe takes at least
_LIMITS = {"timeout": " at its timeout", "idle_timeout": " after its idle timeout"}
_WIDEST = 10  # bytes of a character at most, when it is written as \Uxxxxxxxx


class Screen:
    """Writes the texts of several sources to one output, and keeps their lines whole.

    It raises nothing for an output that is closed at its other end (`| head`), and then
    writes no more. An output that is not read is waited for, as by any program in a pipe,
    until `leave`.

    Args:
        out: the output.
        named: begin each line with its source's name.
        colours: pass colours on where the output is no terminal.
        margin: writes what stands before each line; None for nothing.

    Attributes:
        gone: whether the output is closed at its other end.
        is_terminal: whether it is a terminal.
    """

    def __init__(
        self,
        out: TextIO,
        *,
        named: bool = False,
        colours: bool = True,
        margin: Margin | None = None,
    ) -> None:
        self._out = out
        self._named = named
        self._colours = colours
        self._margin = margin or Margin()
        self.is_terminal = out.isatty()
        self._clear = _CLEAR if self.is_terminal else ""
        self._open: str | None = None  # the source whose line is unfinished
        self._piece = False  # the next text of that line continues it, not replaces it
        self._until: float | None = None
        # Of each source, its lines with numbers that may still change: where they can be
        # drawn anew, in a terminal, or have to be waited for, elsewhere.
        self._lines: dict[str, _Changing] = {}
        self._decode = codecs.getincrementaldecoder("utf-8")("replace").decode
        # guards: everything above but `_until`. Held while the output is waited for.
        self._lock = Lock()
        self.gone = False

    def leave(self, seconds: float) -> None:
        """Wait for an output that is not read for `seconds` more, then give it up.

        Threads: any; does not wait.
        """
        self._until = time.monotonic() + seconds

    def copy(self, data: bytes) -> None:
        """Write a program's output as it is."""
        with self._lock:
            self._write(self._decode(data))

    def text(
        self, source: str, text: str, line: int | None = None, origin: Origin = UNKNOWN
    ) -> None:
        """Write one text of a process's output; its last character tells its kind.

        A newline at its end is accepted: texts that an application sends itself often have
        one. `line` is the number of its line: elsewhere than in a terminal that is written
        once nothing changes it any more, see `settle`. `origin` is for the margin.
        """
        with self._lock:
            if line is None:
                self._settle(source, everything=True)
                self._show(source, text, origin)
            elif self.is_terminal:
                self._redraw(source, text, line, origin)
            else:
                lines = self._lines.setdefault(source, _Changing())
                lines.take(text, line, origin)
                self._settle(source)

    def begin(self, source: str, start: datetime.datetime | None) -> None:
        """Note when a program was started: times are told from there on.

        Threads: any.
        """
        with self._lock:
            self._margin.begin(source, start)

    def settle(self, source: str | None = None, *, everything: bool = False) -> None:
        """Write the lines that have not changed for a moment, or everything.

        `source`: of a program that has ended, all of them.

        Threads: any.
        """
        with self._lock:
            if source is not None:
                self._settle(source, everything=True)
                self._lines.pop(source, None)
                return
            for each in list(self._lines):
                self._settle(each, everything=everything)

    def line(self, text: str) -> None:
        """Write a line that is not part of a process's output."""
        with self._lock:
            self._put("", text, self._clear + "\n", UNKNOWN)
            self._open, self._piece = None, False
            self._lines.clear() if self.is_terminal else None

    def _settle(self, source: str, *, everything: bool = False) -> None:
        lines = self._lines.get(source)
        if lines is not None and not self.is_terminal:
            for text, origin in lines.settled(time.monotonic(), everything=everything):
                self._show(source, text, origin)

    def _redraw(self, source: str, text: str, line: int, origin: Origin) -> None:
        """Show a text of a line in a terminal, in its place where that can be reached."""
        lines = self._lines.setdefault(source, _Changing())
        if line == STATUS_LINE:
            return
        if line > lines.finished:
            self._show(source, text, origin)
            if text[-1:] not in (REPLACED, GOES_ON):
                lines.finished = line
                lines.shown[line] = text, origin
                if len(lines.shown) > _REACH:
                    del lines.shown[next(iter(lines.shown))]
            return
        columns, rows = shutil.get_terminal_size()
        place = sum(1 for each in lines.shown if each >= line)
        known = [each for number, (each, _) in lines.shown.items() if number >= line]
        plain = [plain_text(each) for each in [*known, text]]
        before = [each for number, (_, each) in lines.shown.items() if number < line]
        start = self._margin.time(source, origin, before[-1] if before else UNKNOWN)
        start += self._margin.mark(origin)
        room = columns - len(source) - 2 - len(start)
        fits = all(len(each) < room for each in plain) and place < rows
        if self._named or len(self._lines) > 1 or line not in lines.shown or not fits:
            if text[-1:] != REPLACED:
                self._show(source, text, origin)
            return
        shown = text.removesuffix(REPLACED)
        lines.shown[line] = shown, origin
        self._write(f"\x1b[{place}A\r{start}{shown}{_CLEAR}\x1b[{place}B\r")

    def _show(self, source: str, text: str, origin: Origin) -> None:
        whole = text.endswith("\n")
        if whole:
            text = text[:-1].removesuffix("\r")
        if text.endswith(REPLACED) and not whole:
            if self._clear:
                self._put(source, text[:-1], _CLEAR + "\r", origin)
                self._open = source
        elif text.endswith(GOES_ON) and not whole:
            self._put(source, text[:-1], "", origin)
            self._open, self._piece = source, True
        else:
            self._put(source, text, self._clear + "\n", origin)
            self._open, self._piece = None, False
            self._margin.finished(source, origin)

    def _put(self, source: str, text: str, end: str, origin: Origin) -> None:
        goes_on = self._open == source and self._piece
        start = ""
        if self._open is not None and self._open != source:
            start = "\n"  # another source's line is unfinished
            self._piece = False
        if source and not goes_on:
            name = f"{source}: " if self._named else ""
            start += self._margin.time(source, origin) + name + self._margin.mark(origin)
        if not self.is_terminal and not self._colours and source:
            text = plain_text(text)
        self._write(start + text + end)

    def _write(self, text: str) -> None:
        if self.gone:
            return
        try:
            for piece in _pieces(text):
                self._wait_for_room()
                self._out.write(piece)
                self._out.flush()
        except (OSError, ValueError):
            self.gone = True
            _mute(self._out)

    def _wait_for_room(self) -> None:
        # Nothing ends a write that blocks, neither a signal nor the interpreter's end.
        while not _takes(self._out):
            if self._until is not None and time.monotonic() >= self._until:
                raise TimeoutError("the output is not read")


class _Changing:
    """The lines of one program that may still change.

    Attributes:
        finished: the number of the last line that was finished.
        shown: the last lines in a terminal, by their numbers, and their origins.
    """

    def __init__(self) -> None:
        self.finished = 0
        self.shown: dict[int, tuple[str, Origin]] = {}
        # Of lines that wait; a long line has several.
        self._texts: dict[int, list[tuple[str, Origin]]] = {}
        self._written: dict[int, str] = {}  # the last lines that were written
        self._edited = False  # a line has changed after it was finished
        self._since = 0.0  # when the last line was finished

    def take(self, text: str, line: int, origin: Origin) -> None:
        """Note a text of a line; a state only says that it changes."""
        if line == STATUS_LINE:
            return
        if line <= self.finished and not self._is_piece(line):
            self._edited = True
        if text.endswith(REPLACED):
            return
        if self._is_piece(line):
            self._texts[line].append((text, origin))
        else:
            self._texts[line] = [(text, origin)]
        if not text.endswith(GOES_ON):
            self.finished = max(self.finished, line)
        self._since = time.monotonic()

    def _is_piece(self, line: int) -> bool:
        waiting = self._texts.get(line)
        return bool(waiting and waiting[-1][0].endswith(GOES_ON))

    def settled(self, now: float, *, everything: bool) -> list[tuple[str, Origin]]:
        """Return the texts of lines that do not change any more, in order."""
        everything = everything or (not self._edited and now - self._since >= _QUIET)
        found: list[tuple[str, Origin]] = []
        for line in sorted(self._texts):
            if not everything and line > self.finished - _REACH:
                break
            texts = self._texts.pop(line)
            if self._written.get(line) != texts[-1][0]:
                found += texts
                self._written[line] = texts[-1][0]
        for line in list(self._written)[: max(len(self._written) - _REACH, 0)]:
            del self._written[line]
        return found


def plain_text(text: str) -> str:
    """Return a text without its colours and links."""
    return _SEQUENCES.sub("", text)


def _takes(out: TextIO) -> bool:
    """Wait for _LOOK seconds at most; return whether the output has room."""
    try:
        return bool(select.select([], [out], [], _LOOK)[1])
    except (OSError, ValueError):  # it has no descriptor, or one without select
        return True


def _pieces(text: str) -> Iterator[str]:
    """Yield the pieces of a text that an output takes at once where it has room."""
    size = _AT_ONCE if text.isascii() else _AT_ONCE // _WIDEST
    for start in range(0, len(text), size):
        yield text[start : start + size]


def write_within(out: TextIO, text: str, seconds: float) -> bool:
    """Write a text to an output that may not be read; return whether it was, in this time.

    Raises OSError and ValueError for an output that is closed.

    Threads: any; waits `seconds`, and a quarter of one, at most.
    """
    until = time.monotonic() + seconds
    for piece in _pieces(text):
        while not _takes(out):
            if time.monotonic() >= until:
                return False
        out.write(piece)
        out.flush()
    return True


def _mute(out: TextIO) -> None:
    """Redirect the output to /dev/null: the interpreter flushes its buffer at exit."""
    try:
        nowhere = os.open(os.devnull, os.O_WRONLY)
        try:
            os.dup2(nowhere, out.fileno())
        finally:
            os.close(nowhere)
    except (OSError, ValueError):
        pass  # it has no descriptor to flush to


def describe(message: Message) -> str:
    """Return a message that is not a process's output as a line to read.

    Control characters are escaped: only a process's own output may colour a terminal. The
    text of a status or an error is kept on one line, so that it cannot imitate another
    message.
    """
    data = message.data
    if message.type == MessageType.PROCESS_STATUS:
        return _one_line(f"{message.channel} {_status(data)}")
    parts = [_clock(message.timestamp), message.channel]
    event = data if isinstance(data, dict) else {}
    if message.type == MessageType.EVENT and isinstance(event.get("event"), str):
        record = event.get("data")
        if event["event"] == "log" and isinstance(record, dict) and "message" in record:
            parts += [str(record.get("level", "")), f"{record.get('name', '')}:"]
            more = [record.get(name) for name in ("exception", "stack")]
            parts += [str(record["message"]), *(str(each) for each in more if each)]
        else:
            parts += [event["event"], "" if record is None else _json(record)]
    else:
        parts += [str(message.type), data if isinstance(data, str) else _json(data)]
    text = " ".join(part for part in parts if part).rstrip()
    return _one_line(text) if message.type == MessageType.ERROR else _visible(text)


def _status(data: Any) -> str:
    if not isinstance(data, dict):
        return _json(data)
    status, code, why = data.get("status"), data.get("exitCode"), data.get("error")
    end = f": {why}" if why else ""
    limit = _LIMITS.get(str(data.get("reason")), "")
    if not isinstance(status, str) or status not in FINAL_STATUSES:
        return f"is {status}{end}"  # without the exit code, which a Go hub always sends
    if status == "exited":
        if data.get("signal"):
            return f"was killed by {data['signal']}{limit}"
        return f"exited {code}{limit}" if isinstance(code, int) else f"exited, code unknown{end}"
    return f"{status}{f' {code}' if code else ''}{end}"


def _clock(timestamp: str) -> str:
    try:
        return parse_timestamp(timestamp).astimezone().strftime("%H:%M:%S")
    except (ValueError, OverflowError):
        return ""


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)


def _visible(text: str) -> str:
    return _CONTROLS.sub(lambda match: ascii(match[0])[1:-1], text)


def _one_line(text: str) -> str:
    return _visible(text).replace("\n", "\\n")
