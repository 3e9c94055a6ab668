"""The whole output of a program in a file: its final lines, or a recording with times.

Line N of a text log is the line with the number N on the wire (`ws_hub.lines`). It is written when
it is finished; an unfinished one as it is so far, when one behind it is finished (of two streams
each has an unfinished line). When the program changes a line after that, it is written anew, and so
are those behind it, a second later at most: as long as it is among the last 1,024, and the last
megabyte.

A log never ends the delivery: what cannot be written is counted, and it is tried again each second.

Threads: one writes, that of the program's output. Any may read the attributes, and tell a new size.
"""

from __future__ import annotations

import codecs
import collections
import contextlib
import json
import os
import secrets
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from ..errors import ConfigError, excerpt
from ..lines import GOES_ON, MAX_PIECE, REPLACED, Texts
from ..log import get_logger
from ..validation import check_flag, is_path
from .log_folder import file_name, is_recording
from .log_sink import GzipSink, Mark, PlainSink, Sink
from .log_times import TimesFile, drop_times, make_times
from .spawn import ProcessStartError

__all__ = [
    "MARK_LINES",
    "PIPES",
    "CastLog",
    "LogFile",
    "ProcessLog",
    "TextLog",
    "as_log",
    "open_log",
]

logger = get_logger(__name__)

PIPES = "pipes"  # a tag of recordings: no terminal has broken their lines
MARK_LINES = 1024  # lines between two places that can be returned to
_TAIL_BYTES = 1 << 20  # of lines that can still be replaced
_FLUSH_BYTES = 1 << 16  # of text that is compressed at once
_FLUSH_AFTER = 0.25  # seconds after which compressed text is in the file
_STATES_AFTER = 1.0  # seconds after which a line that is drawn anew is so in the file
_RETRY = 1.0  # seconds until it is tried again to write

Path = str | os.PathLike[str]


@dataclass(frozen=True, slots=True)
class ProcessLog:
    """Where `run_process` writes the whole output of a program.

    `.cast` at the end of the path, before `.gz`, makes it a recording with times (asciicast v3);
    anything else a text of lines. `.gz` compresses it.

    Args:
        path: the file, in a folder that exists.
        overwrite: whether a file that is there is replaced.
        times: whether the streams and times of a text's lines are kept, in a second file beside
            it, `<path>.times`. A recording has times in any case.

    Raises ConfigError for what is no path.

    Threads: any.
    """

    path: Path
    overwrite: bool = False
    times: bool = True

    def __post_init__(self) -> None:
        path = self.path
        if not is_path(path):
            raise ConfigError(
                f"log must be the path of a file, such as 'builds/42.log', not {excerpt(path)}"
            )
        check_flag(self, "overwrite")
        check_flag(self, "times")

    @property
    def is_recording(self) -> bool:
        """Whether the log is a recording with times.

        Threads: any.
        """
        return is_recording(self.path)

    @property
    def is_compressed(self) -> bool:
        """Whether the log is compressed.

        Threads: any.
        """
        return os.fspath(self.path).endswith(".gz")


def as_log(given: object, process_id: str, folder: Path | None = None) -> ProcessLog | None:
    """Return what the argument `log` of `run_process` stands for; raises ConfigError.

    Args:
        given: a ProcessLog; a path, for one that is not to be overwritten; True for a file of the
            folder that is named by the process id; None or False for no log.
        process_id: the process id.
        folder: `HubConfig.logs`: where relative paths begin, and stay.
    """
    if given is None or given is False:
        return None
    if given is True:
        if folder is None:
            raise ConfigError(
                "log=True needs HubConfig(logs=...), the folder of the logs: set it, or give the "
                "path of a file"
            )
        given = file_name(process_id)
    log = given if isinstance(given, ProcessLog) else ProcessLog(given)  # type: ignore[arg-type]
    if folder is None or os.path.isabs(log.path):
        return log
    base, path = os.path.realpath(folder), os.path.realpath(os.path.join(folder, log.path))
    if os.path.commonpath([base, path]) != base:
        raise ConfigError(
            f"log must stay inside HubConfig.logs, {excerpt(base)}, and {excerpt(log.path)} leads "
            "out of it: give a path below it, or an absolute one"
        )
    with contextlib.suppress(OSError):  # open_log says it
        os.makedirs(os.path.dirname(path), 0o700, exist_ok=True)
    return replace(log, path=path)


