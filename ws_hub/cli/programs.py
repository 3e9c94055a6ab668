"""What the commands that run programs share: their terminals, exit codes and late viewers."""

from __future__ import annotations

import argparse
import signal
import sys
import threading
from typing import Any

from ..signals import Signals
from .common import say

__all__ = [
    "add_pty",
    "add_watching",
    "keep_exit_codes",
    "serve_on",
    "wait_for_signal",
    "wants_pty",
]

_VIEWER_WITHIN = 10.0  # seconds in which a browser, started by --open, must connect


def add_pty(command: Any, which: str) -> None:
    """Add --pty and --no-pty; `which` programs they are for, is said in the help."""
    command.add_argument(
        "--pty",
        action=argparse.BooleanOptionalAction,
        help=f"run {which} in a terminal of its own, so that it keeps its colours "
        "(by default when stdout is a terminal)",
    )


def wants_pty(arguments: argparse.Namespace) -> bool:
    """Return whether programs get a terminal of their own."""
    return sys.stdout.isatty() if arguments.pty is None else bool(arguments.pty)


def keep_exit_codes() -> None:
    """Set SIGCHLD to its default: ignored, as a parent may have left it, it hides exit codes.

    Threads: the main thread.
    """
    if signal.getsignal(signal.SIGCHLD) is signal.SIG_IGN:
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)


def add_watching(command: Any) -> None:
    """Add --open and --wait."""
    command.add_argument("--open", action="store_true", help="open the page in a browser")
    command.add_argument(
        "--wait", action="store_true", help="serve the page after the exit, until Ctrl-C"
    )


def serve_on(
    arguments: argparse.Namespace, signals: Signals, watched: threading.Event, ended: str
) -> None:
    """Serve the page after the programs' end for as long as --wait and --open have it.

    Args:
        arguments: have --wait and --open.
        signals: one of them ends --wait.
        watched: set once there is a viewer.
        ended: says what has ended.

    Threads: the main thread; blocks.
    """
    if arguments.wait:
        say(f"{ended}; the page is served until Ctrl-C")
        wait_for_signal(signals)
    elif arguments.open:
        watched.wait(_VIEWER_WITHIN)  # otherwise the browser may find no server


def wait_for_signal(signals: Signals) -> int:
    """Wait for a signal; return its number.

    The ends of programs are entries of the queue too, of which some may be left.

    Threads: the main thread; blocks.
    """
    while (number := signals.wait()) is None:
        pass
    return number
