"""The command line: `ws-hub run`, `ws-hub serve`, `ws-hub tail`.

Must not know private names of what it uses. Everything that is said about the run goes
to stderr; stdout has what the program, or the channel, says.

Ctrl-C, SIGTERM and SIGHUP end each command cleanly: the program gets the same signal,
then SIGTERM, then SIGKILL; viewers get its last words and 1001; the exit code is 128 and
the signal's number (130, 143, 129). The handlers only queue the number; the main thread,
which waits at that queue, acts on it, so that nothing is cut in the middle.
"""

from __future__ import annotations

import argparse
import contextlib
import errno
import functools
import logging
import os
import queue
import re
import shutil
import signal
import socket
import sys
import threading
import webbrowser
from collections.abc import Iterator, Sequence
from typing import Any, TextIO

from .. import __version__, threads
from ..config import ChannelRule, HubConfig
from ..errors import WsHubError
from ..hub.hub import Hub
from ..process.process import ExitCodeUnknown, Process, ProcessStartError, run_process
from ..protocol.names import process_channel
from ..server.server import Server, serve
from ..server.viewer import page_app
from ..signals import Signals
from .tail import Tail, socket_url
from .terminal import Screen

__all__ = ["main"]

DEFAULT_PORT = 8765
_LOCAL = ("127.0.0.1", "::1", "localhost")
_FAILED, _USAGE, _NOT_EXECUTABLE, _NOT_FOUND = 1, 2, 126, 127  # as shells have them
_FORWARD_FOR = 2.0  # seconds that a program gets to end by the signal that we got
_VIEWER_WITHIN = 10.0  # seconds that a browser, started by --open, gets to show up
_JOIN = 5.0
_KEPT = 1000  # messages of a channel that anybody may publish to
_SIZE = (100, 40)  # of a program's terminal where we have none: what a page shows well

_EXIT_CODES = """\
exit codes:
  of the command, 128 + N when signal N ended it, 1 when its own cannot be known;
  126, 127 when it cannot be started;
  130 after Ctrl-C, 143 after SIGTERM; 2 for a wrong option or a port in use
"""
_RUN_EXAMPLES = f"""\
examples:
  ws-hub run -- make -j4 all
  ws-hub run --open --wait -- pytest -v
  ws-hub run --host 0.0.0.0 --port 9000 --id build-42 --pty -- ./build.sh

input:
  the command gets none: what it reads is at its end, also in a terminal of its own, where
  a question for a password ends as at Ctrl-D; one that waits for keys (an editor, an
  interactive shell) waits until it is ended

{_EXIT_CODES}"""
_SERVE_EXAMPLES = """\
examples:
  ws-hub serve
  ws-hub serve --port 9000 --publish 'news' --publish 'chat:*'
"""
_TAIL_EXAMPLES = """\
examples:
  ws-hub tail ws://127.0.0.1:8765/ws process:build-42
  ws-hub tail http://127.0.0.1:8765/ process:build-42 > build.log
  ws-hub tail --last 20 http://127.0.0.1:8765/ process:build-42
  ws-hub tail --json --since 0 ws://127.0.0.1:8765/ws process:build-42 news

  WS_HUB_TOKEN in the environment says who you are, where the server asks.

exit codes:
  130 after Ctrl-C, 143 after SIGTERM; 1 when the server refuses us; 2 for a wrong option
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; return the exit code.

    Threads: the main thread, because of the signals.
    """
    _open_standard_files()
    arguments = _parser().parse_args(argv)
    logging.basicConfig(format="ws-hub: %(message)s", level=logging.WARNING)
    for out in (sys.stdout, sys.stderr):
        if hasattr(out, "reconfigure"):
            out.reconfigure(errors="backslashreplace")  # whatever the terminal can show
    with Signals() as signals:
        try:
            code: int = arguments.command(arguments, signals)
            return code
        except (WsHubError, OSError) as error:
            return _fail(str(error), _USAGE)


def _open_standard_files() -> None:
    """Open on /dev/null what the shell has closed (`>&-`).

    Otherwise a socket gets its number, and who writes there speaks to a viewer.
    """
    for fd, (name, mode) in enumerate((("stdin", "r"), ("stdout", "w"), ("stderr", "w"))):
        try:
            os.fstat(fd)
        except OSError:
            os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)  # the lowest that is free
        if getattr(sys, name) is None:
            setattr(sys, name, open(fd, mode, encoding="utf-8", closefd=False))


def _say(text: str) -> None:
    with contextlib.suppress(OSError, ValueError):  # nobody reads it: the run goes on
        print(f"ws-hub: {text}", file=sys.stderr, flush=True)


def _fail(text: str, code: int) -> int:
    _say(text)
    return code


