"""The command line: `ws-hub run`, `ws-hub serve`, `ws-hub tail`.

Must not know private names of what it uses. Everything that is said about the run goes
to stderr; stdout has what the program, or the channel, says. Ctrl-C and SIGTERM end
each command cleanly: viewers see 1001, the program is ended, and the exit code is
128 and the signal's number (130, 143).
"""

from __future__ import annotations

import argparse
import contextlib
import errno
import json
import signal
import sys
import threading
import webbrowser
from collections.abc import Iterator, Sequence
from typing import Any, NoReturn, TextIO

from . import __version__
from .config import ReconnectConfig
from .errors import WsHubError
from .hub import Hub
from .lines import GOES_ON, REPLACED
from .message import Message, MessageType, check_channel, process_channel, to_dict
from .page import page_app
from .process import Process, ProcessStartError, run_process
from .reconnect import ReconnectingClient
from .server import Server, serve

__all__ = ["main"]

DEFAULT_PORT = 8765
_LOCAL = ("127.0.0.1", "::1", "localhost")
_NOT_FOUND, _NOT_EXECUTABLE, _USAGE = 127, 126, 2  # as shells have them

_RUN_EXAMPLES = """\
examples:
  ws-hub run -- make -j4 all
  ws-hub run --open --wait -- pytest -v
  ws-hub run --host 0.0.0.0 --port 9000 --id build-42 --pty -- ./build.sh
"""
_SERVE_EXAMPLES = """\
examples:
  ws-hub serve
  ws-hub serve --port 9000
"""
_TAIL_EXAMPLES = """\
examples:
  ws-hub tail ws://127.0.0.1:8765/ws process:build-42
  ws-hub tail --json --since 0 ws://127.0.0.1:8765/ws process:build-42 news
"""


class _Signalled(BaseException):
    """Ctrl-C or SIGTERM; not an Exception, so that nothing takes it for a failure."""

    def __init__(self, number: int) -> None:
        self.exit_code = 128 + number
        super().__init__(number)


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; return the exit code.

    Threads: the main thread, because of the signals.
    """
    arguments = _parser().parse_args(argv)
    try:
        with _signals():
            code: int = arguments.command(arguments)
            return code
    except _Signalled as stop:
        return stop.exit_code
    except (WsHubError, OSError) as error:
        return _fail(str(error), _USAGE)


def _fail(text: str, code: int) -> int:
    print(f"ws-hub: {text}", file=sys.stderr)
    return code


@contextlib.contextmanager
def _signals() -> Iterator[None]:
    """Let the first Ctrl-C or SIGTERM end what the main thread does; ignore the next."""

    def end(number: int, frame: object) -> NoReturn:
        for each in (signal.SIGINT, signal.SIGTERM):
            signal.signal(each, signal.SIG_IGN)
        raise _Signalled(number)

    before = {each: signal.signal(each, end) for each in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for each, handler in before.items():
            signal.signal(each, handler)


# --- arguments -----------------------------------------------------------------------------


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="ws-hub",
        description="Live push for threaded Python: watch a program in any browser.",
        epilog=_RUN_EXAMPLES + _TAIL_EXAMPLES.partition("\n")[2],
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


def _add_address(command: Any) -> None:
    command.add_argument("--host", default="127.0.0.1", help="address to serve on (127.0.0.1)")
    command.add_argument(
        "--port", type=int, help=f"port to serve on ({DEFAULT_PORT}, or a free one when taken)"
    )


def _add_run(commands: Any) -> None:
    command = _add(
        commands, "run", "run a program and show its output live on a page", _RUN_EXAMPLES, _run
    )
    _add_address(command)
    command.add_argument("--id", help="names the process; by default its name and a number")
    command.add_argument(
        "--pty",
        action=argparse.BooleanOptionalAction,
        help="run it in a terminal of its own, so that it keeps its colours "
        "(by default when this is one)",
    )
    command.add_argument("--open", action="store_true", help="open the page in a browser")
    command.add_argument(
        "--wait", action="store_true", help="serve the page after the exit, until Ctrl-C"
    )
    command.add_argument("argv", nargs="+", metavar="CMD ARGS", help="the program, after --")


def _add_serve(commands: Any) -> None:
    command = _add(
        commands, "serve", "serve a hub and a page that watches it", _SERVE_EXAMPLES, _serve
    )
    _add_address(command)


def _add_tail(commands: Any) -> None:
    command = _add(
        commands, "tail", "follow channels in this terminal, and reconnect", _TAIL_EXAMPLES, _tail
    )
    command.add_argument("--json", action="store_true", help="print whole messages, one a line")
    command.add_argument(
        "--since", type=int, metavar="SEQ", help="begin after this message; 0 for all that is kept"
    )
    command.add_argument("url", metavar="URL", help="ws:// or wss://")
    command.add_argument("channels", nargs="+", metavar="CHANNEL")


# --- run -----------------------------------------------------------------------------------


def _run(arguments: argparse.Namespace) -> int:
    pty = sys.stdout.isatty() if arguments.pty is None else arguments.pty
    process_id = arguments.id or "run"
    hub = Hub()
    with _served(hub, arguments, process_channel(process_id)) as server:
        _announce(server, arguments)
        if arguments.open:
            webbrowser.open(_page_url(server))
        try:
            process = run_process(hub, arguments.argv, process_id, pty=pty, on_line=_mirror)
        except ProcessStartError as error:
            missing = isinstance(error.__cause__, FileNotFoundError)
            code = _fail(str(error), _NOT_FOUND if missing else _NOT_EXECUTABLE)
        else:
            code = _follow(process)
        if arguments.wait:
            print(f"ws-hub: exited with {code}; Ctrl-C ends the page", file=sys.stderr)
            threading.Event().wait()  # ended by a signal
    return code


def _follow(process: Process) -> int:
    """Wait for the program, or end it when a signal comes; return the shell's exit code."""
    with process:  # ends the program when a signal ends the wait
        code = process.wait()
    return 128 - code if code < 0 else code


