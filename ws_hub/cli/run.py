"""`ws-hub run`: runs a program, or reads a pipe, and shows its output here and on a page."""

from __future__ import annotations

import argparse
import contextlib
import functools
import os
import queue
import re
import shutil
import signal
import stat
import sys
import threading
import webbrowser
from typing import Any, TextIO

from .. import threads
from ..config import HubConfig
from ..errors import ConfigError
from ..hub.hub import Hub
from ..process.log_file import ProcessLog
from ..process.piped import stream_input
from ..process.process import ExitCodeUnknown, Process, ProcessStartError, run_process
from ..protocol.names import process_channel
from ..signals import Signals
from .common import (
    DEFAULT_PORT,
    FAILED,
    NOT_EXECUTABLE,
    NOT_FOUND,
    USAGE,
    add_address,
    add_command,
    fail,
    say,
)
from .console import Console, terminal_size
from .masking import add_masks, secrets_of
from .programs import add_pty, add_watching, keep_exit_codes, serve_on, wants_pty
from .serve import page_url, served
from .terminal import Screen

__all__ = ["add_run"]

_FORWARD_FOR = 2.0  # seconds in which a program may end by the signal that we got
_JOIN = 5.0
_INPUT = ["-"]  # in place of the command: the standard input
_SIZE = (100, 40)  # columns and lines of the program's terminal where we have none

_EXIT_CODES = """\
exit codes:
  that of the command; 128 + N when signal N ended it; 1 when it cannot be known;
  0 at the end of an input;
  126, 127 when the command cannot be started;
  130 after Ctrl-C, 143 after SIGTERM; 2 for a wrong option or a port in use
"""
_RUN_EXAMPLES = f"""\
examples:
  ws-hub run -- make -j4 all
  ws-hub run --open --wait -- pytest -v
  ws-hub run --host 0.0.0.0 --port 9000 --id build-42 --pty -- ./build.sh
  make 2>&1 | ws-hub run --id build-42 -

a lone - in place of the command streams the standard input, to its end

input:
  the command gets ours: what is typed, or the pipe or file as it is. In a terminal of its own
  each key goes to it as it is typed, Ctrl-C and Ctrl-Z too; Ctrl-C three times within a
  second ends a command that ignores it. Without input (< /dev/null) each read returns the end
  of its input, in a terminal of its own too; in the background (&) nothing is read

{_EXIT_CODES}"""


def add_run(commands: Any) -> None:
    """Add the command to the parser."""
    text = "run a program and show its output live on a page"
    command = add_command(commands, "run", text, _RUN_EXAMPLES, _run)
    add_address(command, f"port to serve on ({DEFAULT_PORT}, or a free one when that is taken)")
    command.add_argument("--id", help="names the process (the program's name)")
    command.add_argument(
        "--log",
        metavar="FILE",
        help="write all of the output to a new file: text, or a recording "
        "with times (.cast); compressed (.gz)",
    )
    add_pty(command, "it")
    add_masks(command)
    add_watching(command)
    command.add_argument("argv", nargs=argparse.REMAINDER, metavar="-- CMD ARGS")


def _run(arguments: argparse.Namespace, signals: Signals) -> int:
    wrong = _check(arguments)
    if wrong:
        return fail(f"run: {wrong}", USAGE)
    is_input = arguments.argv == _INPUT
    argv = arguments.argv[1:] if arguments.argv[:1] == ["--"] else arguments.argv
    watched = threading.Event()
    hub = Hub(HubConfig(on_first_subscriber=lambda channel: watched.set()))
    try:
        hub.mask(*secrets_of(arguments))
    except (ConfigError, OSError) as error:
        return fail(f"run: {error}", USAGE)
    process_id = arguments.id or ("input" if is_input else _name(hub.masks.text(argv[0])))
    keep_exit_codes()
    with served(hub, arguments, process_channel(process_id), any_port=True) as server:
        screens = {name: Screen(out) for name, out in _outputs().items()}
        mirrors: dict[str, Any] = {
            "on_line": functools.partial(_mirror, screens),
            "on_output": functools.partial(_copy, screens),
        }
        pty = wants_pty(arguments)
        stdin = not is_input and _input()
        # The one file that was asked for.
        mirrors["log"] = arguments.log and ProcessLog(arguments.log, times=False)
        try:
            if is_input:
                process = stream_input(hub, 0, process_id, **mirrors)
            else:
                size = _size() if pty else False
                process = run_process(hub, argv, process_id, pty=size, stdin=stdin, **mirrors)
        except ProcessStartError as error:
            missing = isinstance(error.__cause__, FileNotFoundError)
            return fail(str(error), NOT_FOUND if missing else NOT_EXECUTABLE)
        if arguments.open:
            webbrowser.open(page_url(server))
        with Console(
            process,
            typed=stdin is True,
            sized=pty and not is_input,
            give_up=lambda: signals.put(signal.SIGINT),
        ):
            number = _follow(process, signals, screens)
        if number is not None:
            return 128 + number
        code, ended = _end_of(process)
        serve_on(arguments, signals, watched, f"{process_id} {ended}")
    return 128 - code if code < 0 else code