# --- arguments -----------------------------------------------------------------------------


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="ws-hub",
        description="Live push for threaded Python: watch a program in any browser.",
        epilog="examples:\n"
        "  ws-hub run --open --wait -- make -j4 all\n"
        "  ws-hub tail http://127.0.0.1:8765/ process:make\n"
        "  ws-hub run --help\n",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"ws-hub {__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    _add_run(commands)
    _add_serve(commands)
    _add_tail(commands)
    return parser


def _add(commands: Any, name: str, text: str, examples: str, function: Any) -> Any:
    command = commands.add_parser(
        name,
        help=text,
        description=text[0].upper() + text[1:] + ".",
        epilog=examples,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    command.set_defaults(command=function)
    return command


def _add_address(command: Any, port: str) -> None:
    command.add_argument("--host", default="127.0.0.1", help="address to serve on (127.0.0.1)")
    command.add_argument("--port", type=_port, help=port)
    command.add_argument(
        "--allow-host",
        action="append",
        default=[],
        metavar="NAME",
        help="answer to this name as well (example.com, *.example.com); can be given again. On "
        "127.0.0.1 only localhost and addresses of this machine are answered to by default, "
        "elsewhere every name, unless one is given",
    )


def _port(text: str) -> int:
    number = int(text)
    if not 0 <= number <= 65535:
        raise ValueError(text)
    return number


_port.__name__ = "port"  # what argparse calls it


def _count(text: str) -> int:
    number = int(text)
    if number < 0:
        raise ValueError(text)
    return number


_count.__name__ = "number"


def _add_run(commands: Any) -> None:
    text = "run a program and show its output live on a page"
    command = _add(commands, "run", text, _RUN_EXAMPLES, _run)
    _add_address(command, f"port to serve on ({DEFAULT_PORT}, or a free one when that is taken)")
    command.add_argument("--id", help="names the process (the program's name)")
    command.add_argument(
        "--pty",
        action=argparse.BooleanOptionalAction,
        help="run it in a terminal of its own, so that it keeps its colours "
        "(by default when stdout is a terminal)",
    )
    command.add_argument("--open", action="store_true", help="open the page in a browser")
    command.add_argument(
        "--wait", action="store_true", help="serve the page after the exit, until Ctrl-C"
    )
    command.add_argument("argv", nargs=argparse.REMAINDER, metavar="-- CMD ARGS")


def _add_serve(commands: Any) -> None:
    text = "serve a hub and a page that watches its channels"
    command = _add(commands, "serve", text, _SERVE_EXAMPLES, _serve)
    _add_address(command, f"port to serve on ({DEFAULT_PORT})")
    command.add_argument(
        "--publish",
        action="append",
        default=[],
        metavar="PATTERN",
        help="let every client publish to the channels of this pattern, which keep their "
        "last 1,000 messages; can be given again (nobody may by default)",
    )


def _add_tail(commands: Any) -> None:
    text = "follow channels in this terminal, and reconnect"
    command = _add(commands, "tail", text, _TAIL_EXAMPLES, _tail)
    command.add_argument("--json", action="store_true", help="print whole messages, one a line")
    begin = command.add_mutually_exclusive_group()
    begin.add_argument(
        "--since",
        type=_count,
        metavar="SEQ",
        help="begin after this message; 0 for all that is kept, as processes do by default",
    )
    begin.add_argument(
        "--last", type=_count, metavar="N", help="begin with the last N messages that are kept"
    )
    command.add_argument("url", metavar="URL", help="of the WebSocket, or of the page")
    command.add_argument("channels", nargs="*", metavar="CHANNEL")


# --- serving -------------------------------------------------------------------------------


@contextlib.contextmanager
def _served(hub: Hub, arguments: argparse.Namespace, channel: str = "") -> Iterator[Server]:
    """Serve the hub and its page; in the end viewers get what is queued, then 1001."""
    app = page_app(hub, channel=channel)
    port = DEFAULT_PORT if arguments.port is None else arguments.port
    try:
        server = serve(hub, arguments.host, port, app=app, allowed_hosts=arguments.allow_host)
    except OSError as error:
        # A second run beside the first takes another port, unless told which.
        if not channel or arguments.port is not None or error.errno != errno.EADDRINUSE:
            why = error.strerror or error
            raise OSError(f"cannot serve on {arguments.host}:{port}: {why}") from error
        server = serve(hub, arguments.host, 0, app=app, allowed_hosts=arguments.allow_host)
    with server:
        _say(f"watch at {_page_url(server)}")
        if arguments.host not in _LOCAL:
            _say(f"warning: anybody who reaches {arguments.host}:{server.port} may watch")
        yield server


def _page_url(server: Server) -> str:
    host = socket.gethostname() if server.host in ("0.0.0.0", "::") else server.host
    return f"http://{f'[{host}]' if ':' in host else host}:{server.port}/"


def _serve(arguments: argparse.Namespace, signals: Signals) -> int:
    public = [
        ChannelRule(pattern=pattern, history_messages=_KEPT, replay=True, publish=True)
        for pattern in arguments.publish
    ]
    with _served(Hub(HubConfig(rules=[*public, *HubConfig().rules])), arguments):
        number = signals.wait()
    return 128 + (number or 0)


# --- run -----------------------------------------------------------------------------------


def _run(arguments: argparse.Namespace, signals: Signals) -> int:
    argv = arguments.argv[1:] if arguments.argv[:1] == ["--"] else arguments.argv
    if not argv:
        return _fail("run: which command? ws-hub run -- CMD ARGS", _USAGE)
    pty = sys.stdout.isatty() if arguments.pty is None else arguments.pty
    process_id = arguments.id or _name(argv[0])
    watched = threading.Event()
    hub = Hub(HubConfig(on_first_subscriber=lambda channel: watched.set()))
    if signal.getsignal(signal.SIGCHLD) is signal.SIG_IGN:
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)  # inherited; no exit code would be known
    with _served(hub, arguments, process_channel(process_id)) as server:
        screens = {name: Screen(out) for name, out in _outputs().items()}
        mirror = functools.partial(_mirror, screens)
        try:
            environment = _sized() if pty else None
            process = run_process(hub, argv, process_id, pty=pty, env=environment, on_line=mirror)
        except ProcessStartError as error:
            missing = isinstance(error.__cause__, FileNotFoundError)
            return _fail(str(error), _NOT_FOUND if missing else _NOT_EXECUTABLE)
        if arguments.open:
            webbrowser.open(_page_url(server))
        number = _follow(process, signals, screens)
        if number is not None:
            return 128 + number
        code, ended = _end_of(process)
        if arguments.wait:
            _say(f"{process_id} {ended}; the page is served until Ctrl-C")
            signals.wait()
        elif arguments.open:
            watched.wait(_VIEWER_WITHIN)  # or the browser finds nobody there
    return 128 - code if code < 0 else code