def _mirror(text: str, stream: str) -> None:
    """Write one text of the output where the program would have written it."""
    out = sys.stderr if stream == "stderr" else sys.stdout
    with contextlib.suppress(OSError, ValueError):  # a reader that went away: `| head`
        _write(out, text)


def _write(out: TextIO, text: str) -> None:
    clear = "\x1b[K" if out.isatty() else ""
    if text.endswith(REPLACED):
        if clear:  # in a file only what a line ends up as
            out.write(text[:-1] + clear + "\r")
    elif text.endswith(GOES_ON):
        out.write(text[:-1])
    else:
        out.write(text + clear + "\n")
    out.flush()


# --- serve ---------------------------------------------------------------------------------


def _serve(arguments: argparse.Namespace) -> int:
    with _served(Hub(), arguments, "") as server:
        _announce(server, arguments)
        threading.Event().wait()  # ended by a signal
    return 0


@contextlib.contextmanager
def _served(hub: Hub, arguments: argparse.Namespace, channel: str) -> Iterator[Server]:
    """Serve the hub and its page; in the end viewers get what is queued, then 1001."""
    app = page_app(hub, channel=channel)
    port = DEFAULT_PORT if arguments.port is None else arguments.port
    try:
        server = serve(hub, arguments.host, port, app=app)
    except (OSError, OverflowError) as error:
        taken = isinstance(error, OSError) and error.errno == errno.EADDRINUSE
        if arguments.port is not None or not taken:
            raise OSError(f"cannot serve on {arguments.host}:{port}: {error}") from error
        server = serve(hub, arguments.host, 0, app=app)
    with server:
        yield server


def _announce(server: Server, arguments: argparse.Namespace) -> None:
    print(f"ws-hub: {_page_url(server)}", file=sys.stderr, flush=True)
    if arguments.host not in _LOCAL:
        print(
            f"ws-hub: warning: anybody who reaches {arguments.host}:{server.port} may watch",
            file=sys.stderr,
            flush=True,
        )


def _page_url(server: Server) -> str:
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(server.host, server.host)
    return f"http://{f'[{host}]' if ':' in host else host}:{server.port}/"


# --- tail ----------------------------------------------------------------------------------


def _tail(arguments: argparse.Namespace) -> int:
    for channel in arguments.channels:
        check_channel(channel)
    several = len(arguments.channels) > 1

    def disconnected(code: int, reason: str, will_retry: bool) -> None:
        again = "reconnecting" if will_retry else "not coming back"
        print(f"ws-hub: disconnected ({code} {reason!r}), {again}", file=sys.stderr, flush=True)

    config = ReconnectConfig(
        url=arguments.url,
        on_connect=lambda: print("ws-hub: connected", file=sys.stderr, flush=True),
        on_disconnect=disconnected,
        on_error=lambda error: print(f"ws-hub: {error}", file=sys.stderr, flush=True),
    )
    with ReconnectingClient(config) as client:
        for channel in arguments.channels:
            client.subscribe(channel, since=arguments.since)
        client.start()
        for message in client:
            if arguments.json:
                print(json.dumps(to_dict(message), ensure_ascii=False), flush=True)
            else:
                _print(message, several)
    return 0


def _print(message: Message, several: bool) -> None:
    """Print one message as a person reads it."""
    where = f"{message.channel or '*'}: " if several else ""
    if message.type == MessageType.PROCESS_OUTPUT and isinstance(message.data, str):
        _write(sys.stdout, where + message.data)
    elif message.type == MessageType.PROCESS_STATUS:
        print(f"ws-hub: {where}{json.dumps(message.data)}", file=sys.stderr, flush=True)
    elif message.type not in (MessageType.ACK, MessageType.PONG, MessageType.LAGGED):
        shown = json.dumps(message.data, ensure_ascii=False)
        print(f"{where}{message.type} {shown}", flush=True)