def _check(arguments: argparse.Namespace) -> str:
    """Return what is wrong with the arguments; "" if nothing is."""
    if arguments.argv in ([], ["--"]):
        return "a command is required: ws-hub run -- CMD ARGS"
    if arguments.argv[:1] != _INPUT:
        return ""
    if len(arguments.argv) > 1:
        return "- streams the standard input and takes no command: leave out the one or the other"
    return "" if arguments.pty is None else "- starts no program: leave --pty and --no-pty out"


def _name(program: str) -> str:
    """Return a process id made from the program's name."""
    name = re.sub(r"[^A-Za-z0-9_.-]+", "-", os.path.basename(program))[:64]
    return name.strip("-.") or "run"


def _size() -> tuple[int, int]:
    """Return columns and rows for the program's terminal: those of ours, if we have one."""
    columns, rows = shutil.get_terminal_size(terminal_size() or _SIZE)
    return columns, rows


def _input() -> bool | TextIO:
    """Return what the program gets as its input: see `run_process`.

    What is typed is passed on by us: a program in another session could take it from the
    shell. Anything else becomes the input as it is, and is read by the program alone.
    """
    if sys.stdin.isatty():
        return True
    try:
        ours, nothing = os.fstat(sys.stdin.fileno()), os.stat(os.devnull)
    except (OSError, ValueError):  # something stands in its place that has no descriptor
        return False
    if stat.S_ISCHR(ours.st_mode) and ours.st_rdev == nothing.st_rdev:
        return False
    return sys.stdin


def _outputs() -> dict[str, TextIO]:
    return {"stdout": sys.stdout, "stderr": sys.stderr}


def _mirror(screens: dict[str, Screen], text: str, stream: str) -> None:
    """Write one text of the output to our stdout or stderr, where that is no terminal."""
    if not screens[stream].is_terminal:
        screens[stream].text(stream, text)


def _copy(screens: dict[str, Screen], data: bytes, stream: str) -> None:
    """Write the output to our terminal as it is: that does what the program asks for."""
    if screens[stream].is_terminal:
        screens[stream].copy(data)


def _end_of(process: Process) -> tuple[int, str]:
    """Return a program's exit code, negative for a signal, and a text that describes it."""
    try:
        code = process.wait()
    except ExitCodeUnknown as error:
        say(str(error))
        return FAILED, "has ended"
    return code, f"exited {code}" if code >= 0 else f"was killed by signal {-code}"


def _follow(process: Process, signals: Signals, screens: dict[str, Screen]) -> int | None:
    """Wait for the program's end; return a signal that was received before it, or None."""

    def watch() -> None:
        with contextlib.suppress(ExitCodeUnknown):
            process.wait()
        signals.put(None)

    watcher = threads.start("ws-hub:exit", watch)
    number = signals.wait()
    if number is not None:
        for screen in screens.values():
            screen.leave(_FORWARD_FOR)  # an output that is not read must not delay the end
        # First the program's own handling of the signal; `close` ends what ignores it.
        process.ask_to_end(number)
        with contextlib.suppress(queue.Empty):
            signals.wait(_FORWARD_FOR)  # its end, or a second signal
        process.close()
    threads.join(watcher, _JOIN)
    return number