def _name(program: str) -> str:
    """Return a process id that says which program it is."""
    name = re.sub(r"[^A-Za-z0-9_.-]+", "-", os.path.basename(program))[:64]
    return name.strip("-.") or "run"


def _sized() -> dict[str, str]:
    """Return our environment with the size of our terminal, for the one of the program."""
    columns, lines = shutil.get_terminal_size(_SIZE)
    return {**os.environ, "COLUMNS": str(columns), "LINES": str(lines)}


def _outputs() -> dict[str, TextIO]:
    return {"stdout": sys.stdout, "stderr": sys.stderr}


def _mirror(screens: dict[str, Screen], text: str, stream: str) -> None:
    """Write one text of the output where the program would have written it."""
    screens[stream].text(stream, text)


def _end_of(process: Process) -> tuple[int, str]:
    """Return how a program has ended, for `sys.exit` and for a person."""
    try:
        code = process.wait()
    except ExitCodeUnknown as error:
        _say(str(error))
        return _FAILED, "has ended"
    return code, f"exited {code}" if code >= 0 else f"was killed by signal {-code}"


def _follow(process: Process, signals: Signals, screens: dict[str, Screen]) -> int | None:
    """Wait for the program's end; return the signal that came first, if one did."""

    def watch() -> None:
        with contextlib.suppress(ExitCodeUnknown):
            process.wait()
        signals.put(None)

    watcher = threads.start("ws-hub:exit", watch)
    number = signals.wait()
    if number is not None:
        for screen in screens.values():
            screen.leave(_FORWARD_FOR)  # an output that nobody reads
        # A program that knows Ctrl-C says how far it got; it alone knows how to end.
        process.ask_to_end(number)
        with contextlib.suppress(queue.Empty):
            signals.wait(_FORWARD_FOR)  # its end, or an impatient second signal
        process.close()
    threads.join(watcher, _JOIN)
    return number


# --- tail ----------------------------------------------------------------------------------


def _tail(arguments: argparse.Namespace, signals: Signals) -> int:
    url, named = socket_url(arguments.url)
    channels = arguments.channels or named
    if not channels:
        return _fail("tail: which channel? ws-hub tail URL CHANNEL", _USAGE)
    tail = Tail(
        url,
        channels,
        since=arguments.since,
        last=arguments.last,
        as_json=arguments.json,
        token=os.environ.get("WS_HUB_TOKEN") or None,  # not an option: `ps` shows those
        tell=_say,
    )
    number = tail.follow(signals)
    return _FAILED if number is None else 128 + number
