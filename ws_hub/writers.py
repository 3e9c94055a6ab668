"""Text that Python code writes, live on a hub: log records, and prints.

Must not know processes, clients or sockets: what it writes to is a Publisher.
"""

from __future__ import annotations

import io
import logging
import threading
from collections.abc import Callable
from typing import Any, TextIO, cast

from .errors import HubFull, HubNotRunning
from .lines import Lines
from .message import check_channel, check_process_id, timestamp
from .publisher import Publisher
from .reentrant import Lock

__all__ = ["LogHandler", "Writer", "log_handler", "writer"]

# Characters. Together well under 64 KiB of JSON, which is what a Go client takes.
_MAX_TEXT = 5_000
_MAX_TRACEBACK = 5_000
_OURS = "ws_hub"


def log_handler(hub: Publisher, channel: str, level: int = logging.NOTSET) -> LogHandler:
    """Return a logging handler that sends records to a channel as events.

    Each is `{"event": "log", "data": {"level", "name", "message", "time", "thread"}}`, with
    `exception` when it carries one. Raises InvalidName for a bad channel name.

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
        rule = getattr(config, "channel_name", None)
        check_channel(channel, *([rule] if rule else []))
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
            "name": _clean(record.name, 200),
            "message": _clean(text, _MAX_TEXT),
            "time": timestamp(record.created),
            "thread": _clean(str(record.threadName), 200),
        }
        if self.formatter is None and record.exc_info and record.exc_info[0] is not None:
            trace = logging.Formatter().formatException(record.exc_info)
            # Its last lines say what happened.
            fields["exception"] = _clean(trace[-_MAX_TRACEBACK:], _MAX_TRACEBACK)
        return fields


def _clean(text: str, limit: int) -> str:
    """Cut a text, and replace what has no UTF-8 form."""
    if len(text) > limit:
        text = text[:limit] + "..."
    return text.encode("utf-8", "replace").decode()


class _Line:
    """What one thread has begun to write; another one where it interrupts itself."""

    __slots__ = ("busy", "lines")

    def __init__(self) -> None:
        self.lines = Lines()
        self.busy = False


class Writer(io.TextIOBase):
    r"""A text file that sends each line to the channel of a process id.

    What a thread prints without a newline waits for its newline, apart from what other
    threads print, so that lines stay whole; `flush` shows it as it is so far (ending in
    `\r`, see `docs/processes.md`), and `close` sends what is left. Writing raises
    ValueError after `close`, and what the hub raises: HubNotRunning, HubFull.

    A signal handler that prints while its thread is in here begins a line of its own. What
    KeyboardInterrupt cuts is written whole or not at all.
    """

    def __init__(self, hub: Publisher, process_id: str) -> None:
        super().__init__()
        self._hub = hub
        self._process_id = process_id
        # guards: what every thread's lines hold, _unfinished, _closed.
        # Nothing is taken under it, and nothing is sent.
        self._lock = Lock()
        self._own = threading.local()  # .lines: of each thread
        self._unfinished: dict[_Line, None] = {}  # in the order in which they began
        self._closed = False
        check_process_id(process_id)

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
        self._send(self._change(lambda lines: lines.feed(data)))
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
        ready: list[str] = []
        with self._lock:
            if self._closed:
                return
            self._closed = True
            for line in self._unfinished:
                if not line.busy:
                    ready += line.lines.finish()
            self._unfinished.clear()
        self._send(ready)

    def _change(self, change: Callable[[Lines], list[str]]) -> list[str]:
        """Change the calling thread's line; return the texts that are ready."""
        with self._lock:
            self._check_open()
            line = self._line()
            try:
                line.busy = True
                lines = line.lines.copy()
                ready = change(lines)
                line.lines = lines  # in one step, whatever comes between these
                if lines.empty:
                    self._unfinished.pop(line, None)
                else:
                    self._unfinished[line] = None
            finally:
                line.busy = False
            if self._closed:  # by whoever interrupted this
                ready += line.lines.finish()
        return ready

    def _line(self) -> _Line:
        try:
            own: list[_Line] = self._own.lines
        except AttributeError:
            own = self._own.lines = []
        for line in own:
            if not line.busy:
                return line
        own.append(_Line())
        return own[-1]

    def _check_open(self) -> None:
        if self._closed:
            raise ValueError("write to a closed file")

    def _send(self, texts: list[str]) -> None:
        for text in texts:
            self._hub.send_process_output(self._process_id, text)
