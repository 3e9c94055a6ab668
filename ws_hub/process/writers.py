"""Publishes text that Python code writes: log records and prints."""

from __future__ import annotations

import collections
import contextlib
import io
import json
import logging
import threading
import time
from collections.abc import Callable
from typing import Any, TextIO, cast

from ..backplane.publisher import AbstractPublisher
from ..errors import ConfigError, HubFull, HubNotRunning, NotConnected, excerpt
from ..lines import Lines
from ..log import get_logger
from ..mask.masks import Masks
from ..mask.stream import StreamMask
from ..protocol.message import stream_text, timestamp
from ..protocol.names import AnyId, channel_rule, check_channel, id_text
from ..reentrant import Lock

__all__ = ["LogHandler", "Writer", "log_handler", "writer"]

logger = get_logger(__name__)

# Characters, and bytes of JSON: together well under the 64 KiB that a Go client accepts.
_MAX_TEXT = 5_000
_MAX_TRACEBACK = 5_000
_MAX_NAME = 200
_BYTES_EACH = 4  # a character may take six
_OURS = "ws_hub"
_REST = 1.0  # seconds for which a publisher that cannot begin is not tried again


def log_handler(hub: AbstractPublisher, channel: str, level: int = logging.NOTSET) -> LogHandler:
    """Return a logging handler that sends records to a channel as events.

    Each event is `{"event": "log", "data": {"level", "name", "message", "time", "thread"}}`,
    with `exception` and `stack` when the record has them. Raises InvalidName for a bad
    channel name.

    Threads: any.
    """
    return LogHandler(hub, channel, level)


def writer(hub: AbstractPublisher, process_id: AnyId, *, stream: str = "stdout") -> TextIO:
    """Return a text file whose lines go to the channel of a process id.

    It is meant for `print(..., file=)` and `contextlib.redirect_stdout`; with the stream
    "stderr" for `redirect_stderr`. Raises InvalidName for a bad process id, and
    MessageEncodeError for another stream.

    Threads: any.
    """
    return cast(TextIO, Writer(hub, process_id, stream=stream))


class LogHandler(logging.Handler):
    """A logging handler that publishes records; it never waits.

    It logs one thing: that a Publisher cannot begin, once until it has. Meanwhile records are
    dropped, and it is tried once a second.

    It does not use logging's handler lock: a signal handler may log while its thread is in
    here, and publishing is safe for any number of threads.

    Records of ws_hub's own loggers, and records logged while the same thread is publishing
    one, are left out: they would cause further records without end.

    Attributes:
        dropped: records for which the hub's queue had no room, that were logged while the
            hub did not run, or while the same thread was publishing one.
    """

    def __init__(self, hub: AbstractPublisher, channel: str, level: int = logging.NOTSET) -> None:
        try:
            super().__init__(level)
        except (TypeError, ValueError):
            raise ConfigError(
                f"level must be one of logging, such as logging.INFO, not {excerpt(level)}"
            ) from None
        # Checked here by the hub's own rule for names, not at every record.
        config = getattr(hub, "config", None)
        check_channel(channel, channel_rule(getattr(config, "channel_name", None)))
        self._hub = hub
        self._channel = channel
        self._inside = threading.local()
        # guards: dropped. Nothing is taken under it.
        self._count = Lock()
        self.dropped = 0
        # Until when nothing is tried, and whether that was told; by single assignments.
        self._rests_until = 0.0
        self._has_told = False

    def createLock(self) -> None:  # noqa: N802 - logging's name
        """Set the lock of logging.Handler to None: this handler needs none."""
        self.lock = None

    def handle(self, record: logging.LogRecord) -> bool:
        """Publish one record, if the filters let it through.

        Threads: any; does not wait.
        """
        passed: Any = self.filter(record)
        if passed:
            # Since Python 3.12 a filter may return another record in its place.
            self.emit(passed if isinstance(passed, logging.LogRecord) else record)
        return passed  # type: ignore[no-any-return]  # as logging.Handler does

    def emit(self, record: logging.LogRecord) -> None:
        """Publish one record, or count it as dropped.

        Threads: any; does not wait.
        """
        if record.name == _OURS or record.name.startswith(_OURS + "."):
            return
        if getattr(self._inside, "active", False) or time.monotonic() < self._rests_until:
            self._drop()
            return
        try:
            self._inside.active = True
            self._hub.send_event("log", self._fields(record), channel=self._channel, timeout=0)
            self._has_told = False
        except (HubFull, HubNotRunning):
            self._drop()
        except (ConfigError, NotConnected) as error:  # of a Publisher that cannot begin
            self._drop()
            self._rests_until = time.monotonic() + _REST
            was_told, self._has_told = self._has_told, True
            if not was_told:
                logger.warning(
                    "what is logged is not published to the channel %s, until this changes: %s",
                    excerpt(self._channel),
                    error,
                )
        except Exception:  # noqa: BLE001 - logging's contract: emit does not raise
            self.handleError(record)
        finally:
            self._inside.active = False

    def _drop(self) -> None:
        with self._count:
            self.dropped += 1

    def _fields(self, record: logging.LogRecord) -> dict[str, Any]:
        text = record.getMessage() if self.formatter is None else self.format(record)
        masked = self._hub.masks.text  # before anything is cut: half a secret is none
        fields = {
            "level": record.levelname,
            "name": _clean(masked(record.name), _MAX_NAME),
            "message": _clean(masked(text), _MAX_TEXT),
            "time": timestamp(record.created),
            "thread": _clean(masked(str(record.threadName)), _MAX_NAME),
        }
        if self.formatter is None:  # a formatter has put them into its text already
            for name, trace in (("exception", _exception(record)), ("stack", record.stack_info)):
                if trace:
                    trace = masked(trace)
                    # The end of a traceback names the exception.
                    fields[name] = _clean(trace[-_MAX_TRACEBACK:], _MAX_TRACEBACK)
        return fields


