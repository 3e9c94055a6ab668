"""Text that Python code writes, live on a hub: log records, and prints.

Must not know processes, clients or sockets: what it writes to is a Publisher.
"""

from __future__ import annotations

import io
import logging
import threading
from typing import Any, TextIO, cast

from .errors import HubFull, HubNotRunning
from .lines import Lines
from .message import channel_rule, check_channel, timestamp
from .publisher import Publisher

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

    Records of ws_hub's own loggers, and what is logged while a record is sent, are left
    out: they would go round in circles.

    Attributes:
        dropped: records that the hub had no room for, or came while it did not run.
    """

    def __init__(self, hub: Publisher, channel: str, level: int = logging.NOTSET) -> None:
        super().__init__(level)
        # A hub with a rule of its own for names says so here, not at every record.
        config = getattr(hub, "config", None)
        check_channel(channel, channel_rule(getattr(config, "channel_name", None)))
        self._hub = hub
        self._channel = channel
        self._inside = threading.local()
        self.dropped = 0  # under the handler's lock, which logging takes around `emit`

    def emit(self, record: logging.LogRecord) -> None:
        """Send one record, or count it as dropped.

        Threads: any, one at a time (`handle` sees to it); does not wait.
        """
        if record.name == _OURS or record.name.startswith(_OURS + "."):
            return
        if getattr(self._inside, "active", False):
            return
        self._inside.active = True
        try:
            self._hub.send_event("log", self._fields(record), channel=self._channel, timeout=0)
        except (HubFull, HubNotRunning):
            self.dropped += 1
        except Exception:  # noqa: BLE001 - logging's contract: a record never breaks the app
            self.handleError(record)
        finally:
            self._inside.active = False

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


class Writer(io.TextIOBase):
    r"""A text file that sends each line to the channel of a process id.

    What a thread prints without a newline waits for its newline, apart from what other
    threads print, so that lines stay whole; `flush` shows it as it is so far (ending in
    `\r`, see `docs/processes.md`), and `close` sends what is left. Writing raises
    ValueError after `close`, and what the hub raises: HubNotRunning, HubFull.
    """

    def __init__(self, hub: Publisher, process_id: str) -> None:
        super().__init__()
        self._hub = hub
        self._process_id = process_id
        # guards: what every thread's Lines holds, _unfinished, _closed.
        # Nothing is taken under it, and nothing is sent.
        self._lock = threading.Lock()
        self._own = threading.local()  # .lines: of each thread
        self._unfinished: dict[Lines, None] = {}  # in the order in which they began
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
        with self._lock:
            self._check_open()
            lines = self._lines()
            ready = lines.feed(data)
            if lines.empty:
                self._unfinished.pop(lines, None)
            else:
                self._unfinished[lines] = None
        self._send(ready)
        return len(text)

    def flush(self) -> None:
        """Show the line that the calling thread has begun.

        Threads: any; waits as `write` does.
        """
        with self._lock:
            self._check_open()
            ready = self._lines().partial()
        self._send(ready)

    def close(self) -> None:
        """Send what is left of every thread's line. Idempotent.

        Threads: any; waits as `write` does.
        """
        ready: list[str] = []
        with self._lock:
            if self._closed:
                return
            for lines in self._unfinished:
                ready += lines.finish()
            self._unfinished.clear()
            self._closed = True
        self._send(ready)

    def _lines(self) -> Lines:
        try:
            lines: Lines = self._own.lines
        except AttributeError:
            lines = self._own.lines = Lines()
        return lines

    def _check_open(self) -> None:
        if self._closed:
            raise ValueError("write to a closed file")

    def _send(self, texts: list[str]) -> None:
        for text in texts:
            self._hub.send_process_output(self._process_id, text)