def open_log(log: ProcessLog) -> LogFile:
    """Make the file of a log, which only its user may read; raises ProcessStartError."""
    path = os.path.abspath(log.path)
    # The new file is made beside the old one, which those that read it keep whole: so it cannot
    # have the old one's number, by which readers know it.
    made = f"{path}.{secrets.token_hex(4)}" if log.overwrite else path
    try:
        fd = os.open(made, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        if log.overwrite:
            try:
                os.replace(made, path)
            except BaseException:
                os.close(fd)
                os.unlink(made)
                raise
    except FileExistsError as error:
        raise ProcessStartError(
            f"the log {excerpt(path)} exists already: choose another path, or replace it with "
            "log=ProcessLog(path, overwrite=True)"
        ) from error
    except (OSError, ValueError) as error:
        raise ProcessStartError(
            f"the log {excerpt(path)} cannot be written: {error}. Its folder must be there, and "
            "must let us write"
        ) from error
    try:
        os.fchmod(fd, 0o600)  # whatever the umask is
        sink = GzipSink(fd) if log.is_compressed else PlainSink(fd)
        if log.is_recording:
            return CastLog(path, sink)
        if log.times:
            return TextLog(path, sink, times=make_times(path, fd))
        drop_times(path)
        return TextLog(path, sink)
    except BaseException:
        os.close(fd)
        raise


class LogFile:
    """A log that is being written, and what is known of it.

    Args:
        path: the file.
        sink: writes it.
        clock: returns monotonic seconds.

    Attributes:
        path: the file.
        due: when to call `turn` at the latest, by the clock; None for no need.
        error: why something could not be written; "" while nothing was lost.
    """

    def __init__(self, path: str, sink: Sink, clock: Callable[[], float] = time.monotonic) -> None:
        self.path = path
        self.due: float | None = None
        self.error = ""
        self._sink = sink
        self._clock = clock
        self._retry_at: float | None = None  # after a failure: nothing is put before that

    @property
    def lost(self) -> int:
        """How many lines, or events of a recording, could not be written."""
        raise NotImplementedError

    def begin(self, size: tuple[int, int] | None) -> None:
        """Take columns and rows of the program's terminal, before all else; None: it has none."""

    def lines(self, texts: Texts, stream: str = "stdout") -> None:
        """Take texts of a stream of the program, after whatever hides secrets in them."""

    def output(self, stream: str, data: bytes) -> None:
        """Take what was read from a stream, after whatever hides secrets in it."""

    def resized(self, columns: int, rows: int) -> None:
        """Take the new size of the program's terminal.

        Threads: any; does not wait.
        """

    def turn(self) -> None:
        """Write what waits, if it is due."""
        if self.due is not None and self.due <= self._clock():
            self._flush()

    def close(self, code: int | None = None) -> None:
        """Write the rest, to the disk, and close the file; `code` is the program's exit code."""
        self._retry_at = None
        self._finish(code)
        self._flush()
        try:
            self._sink.close()
        except OSError as error:
            self._note(error)

        self._close_more()

    def discard(self) -> None:
        """Close the file and delete it: the program was not started."""
        with contextlib.suppress(OSError):
            self._sink.close()
        self._close_more()
        with contextlib.suppress(OSError):
            os.unlink(self.path)

    def _close_more(self) -> None:
        """Close what belongs to the file."""

    def _finish(self, code: int | None) -> None:
        raise NotImplementedError

    def _written(self) -> None:
        """Note that everything that was put is in the file."""
        raise NotImplementedError

    def _failed(self) -> None:
        """Note that what was put since `_written` is not in the file."""
        raise NotImplementedError

    def _prepare(self) -> bool:
        """Put what is to be written first, as after a failure; return whether it may go on."""
        raise NotImplementedError

    def _before_text(self) -> None:
        """Write what is to be there when what was put can be read."""

    def _ends_line(self) -> bool:
        return True

    def _plan(self) -> None:
        """Write what was put: now, or, where that is compressed, a little later."""
        if isinstance(self._sink, GzipSink) and self._sink.pending < _FLUSH_BYTES:
            if self.due is None:
                self.due = self._clock() + _FLUSH_AFTER
            return
        self._flush()

    def _flush(self) -> None:
        self.due = None
        if self._retry_at is not None:
            if self._clock() < self._retry_at:
                self.due = self._retry_at
                return
            self._retry_at = None
        try:
            if not self._prepare():
                return
            self._before_text()
            self._sink.flush(may_cut=self._ends_line())
        except OSError as error:
            self._note(error)
            self._failed()
            self._retry_at = self.due = self._clock() + _RETRY
        else:
            self._written()

    def _note(self, error: OSError) -> None:
        if not self.error:
            logger.warning(
                "the log %s cannot be written: %s. Its program goes on, and so do its viewers; it "
                "is tried again each second, and what is missing is counted",
                excerpt(self.path),
                error,
            )
        self.error = str(error)


class TextLog(LogFile):
    """A log of lines, of which line N has the number N.

    Args:
        path: the file.
        sink: writes it.
        clock: returns monotonic seconds.
        times: takes the streams and times of the lines; None for nothing.
    """

    def __init__(
        self,
        path: str,
        sink: Sink,
        clock: Callable[[], float] = time.monotonic,
        *,
        times: TimesFile | None = None,
    ) -> None:
        super().__init__(path, sink, clock)
        self._times = times
        self._next = 1  # number of the line that is being put, or is put next
        self._open = False  # something of it was put
        self._states: dict[int, str] = {}  # of unfinished lines, the newest
        self._pieces: dict[int, list[str]] = {}  # of lines before that, until they are whole
        self._states_at: float | None = None  # when to write those that are in the file
        # Unfinished lines before that: whether pieces of them were put.
        self._unfinished: dict[int, bool] = {}
        self._changed: dict[int, bytes] = {}  # lines before that, to be written anew
        self._good = (1, False)  # _next and _open at the last flush
        self._gap: int | None = None  # number of the first line that is missing
        self._lost = 0
        # Places behind flushes, one or two, with the numbers of the lines there; and what
        # follows the first of them, to write it anew when a line of it has changed.
        self._marks: list[tuple[int, Mark]] = [(1, sink.mark())]
        self._tail: list[bytes] = []
        self._tail_bytes = 0

    @property
    def lost(self) -> int:
        """How many lines could not be written, or not as they are in the end."""
        missing = 0 if self._gap is None else self._next - self._gap + self._open
        return self._lost + missing

    def lines(self, texts: Texts, stream: str = "stdout") -> None:
        """Write the lines that are finished."""
        whole = self._follow(texts, texts.numbers)
        if self._times is not None:
            self._times.take(texts, stream, whole=whole)
        if whole:
            for start in range(0, len(texts), MARK_LINES):
                part = texts[start : start + MARK_LINES]
                self._put("\n".join([*part, ""]), len(part))
        else:
            for text, number in zip(texts, texts.numbers, strict=True):
                if number:  # 0 is the status row
                    self._take(text, number)
        self._plan()
        self._await_states()

    def turn(self) -> None:
        """Write what waits, if it is due."""
        if self._states_at is not None and self._states_at <= self._clock():
            self._keep_states()
            self._flush()
        super().turn()
        self._await_states()

    def _await_states(self) -> None:
        if self._states_at is not None and (self.due is None or self._states_at < self.due):
            self.due = self._states_at

    def _follow(self, texts: Sequence[str], numbers: Sequence[int]) -> bool:
        """Whether these are whole lines that follow the last one, as nearly always."""
        first = self._next
        if not numbers or numbers[0] != first or self._open or self._states:
            return False
        if list(numbers) != list(range(first, first + len(numbers))):
            return False
        joined = "".join(texts)
        return GOES_ON not in joined and REPLACED not in joined

    def _take(self, text: str, number: int) -> None:
        if text.endswith(REPLACED):
            if number >= self._next or (self._marks and number >= self._marks[0][0]):
                self._states[number] = text[:-1]
                if number < self._next and self._states_at is None:
                    self._states_at = self._clock() + _STATES_AFTER
            return
        goes_on = text.endswith(GOES_ON)
        body = text[:-1] if goes_on else text
        while number > self._next:
            self._end_as_it_is()
        if number == self._next:
            self._states.pop(number, None)
            if goes_on:
                self._open = True
                self._put(body, 0)
            else:
                self._put(body + "\n", 1)
            return
        pieces = self._pieces.setdefault(number, [])
        pieces.append(body)
        if not goes_on:
            self._states.pop(number, None)
            self._replace(number, "".join(self._pieces.pop(number)))

    def _end_as_it_is(self) -> None:
        """Write an unfinished line so far: it is written anew when it is finished."""
        self._unfinished[self._next] = self._open
        self._put(self._states.pop(self._next, "") * (not self._open) + "\n", 1)

    def discard(self) -> None:
        """Close the file and delete it: the program was not started."""
        super().discard()
        if self._times is not None:
            drop_times(self.path)

    def _close_more(self) -> None:
        if self._times is not None:
            self._times.close()

    def _finish(self, code: int | None) -> None:
        self._keep_states()
        visible = [number for number, state in self._states.items() if state]
        last = max([*visible, self._next if self._open else 0])
        while self._next <= last:
            self._end_as_it_is()

    def _put(self, text: str, lines: int) -> None:
        """Put text in which so many lines end."""
        if self._gap is None:
            data = text.encode("utf-8", "replace")
            self._sink.put(data)
            if self._marks:
                self._tail.append(data)
                self._tail_bytes += len(data)
        self._next += lines
        self._open = self._open and not lines
        if self._tail_bytes > _TAIL_BYTES:
            self._flush()
            self._forget_tail()
        if self._open or self._gap is not None:
            return
        if not self._marks or self._next - self._marks[-1][0] >= MARK_LINES:
            self._keep_states()
            self._flush()
            if self._gap is None:
                self._set_mark()

    # --- lines that have changed -----------------------------------------------------------

    def _replace(self, number: int, text: str) -> None:
        """Have a line be written anew, and so those behind it."""
        if not self._may_change(number):
            self._lost += 1
            return
        data = text.encode("utf-8", "replace")
        if self._unfinished.pop(number, False):
            place = number - self._marks[0][0]
            data = b"".join(self._tail).split(b"\n")[place] + data
        self._changed[number] = data

    def _may_change(self, number: int) -> bool:
        """Whether a line can be written anew. Readers trust the places of much older ones."""
        if self._gap is not None or not self._marks:
            return False
        return number >= max(self._marks[0][0], self._next - 2 * MARK_LINES)

    def _keep_states(self) -> None:
        """Have lines that are in the file be written anew as they are by now."""
        self._states_at = None
        for number in [each for each in self._states if each < self._next]:
            state = self._states.pop(number)
            if self._may_change(number):
                if not self._unfinished.get(number) and len(state) < MAX_PIECE:
                    self._changed[number] = state.encode("utf-8", "replace")

    def _rewrite(self) -> None:
        """Put the lines anew that have changed, and those behind the first of them."""
        first, mark = self._marks[0]
        lines = b"".join(self._tail).split(b"\n")
        for number, data in self._changed.items():
            lines[number - first] = data
        self._changed.clear()
        self._sink.rewind(mark)
        self._good = first, False
        del self._marks[1:]
        self._tail = [b"\n".join(lines)]
        self._tail_bytes = len(self._tail[0])
        self._sink.put(self._tail[0])

    def _set_mark(self) -> None:
        """Set a mark behind the last flush, and forget the older one of two."""
        self._marks.append((self._next, self._sink.mark()))
        if len(self._marks) > 2:
            del self._marks[0]
            first = self._marks[0][0]
            self._unfinished = {
                number: cut for number, cut in self._unfinished.items() if number >= first
            }
            lines = b"".join(self._tail).split(b"\n")
            self._tail = [b"\n".join(lines[first - self._next - 1 :])]
            self._tail_bytes = len(self._tail[0])

    def _forget_tail(self) -> None:
        """Have no line be written anew that is in the file by now."""
        self._marks, self._tail, self._tail_bytes = [], [], 0
        self._unfinished.clear()
        self._lost += len(self._changed)
        self._changed.clear()

    # --- what cannot be written ------------------------------------------------------------

    def _before_text(self) -> None:
        if self._times is not None and self._sink.pending:
            self._times.flush()

    def _ends_line(self) -> bool:
        return not self._open

    def _written(self) -> None:
        self._good = self._next, self._open

    def _failed(self) -> None:
        if self._gap is None:
            self._gap = self._good[0]
        self._forget_tail()

    def _prepare(self) -> bool:
        if self._changed:
            self._rewrite()
        if self._gap is None:
            return True
        missing = self._next - self._gap
        if self._open or not missing:
            self.due = self._clock() + _RETRY
            return False
        note = f"(ws_hub: {missing:,} lines from here on were not written: {self.error})"
        self._sink.put(note.encode("utf-8", "replace") + b"\n" * missing)
        self._sink.flush(may_cut=True)
        self._lost += missing
        self._gap = None
        self._set_mark()
        return True


class CastLog(LogFile):
    """A recording with times: asciicast v3, as the programs of asciinema read it.

    It has what the program printed, the sizes of its terminal and its exit code. What was typed
    is not in it: a terminal shows that where it may be seen, and what it does not show is secret.

    Args:
        path: the file.
        sink: writes it.
        clock: returns monotonic seconds.
    """

    def __init__(self, path: str, sink: Sink, clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__(path, sink, clock)
        self._decoders: dict[str, Any] = {}
        self._is_terminal = False
        self._header: dict[str, Any] | None = None  # until it is written
        self._last = self._good = 0.0  # when the last event was: of those put, of those written
        self._lost = 0
        self._events = 0  # put since the last flush
        self._size: tuple[int, int] | None = None  # as it was recorded last
        # guards: itself, by single calls. When the terminal got a new size, and which.
        self._sizes: collections.deque[tuple[float, tuple[int, int]]] = collections.deque()

    def begin(self, size: tuple[int, int] | None) -> None:
        """Write the header."""
        self._is_terminal = size is not None
        self._size = columns, rows = size or (80, 24)
        term = {"cols": columns, "rows": rows, "type": os.environ.get("TERM") or "xterm-256color"}
        self._header = {"version": 3, "term": term, "timestamp": int(time.time())}
        if not self._is_terminal:
            self._header["tags"] = [PIPES]
        self._last = self._good = round(self._clock(), 6)
        self._flush()

    @property
    def lost(self) -> int:
        """How many events could not be written."""
        return self._lost

    def output(self, stream: str, data: bytes) -> None:
        """Record what was read."""
        self._record_sizes()
        decoder = self._decoders.get(stream)
        if decoder is None:
            decoder = codecs.getincrementaldecoder("utf-8")("replace")
            self._decoders[stream] = decoder
        self._record("o", decoder.decode(data))

    def resized(self, columns: int, rows: int) -> None:
        """Record the new size of the program's terminal, before the next output.

        Threads: any; does not wait.
        """
        self._sizes.append((self._clock(), (columns, rows)))

    def _record_sizes(self) -> None:
        while self._sizes:
            moment, size = self._sizes.popleft()
            if size != self._size:
                self._size = size
                self._record("r", f"{size[0]}x{size[1]}", moment)

    def _finish(self, code: int | None) -> None:
        self._record_sizes()
        for decoder in self._decoders.values():
            self._record("o", decoder.decode(b"", True))
        if code is not None:
            self._record("x", str(code if code >= 0 else 128 - code))

    def _record(self, kind: str, text: str, moment: float | None = None) -> None:
        if not text:
            return
        if kind == "o" and not self._is_terminal:
            text = text.replace("\n", "\r\n")  # as a terminal makes of it
        if self._retry_at is not None:
            if self._clock() < self._retry_at:
                self._lost += 1
                return
            self._flush()
        # Of the difference between rounded times, so that no error adds up. A size may be older
        # than an output that was recorded before it.
        now = max(round(self._clock() if moment is None else moment, 6), self._last)
        passed, self._last = round(now - self._last, 6), now
        self._sink.put(_json([passed, kind, text]))
        self._events += 1
        self._plan()

    def _written(self) -> None:
        self._header = None
        self._events, self._good = 0, self._last

    def _failed(self) -> None:
        self._lost += self._events
        self._events, self._last = 0, self._good

    def _prepare(self) -> bool:
        if self._header is not None and not self._events:
            self._sink.put(_json(self._header))
        return True


def _json(value: object) -> bytes:
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"))
    return text.encode("utf-8", "replace") + b"\n"
