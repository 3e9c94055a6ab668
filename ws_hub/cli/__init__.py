"""The command line: `ws-hub run`, `up`, `serve`, `tail`, `log` and `publish`.

Messages about the run itself go to stderr; stdout has what the program, or the channel,
prints. Each command is a module of this package.

Ctrl-C, SIGTERM and SIGHUP end each command cleanly: the program gets the same signal,
then SIGTERM, then SIGKILL; viewers get the rest of its output and close code 1001; the
exit code is 128 and the signal's number (130, 143, 129). The handlers only queue the
number; the main thread, which waits at that queue, acts on it, so that no step is
interrupted half way.
"""

from __future__ import annotations

import argparse
import logging
import os
import sys
from collections.abc import Sequence

from .. import __version__
from ..errors import WsHubError
from ..signals import Signals
from .common import USAGE, SayingHandler, fail
from .log import add_log
from .publish import add_publish
from .run import add_run
from .serve import add_serve
from .tail import add_tail
from .up import add_up

__all__ = ["main"]


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; return the exit code.

    Threads: the main thread, because of the signals.
    """
    _open_standard_files()
    arguments = _parser().parse_args(argv)
    logging.basicConfig(format="%(message)s", level=logging.WARNING, handlers=[SayingHandler()])
    for out in (sys.stdout, sys.stderr):
        if hasattr(out, "reconfigure"):
            out.reconfigure(errors="backslashreplace")  # for characters it cannot encode
    with Signals() as signals:
        try:
            code: int = arguments.command(arguments, signals)
            return code
        except (WsHubError, OSError) as error:
            return fail(str(error), USAGE)


def _open_standard_files() -> None:
    """Open /dev/null for each standard file that the shell has closed (`>&-`).

    Otherwise a socket may get its descriptor, and output would be sent to a viewer.
    """
    for fd, (name, mode) in enumerate((("stdin", "r"), ("stdout", "w"), ("stderr", "w"))):
        try:
            os.fstat(fd)
        except OSError:
            os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)  # the lowest free number
        if getattr(sys, name) is None:
            setattr(sys, name, open(fd, mode, encoding="utf-8", closefd=False))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="ws-hub",
        description="Live push for threaded Python: watch a program in any browser.",
        epilog="examples:\n"
        "  ws-hub run --open --wait -- make -j4 all\n"
        "  ws-hub up Procfile\n"
        "  ws-hub tail http://127.0.0.1:8765/ process:make\n"
        "  ws-hub log --last 100 http://127.0.0.1:8765/ make\n"
        "  ws-hub publish --backplane local:///run/app/hub news 'a text'\n"
        "  ws-hub run --help\n",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"ws-hub {__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    add_run(commands)
    add_up(commands)
    add_serve(commands)
    add_tail(commands)
    add_log(commands)
    add_publish(commands)
    return parser
