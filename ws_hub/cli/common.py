"""What the commands share: their options, exit codes, and messages on stderr."""

from __future__ import annotations

import argparse
import contextlib
import logging
import math
import sys
import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any

from .. import threads
from ..signals import Signals
from .margin import TIMES
from .terminal import write_within

__all__ = [
    "DEFAULT_PORT",
    "FAILED",
    "NOT_EXECUTABLE",
    "NOT_FOUND",
    "USAGE",
    "SayingHandler",
    "add_address",
    "add_command",
    "add_layout",
    "begin",
    "count",
    "fail",
    "say",
    "seconds",
]

DEFAULT_PORT = 8765
_PATIENCE = 1.0  # seconds for which a stderr that is not read is waited for
FAILED, USAGE, NOT_EXECUTABLE, NOT_FOUND = 1, 2, 126, 127  # as shells have them


class _Told:
    """Whether stderr is read, as far as is known."""

    is_read = True  # written by any thread


def say(text: str) -> None:
    """Write one message about the run to stderr; a closed stderr is no error.

    One that is not read is waited for, for a second, once: after that messages are left out, until
    it has room. Nothing ends a write that blocks, and a signal has to end the command.

    Threads: any; waits a second at most.
    """
    with contextlib.suppress(OSError, ValueError):
        patience = _PATIENCE if _Told.is_read else 0.0
        _Told.is_read = write_within(sys.stderr, f"ws-hub: {text}\n", patience)


class SayingHandler(logging.Handler):
    """Writes records of the log as `say` does."""

    def emit(self, record: logging.LogRecord) -> None:
        """Write one."""
        say(self.format(record))


def fail(text: str, code: int) -> int:
    """Write a message to stderr; return the exit code given."""
    say(text)
    return code


def begin(
    name: str, work: Callable[[], int], signals: Signals
) -> tuple[threading.Thread, Future[int]]:
    """Have a function called on a thread of its own, and None put to `signals` at its end.

    Return the thread, and what will have the exit code that it returns, or what it raises: the
    main thread waits for a signal meanwhile, and takes it from there.
    """
    outcome: Future[int] = Future()

    def run() -> None:
        try:
            outcome.set_result(work())
        except BaseException as error:  # noqa: BLE001 - the main thread raises it
            outcome.set_exception(error)
        finally:
            signals.put(None)

    return threads.start(name, run), outcome


def add_command(commands: Any, name: str, text: str, examples: str, function: Any) -> Any:
    """Add a command whose parsed arguments go to `function`; return its parser."""
    command = commands.add_parser(
        name,
        help=text,
        description=text[0].upper() + text[1:] + ".",
        epilog=examples,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    command.set_defaults(command=function)
    return command


def add_layout(command: Any, *, stream: str, time: str) -> None:
    """Add --colours, --stream, --mark and --time.

    Args:
        command: the parser.
        stream: the help of --stream.
        time: which times --time is for, in its help.
    """
    command.add_argument(
        "--colours", action="store_true", help="keep colours where stdout is no terminal"
    )
    command.add_argument("--stream", choices=("stdout", "stderr"), help=stream)
    command.add_argument(
        "--mark", action="store_true", help='begin lines of stderr with "! ", others with blanks'
    )
    command.add_argument("--time", choices=TIMES, help=f"begin each line with the time {time}")


def add_address(command: Any, port: str) -> None:
    """Add --host, --port (whose help is `port`) and --allow-host."""
    command.add_argument("--host", default="127.0.0.1", help="address to serve on (127.0.0.1)")
    command.add_argument("--port", type=_port, help=port)
    command.add_argument(
        "--allow-host",
        action="append",
        default=[],
        metavar="NAME",
        help="answer to this host name as well (example.com, *.example.com); can be given "
        "again. On 127.0.0.1 the server answers to localhost and loopback addresses only, "
        "elsewhere to every name, unless one is given",
    )


def _port(text: str) -> int:
    number = int(text)
    if not 0 <= number <= 65535:
        raise ValueError(text)
    return number


_port.__name__ = "port"  # for the messages of argparse


def count(text: str) -> int:
    """Parse a number of at least 0; ValueError otherwise."""
    number = int(text)
    if number < 0:
        raise ValueError(text)
    return number


count.__name__ = "number"


def seconds(text: str) -> float:
    """Parse a finite number of seconds, of at least 0; ValueError otherwise."""
    number = float(text)
    if not 0 <= number < math.inf:
        raise ValueError(text)
    return number
