"""Text that Python code writes, live on a hub: log records, and prints.

Must not know processes, clients or sockets: what it writes to is a Publisher.
"""

from __future__ import annotations

import collections
import contextlib
import io
import json
import logging
import threading
from collections.abc import Callable
from typing import Any, TextIO, cast

from ..backplane.publisher import Publisher
from ..errors import HubFull, HubNotRunning
from ..lines import Lines
from ..protocol.message import timestamp
from ..protocol.names import channel_rule, check_channel
from ..reentrant import Lock

__all__ = ["LogHandler", "Writer", "log_handler", "writer"]

# Characters, and bytes of JSON: together well under the 64 KiB that a Go client takes.
_MAX_TEXT = 5_000
_MAX_TRACEBACK = 5_000
_MAX_NAME = 200
_BYTES_EACH = 4  # a character may take six
_OURS = "ws_hub"


def log_handler(hub: Publisher, channel: str, level: int = logging.NOTSET) -> LogHandler:
    """Return a logging handler that sends records to a channel as events.

    Each is `{"event": "log", "data": {"level", "name", "message", "time", "thread"}}`, with
    `exception` and `stack` when it carries them. Raises InvalidName for a bad channel name.

    Threads: any.
    """
    return LogHandler(hub, channel, level)


def writer(hub: Publisher, process_id: str) -> TextIO:
    """Return a text file whose lines go to the channel of a process id.

    For `print(..., file=)` and `contextlib.redirect_stdout`. Raises InvalidName for a
    bad process id.

    Threads: any.
    """
    return cast(TextIO, Writer(hub, process_id))


class LogHandler(logging.Handler):
    """Sends log records to a channel; never waits, and never logs itself.

    It has no lock of `logging`'s: a signal handler may log while its thread is in here, and
    what it hands over to is safe for any number of threads.

    Records of ws_hub's own loggers, and what is logged while a record is sent, are left
    out: they would go round in circles.

    Attributes:
        dropped: records that the hub had no room for, or came while it did not run, or
            while the same thread was sending one.
    """

    def __init__(self, hub: Publisher, channel: str, level: int = logging.NOTSET) -> None:
        super().__init__(level)
        # A hub with a rule of its own for names says so here, not at every record.
        config = getattr(hub, "config", None)
        check_channel(channel, channel_rule(getattr(config, "channel_name", None)))
        self._hub = hub
        self._channel = channel
        self._inside = threading.local()
        # guards: dropped. Nothing is taken under it.
        self._count = Lock()
        self.dropped = 0

    def createLock(self) -> None:  # noqa: N802 - logging's name
        """Have none."""
        self.lock = None

    def handle(self, record: logging.LogRecord) -> bool:
        """Send one record, if the filters let it through.

        Threads: any; does not wait.
        """
        passed: Any = self.filter(record)
        if passed:
            # Since Python 3.12 a filter may return another record in its place.
            self.emit(passed if isinstance(passed, logging.LogRecord) else record)
        return passed  # type: ignore[no-any-return]  # what logging's own returns

    def emit(self, record: logging.LogRecord) -> None:
        """Send one record, or count it as dropped.

        Threads: any; does not wait.
        """
        if record.name == _OURS or record.name.startswith(_OURS + "."):
            return
        if getattr(self._inside, "active", False):
            self._drop()
            return
        try:
            self._inside.active = True
            self._hub.send_event("log", self._fields(record), channel=self._channel, timeout=0)
        except (HubFull, HubNotRunning):
            self._drop()
        except Exception:  # noqa: BLE001 - logging's contract: a record never breaks the app
            self.handleError(record)
        finally:
            self._inside.active = False

    def _drop(self) -> None:
        with self._count:
            self.dropped += 1

    def _fields(self, record: logging.LogRecord) -> dict[str, Any]:
        text = record.getMessage() if self.formatter is None else self.format(record)
        fields = {
            "level": record.levelname,
            "name": _clean(record.name, _MAX_NAME),
            "message": _clean(text, _MAX_TEXT),
            "time": timestamp(record.created),
            "thread": _clean(str(record.threadName), _MAX_NAME),
        }
        if self.formatter is None:  # which would have put them into its text
            for name, trace in (("exception", _exception(record)), ("stack", record.stack_info)):
                if trace:
                    # Its last lines say what happened.
                    fields[name] = _clean(trace[-_MAX_TRACEBACK:], _MAX_TRACEBACK)
        return fields


def _exception(record: logging.LogRecord) -> str | None:
    """Return a record's traceback; of one from another process there is the text alone."""
    if not record.exc_info:
        return record.exc_text
    if record.exc_info[0] is None:
        return None
    return logging.Formatter().formatException(record.exc_info)


