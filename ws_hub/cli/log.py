"""`ws-hub log`: reads the log of a program, from a hub that runs or from a file.

The main thread waits for a signal or for the end; another one reads and writes, and may wait for
the hub, the disk or an output that is not read.
"""

from __future__ import annotations

import argparse
import json
import re
import signal
import sys
from typing import Any

from .. import threads
from ..errors import WsHubError
from ..process.log_reader import LogLine, line_fields
from ..signals import Signals
from .common import FAILED, USAGE, add_command, add_layout, begin, count, fail, say
from .logs import Log, LogRefused, Wanted, open_log
from .margin import Margin, Origin
from .terminal import Screen, plain_text

__all__ = ["add_log"]

_LEAVE = 1.0  # seconds at a signal in which an output that is not read is waited for
_JOIN = 2.0

_EXAMPLES = """\
examples:
  ws-hub log http://127.0.0.1:8765/ build-42
  ws-hub log --last 100 127.0.0.1:8765 build-42
  ws-hub log --lines 120-140 'http://127.0.0.1:8765/?channel=process:build-42'
  ws-hub log --search 'error:' --time clock --mark builds/build-42.log
  ws-hub log --digest builds/build-42.log.gz
  ws-hub log builds/build-42.cast | less

  A file is a text, or a recording (.cast), compressed (.gz) or not. WS_HUB_TOKEN in the
  environment is sent as the token, for a hub that requires one. Lines that are yet to come are
  shown by `ws-hub tail`.

exit codes:
  0; 1 when --search finds nothing; 2 for a wrong option, and for a hub or a file that cannot be
  read; 130 after Ctrl-C, 143 after SIGTERM; 141 when the output is closed at its other end
"""


def add_log(commands: Any) -> None:
    """Add the command to the parser."""
    about = "read the log of a program, from a hub or a file"
    command = add_command(commands, "log", about, _EXAMPLES, _log)
    some = command.add_mutually_exclusive_group()
    some.add_argument(
        "--lines", type=_lines, metavar="A-B", help="the lines from A to B; A and A- too"
    )
    some.add_argument("--last", type=count, metavar="N", help="the newest N lines")
    some.add_argument(
        "--digest",
        action="store_true",
        help="its beginning, its end, and what looks like an error, as JSON",
    )
    command.add_argument("--search", metavar="TEXT", help="only lines that contain a text")
    command.add_argument("--ignore-case", action="store_true", help="search whatever the case")
    command.add_argument("--number", action="store_true", help="begin each line with its number")
    command.add_argument("--json", action="store_true", help="print each line as JSON")
    add_layout(
        command,
        stream="only the lines of this output",
        time="at which it was read: of the clock here, since the first line that is shown, or "
        "since the line before",
    )
    command.add_argument("source", metavar="SOURCE", help="URL or host of a hub, or a file")
    command.add_argument(
        "process_id", nargs="?", metavar="ID", help="of a hub: the process id (build-42)"
    )


def _lines(text: str) -> tuple[int, int | None]:
    """Return the numbers of the first line and the last."""
    found = re.fullmatch(r"(\d{1,15})?(-)?(\d{1,15})?", text)
    if found is None or found[1] == found[3] is None:
        raise ValueError(text)
    first = int(found[1] or 1)
    last = None if found[2] and not found[3] else int(found[3] or first)
    if first < 1 or (last is not None and last < first):
        raise ValueError(text)
    return first, last


_lines.__name__ = "range of lines"  # for the messages of argparse


def _log(arguments: argparse.Namespace, signals: Signals) -> int:
    wrong = _check(arguments)
    if wrong:
        return fail(f"log: {wrong}", USAGE)
    screen = Screen(sys.stdout)

    def run() -> int:
        try:
            log = open_log(arguments.source, arguments.process_id, say)
            return _show(arguments, log, screen)
        except (LogRefused, OSError, WsHubError) as error:
            return fail(f"log: {error}", USAGE)

    thread, outcome = begin("ws-hub:log", run, signals)
    number = signals.wait()
    if number is None:
        threads.join(thread, _JOIN)
        return outcome.result(0)
    screen.leave(_LEAVE)
    threads.join(thread, _JOIN)  # it may wait for a hub that does not answer
    return 128 + number


def _check(arguments: argparse.Namespace) -> str:
    """Return what is wrong with the arguments; "" if nothing is."""
    if arguments.search is not None and (not arguments.search or "\n" in arguments.search):
        return "--search must be a part of a line: give a text without a newline"
    if arguments.search is None and arguments.ignore_case:
        return "--ignore-case is for --search: give both, or none"
    if arguments.search is not None and (arguments.last is not None or arguments.digest):
        return "--search goes with --lines alone: leave --last and --digest out"
    layout = [arguments.json, arguments.number, arguments.time, arguments.mark, arguments.stream]
    if arguments.digest and any(layout):
        return "--digest is JSON as it is: leave --json, --number, --time, --mark, --stream out"
    if arguments.json and any(layout[1:4]):
        return "--json has number, time and stream: leave --number, --time and --mark out"
    return ""


def _show(arguments: argparse.Namespace, log: Log, screen: Screen) -> int:
    """Show the log; return the exit code."""
    if arguments.digest:
        screen.line(json.dumps(log.digest(), ensure_ascii=False, indent=2))
        return _code(screen, 0)
    first, end = arguments.lines or (1, None)
    wanted = Wanted(first, end, arguments.last, arguments.search or "", arguments.ignore_case)
    layout = _Layout(arguments, colours=arguments.colours or screen.is_terminal)
    found, unknown = False, False
    for lines in log.pages(wanted):
        unknown = unknown or any(not each.stream for each in lines)
        if arguments.stream:
            lines = [each for each in lines if each.stream == arguments.stream]
        if lines:
            found = True
            screen.line("\n".join(layout.line(each) for each in lines))
        if screen.gone:
            break
    if arguments.stream and unknown:
        say("log: of some lines it is not known which output they are of: they are left out")
    return _code(screen, FAILED if arguments.search and not found else 0)


def _code(screen: Screen, code: int) -> int:
    return 128 + signal.SIGPIPE if screen.gone else code


class _Layout:
    """Lays out lines as the options say."""

    def __init__(self, arguments: argparse.Namespace, *, colours: bool) -> None:
        self._as_json = arguments.json
        self._numbers = arguments.number
        self._colours = colours
        self._margin = Margin(arguments.time or "", marks=arguments.mark)

    def line(self, line: LogLine) -> str:
        """Return a line as it is shown."""
        if self._as_json:
            return json.dumps(line_fields(line), ensure_ascii=False)
        origin = Origin(line.time, line.stream == "stderr")
        start = f"{line.number:>6} " if self._numbers else ""
        start += self._margin.time("", origin) + self._margin.mark(origin)
        self._margin.finished("", origin)
        return start + (line.text if self._colours else plain_text(line.text))