def _exception(record: logging.LogRecord) -> str | None:
    """Return a record's traceback; a record from another process has its text only."""
    if not record.exc_info:
        return record.exc_text
    if record.exc_info[0] is None:
        return None
    return logging.Formatter().formatException(record.exc_info)


def _clean(text: str, limit: int) -> str:
    """Shorten a text to `limit` characters, and replace lone surrogates."""
    text = text.encode("utf-8", "replace").decode()
    whole, most = len(text), limit * _BYTES_EACH
    text = text[:limit]
    size = len(json.dumps(text, ensure_ascii=False).encode())
    if size > most:  # escapes: a control character takes six bytes
        text = text[: most // 6]
    return text if len(text) == whole else text + "..."


def _masked(lines: Lines, data: bytes) -> bytes:
    return data if lines.mask is None else lines.mask.feed(data)


def _first_line(text: str) -> str:
    """Return the part of a text that continues the current line."""
    return text.replace("\r\n", "\n").partition("\n")[0]


class _Line:
    """An unfinished line of one thread; a signal handler on that thread has another one."""

    __slots__ = ("busy", "lines", "redrawn", "turn", "writes")

    def __init__(self, masks: Masks) -> None:
        self.busy = False  # a call of its thread is changing it
        self.lines = Lines(mask=StreamMask(masks))
        self.redrawn = False  # its text follows a "\r", as that of a progress bar
        self.turn = 0  # the writer's _redraws when this line was last written to
        self.writes = 0  # the writer's _writes at that time


class _ThreadLines:
    """The unfinished lines of a thread; reports them to the writer when the thread ends."""

    __slots__ = ("_ended", "begun")

    def __init__(self, ended: collections.deque[_Line]) -> None:
        self._ended = ended
        self.begun: list[_Line] = []

    def __del__(self) -> None:
        # A finaliser may run between any two bytecodes: it takes no lock and sends nothing.
        # AttributeError: an exception has interrupted __init__.
        with contextlib.suppress(AttributeError):
            self._ended.extend([each for each in self.begun if not each.lines.empty])


class Writer(io.TextIOBase):
    r"""A text file that sends each line to the channel of a process id.

    Text without a newline is kept for each thread until its newline, so that the lines of
    several threads stay whole. `flush` sends the unfinished line of the calling thread as it
    is so far (ending in `\r`, see `docs/processes.md`). `close` sends the unfinished lines
    of all threads; the next write sends those of threads that have ended. An unfinished line
    behind a `\r` (a progress bar) is then left out when it was cleared, or when another
    thread, or that next write, has drawn over it: of a progress bar that a thread of its own
    refreshes, only the last state stays.

    Writing raises ValueError after `close`, and HubNotRunning or HubFull as the hub does.

    A signal handler that prints while its thread is in here begins a line of its own. A
    write that KeyboardInterrupt interrupts is done completely or not at all.
    """

    def __init__(
        self, hub: AbstractPublisher, process_id: AnyId, *, stream: str = "stdout"
    ) -> None:
        super().__init__()
        self._hub = hub
        self._process_id = id_text(process_id, "process id")
        stream_text(stream)  # raises MessageEncodeError
        self._stream = stream
        # guards: the lines of every thread, _unfinished, _redraws, _writes, _closed.
        # No lock is taken under it, and nothing is sent.
        self._lock = Lock()
        self._own = threading.local()  # .line: the _ThreadLines of each thread
        self._unfinished: dict[_Line, None] = {}  # in the order in which they began
        self._redraws = 0  # writes of any thread that began a line anew
        self._writes = 0  # writes of any thread that did not begin with a newline
        # guards: itself, by single calls of C. Filled by finalisers, emptied under the lock.
        self._ended: collections.deque[_Line] = collections.deque()
        self._closed = False
        hub.process_channel(self._process_id)  # raises InvalidName

    @property
    def encoding(self) -> str:  # type: ignore[override] # typeshed has it as a variable
        """Always UTF-8.

        Threads: any.
        """
        return "utf-8"

    @property
    def closed(self) -> bool:
        """Whether `close` was called.

        Threads: any.
        """
        return self._closed

    def writable(self) -> bool:
        """Return True.

        Threads: any.
        """
        return True

    def write(self, text: str, /) -> int:
        """Publish the lines that `text` completes; return its length.

        Threads: any; waits while the hub's queue is full, as `send_process_output` does.
        """
        if not isinstance(text, str):
            raise TypeError(f"write() takes a str, not {excerpt(text)}: decode bytes first")
        # A lone surrogate, as in a file name that is not UTF-8, becomes U+FFFD.
        data = text.encode("utf-8", "surrogatepass")
        self._send(self._change(lambda lines: lines.feed(_masked(lines, data)), text))
        return len(text)

    def flush(self) -> None:
        """Publish the unfinished line of the calling thread as it is so far.

        Threads: any; waits as `write` does.
        """
        self._send(self._change(Lines.partial))

    def close(self) -> None:
        """Publish the unfinished lines of all threads, and refuse writes. Idempotent.

        Threads: any; waits as `write` does.
        """
        with self._lock:
            if self._closed:
                return
            self._closed = True
            self._ended.clear()  # they are in _unfinished as well
            ready: list[str] = []
            for begun in self._unfinished:
                if not begun.busy:  # otherwise the interrupted _change finishes it
                    ready += self._rest_locked(begun)
            self._unfinished.clear()
        self._send(ready)

    def _change(self, change: Callable[[Lines], list[str]], text: str = "") -> list[str]:
        """Change the calling thread's line, by `text`; return the texts that are complete."""
        with self._lock:
            self._check_open()
            ready = self._finish_ended_locked(text)
            begun = self._begun()
            try:
                begun.busy = True
                lines = begun.lines.copy()
                own = change(lines)
                ready += [*self._break_off_locked(begun), *own] if own else []
                begun.lines = lines  # a single step: an exception leaves the old state
                self._note_locked(begun, text)
            finally:
                begun.busy = False
            if self._closed:  # by a signal handler that has interrupted this call
                ready += begun.lines.finish()
        return ready

    def _begun(self) -> _Line:
        try:
            own: _ThreadLines = self._own.line
        except AttributeError:
            own = self._own.line = _ThreadLines(self._ended)
        for begun in own.begun:
            if not begun.busy:
                return begun
        own.begun.append(_Line(self._hub.masks))
        return own.begun[-1]

    def _note_locked(self, begun: _Line, text: str) -> None:
        """Record whether a line is unfinished, and whether it has drawn over others."""
        assert self._lock.locked()
        if text:
            if "\r" in text.replace("\r\n", "\n"):
                self._redraws += 1
            if _first_line(text):
                self._writes += 1
            begun.turn, begun.writes = self._redraws, self._writes
            _, newline, last = text.rpartition("\n")
            begun.redrawn = "\r" in last or (begun.redrawn and not newline)
        if begun.lines.empty:
            self._unfinished.pop(begun, None)
        else:
            self._unfinished[begun] = None

    def _finish_ended_locked(self, text: str) -> list[str]:
        r"""Finish the lines of threads that have ended; return their texts.

        `text` is written next. Without one, lines behind a `\r` are kept: the next write
        after the end of a spinner's thread decides whether its last state is a line.
        """
        assert self._lock.locked()
        ready: list[str] = []
        for _ in range(len(self._ended)):
            begun = self._ended.popleft()
            if begun.redrawn and not text:
                self._ended.append(begun)
                continue
            self._unfinished.pop(begun, None)
            ready += self._rest_locked(begun, text)
        return ready

    def _rest_locked(self, begun: _Line, text: str = "") -> list[str]:
        """Return the text of an unfinished line, unless another thread has drawn over it.

        `text` is written next, and not counted yet.
        """
        assert self._lock.locked()
        if not begun.redrawn or begun.lines.cut:  # published pieces cannot be taken back
            return begun.lines.finish()
        first = _first_line(text)
        drawn_over = begun.turn < self._redraws or "\r" in first
        if begun.lines.returned:  # it ends in "\r": the next text needs none to draw over it
            drawn_over = drawn_over or begun.writes < self._writes or bool(first)
        if drawn_over:
            return []
        # A cleared line is not published as a line, but it replaces the state before it.
        return begun.lines.partial() if begun.lines.blank else begun.lines.finish()

    def _break_off_locked(self, begun: _Line) -> list[str]:
        """End the long lines of other threads of which pieces are published.

        Otherwise the text of this thread would continue another thread's line.
        """
        assert self._lock.locked()
        return [
            text
            for other in self._unfinished
            if other is not begun and not other.busy
            for text in other.lines.break_off()
        ]

    def _check_open(self) -> None:
        if self._closed:
            raise ValueError(
                f"the writer of process id {excerpt(self._process_id)} is closed: get another "
                "from hub.writer(...)"
            )

    def _send(self, texts: list[str]) -> None:
        for text in texts:
            self._hub.send_process_output(self._process_id, text, stream=self._stream)