def _clean(text: str, limit: int) -> str:
    """Cut a text, and replace what has no UTF-8 form."""
    text = text.encode("utf-8", "replace").decode()
    whole, most = len(text), limit * _BYTES_EACH
    text = text[:limit]
    size = len(json.dumps(text, ensure_ascii=False).encode())
    if size > most:  # escapes: a control character takes six bytes
        text = text[: most // 6]
    return text if len(text) == whole else text + "..."


def _first_line(text: str) -> str:
    """Return what a text puts on the line that was begun before it."""
    return text.replace("\r\n", "\n").partition("\n")[0]


class _Begun:
    """What one thread has written without a newline; another one where it interrupts itself."""

    __slots__ = ("busy", "lines", "redrawn", "turn", "writes")

    def __init__(self) -> None:
        self.busy = False  # a call of its thread is changing it
        self.lines = Lines()
        self.redrawn = False  # it stands behind a "\r", as a progress bar does
        self.turn = 0  # how often the writer had been redrawn when it was last written to
        self.writes = 0  # how often something had been put on a line that was begun


class _Own:
    """Holds what a thread has begun, and says so when the thread is gone."""

    __slots__ = ("_ended", "begun")

    def __init__(self, ended: collections.deque[_Begun]) -> None:
        self._ended = ended
        self.begun: list[_Begun] = []

    def __del__(self) -> None:
        # A finaliser may run inside any line, so it takes no lock and sends nothing. Where
        # an exception has cut what made this, there is nothing in it yet.
        with contextlib.suppress(AttributeError):
            self._ended.extend([each for each in self.begun if not each.lines.empty])


class Writer(io.TextIOBase):
    r"""A text file that sends each line to the channel of a process id.

    What a thread prints without a newline waits for its newline, apart from what other
    threads print, so that lines stay whole; `flush` shows it as it is so far (ending in
    `\r`, see `docs/processes.md`), and `close` sends what is left, as does the next write
    after the end of a thread. Left out is then a state behind a `\r` that another thread has
    drawn over, the next write itself as well, or that was cleared: of a progress bar that a
    thread of its own refreshes, only the end stays.
    Writing raises ValueError after `close`, and what the hub raises: HubNotRunning, HubFull.

    A signal handler that prints while its thread is in here begins a line of its own. What
    KeyboardInterrupt cuts is written whole or not at all.
    """

    def __init__(self, hub: Publisher, process_id: str) -> None:
        super().__init__()
        self._hub = hub
        self._process_id = process_id
        # guards: what every thread has begun, _unfinished, _redraws, _writes, _closed.
        # Nothing is taken under it, and nothing is sent.
        self._lock = Lock()
        self._own = threading.local()  # .line: the _Own of each thread
        self._unfinished: dict[_Begun, None] = {}  # in the order in which they began
        self._redraws = 0  # writes of any thread that began a line anew
        self._writes = 0  # writes of any thread that did not begin with a newline
        # guards: itself, by single calls. Filled by finalisers, emptied under the lock.
        self._ended: collections.deque[_Begun] = collections.deque()
        self._closed = False
        hub.process_channel(process_id)  # raises for an id that is none

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
        """Send the lines that `text` completes; return its length.

        Threads: any; waits while the hub's queue is full, as `send_process_output`.
        """
        if not isinstance(text, str):
            raise TypeError(f"a str is written, not {type(text).__name__}")
        # A lone surrogate, as in a file name that is no UTF-8, becomes U+FFFD.
        data = text.encode("utf-8", "surrogatepass")
        self._send(self._change(lambda lines: lines.feed(data), text))
        return len(text)

    def flush(self) -> None:
        """Show the line that the calling thread has begun.

        Threads: any; waits as `write` does.
        """
        self._send(self._change(Lines.partial))

    def close(self) -> None:
        """Send what is left of every thread's line. Idempotent.

        Threads: any; waits as `write` does.
        """
        with self._lock:
            if self._closed:
                return
            self._closed = True
            self._ended.clear()  # they are among the unfinished
            ready: list[str] = []
            for begun in self._unfinished:
                if not begun.busy:  # else whoever changes it ends it
                    ready += self._rest_locked(begun)
            self._unfinished.clear()
        self._send(ready)

    def _change(self, change: Callable[[Lines], list[str]], text: str = "") -> list[str]:
        """Change what the calling thread has begun, by `text`; return the texts that are ready."""
        with self._lock:
            self._check_open()
            ready = self._let_go_locked(text)
            begun = self._begun()
            try:
                begun.busy = True
                lines = begun.lines.copy()
                own = change(lines)
                ready += [*self._break_off_locked(begun), *own] if own else []
                begun.lines = lines  # in one step, whatever comes between these
                self._note_locked(begun, text)
            finally:
                begun.busy = False
            if self._closed:  # by whoever interrupted this
                ready += begun.lines.finish()
        return ready

    def _begun(self) -> _Begun:
        try:
            own: _Own = self._own.line
        except AttributeError:
            own = self._own.line = _Own(self._ended)
        for begun in own.begun:
            if not begun.busy:
                return begun
        own.begun.append(_Begun())
        return own.begun[-1]

    def _note_locked(self, begun: _Begun, text: str) -> None:
        """Keep in mind what a thread has begun, and whether it has drawn over others."""
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

    def _let_go_locked(self, text: str) -> list[str]:
        """Return the lines of threads that are gone, which are kept no longer.

        `text` is what is written next. Where it is none, states are kept: what comes after
        the end of a spinner's thread says whether its last state is a line.
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

    def _rest_locked(self, begun: _Begun, text: str = "") -> list[str]:
        """Return a line as it was left, unless another thread has drawn over it.

        `text` is what is written next, and has not been counted yet.
        """
        assert self._lock.locked()
        if not begun.redrawn or begun.lines.cut:  # pieces cannot be taken back
            return begun.lines.finish()
        first = _first_line(text)
        drawn_over = begun.turn < self._redraws or "\r" in first
        if begun.lines.returned:  # then a text needs no "\r" of its own
            drawn_over = drawn_over or begun.writes < self._writes or bool(first)
        if drawn_over:
            return []
        # What was cleared is no line, but the state before it is not to be left standing.
        return begun.lines.partial() if begun.lines.blank else begun.lines.finish()

    def _break_off_locked(self, begun: _Begun) -> list[str]:
        """End the long lines of other threads, of which pieces are out.

        Or the text of this one would go on with another's line.
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
            raise ValueError("write to a closed file")

    def _send(self, texts: list[str]) -> None:
        for text in texts:
            self._hub.send_process_output(self._process_id, text)
