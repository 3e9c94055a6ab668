"""`ws-hub up`: runs the programs of a Procfile and shows them in the terminal and on a page."""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import functools
import itertools
import os
import sys
import threading
import webbrowser
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from .. import threads
from ..config import PROCESS_RULE, HubConfig
from ..errors import ConfigError, HubFull, HubNotRunning, excerpt
from ..hub.hub import Hub
from ..process.process import Process, run_process
from ..protocol.names import process_channel
from ..signals import Signals
from .common import DEFAULT_PORT, add_address, add_command, begin, seconds
from .masking import add_masks, secrets_of
from .merged import Merged
from .procfile import Entry, parse_procfile, parse_variables, read_text
from .programs import add_pty, add_watching, keep_exit_codes, serve_on, wants_pty
from .readiness import OWN_PORT, Output, Readiness, parse_readiness
from .restarts import POLICIES, Restarts
from .serve import page_url, served
from .sizes import Sizes
from .supervisor import PATIENCE, Program, Supervisor
from .terminal import Screen

__all__ = ["add_up"]

_GRACE = 5.0  # seconds
_FIRST_PORT, _NEXT_PORT = 5000, 100  # of the programs, as foreman gives them
_LEAVE = 1.0  # seconds for which an output that is not read may delay the end
_JOIN = 5.0
_KEPT = 86_400.0  # seconds for which the output of a program that has ended is kept
_SHELL = "/bin/sh"

_EXAMPLES = f"""\
examples:
  ws-hub up
  ws-hub up Procfile.dev --restart on-failure --open
  ws-hub up --only web,worker --keep-going
  ws-hub up --wait-for db=5432 --wait-for web=http://localhost:5100/health

programs:
  each line of the Procfile is `name: command`, # begins a comment; the commands are run by
  {_SHELL} in the directory of the Procfile, in the order of the file; each gets PORT:
  {_FIRST_PORT}, {_FIRST_PORT + _NEXT_PORT}, {_FIRST_PORT + 2 * _NEXT_PORT}, ...
  when one has ended for good, all are ended, unless --keep-going is given; Ctrl-C ends all:
  SIGTERM, after the grace, or a second Ctrl-C, SIGKILL

exit codes:
  that of the first program that failed (128 + N when signal N ended it), 0 when none has;
  130 after Ctrl-C, 143 after SIGTERM; 2 for a wrong option or Procfile, or a port in use
"""


def add_up(commands: Any) -> None:
    """Add the command to the parser."""
    text = "run the programs of a Procfile and show them live on a page"
    command = add_command(commands, "up", text, _EXAMPLES, _up)
    command.add_argument(
        "procfile", nargs="?", default="Procfile", metavar="PROCFILE", help="a path (Procfile)"
    )
    add_address(command, f"port to serve on ({DEFAULT_PORT}, or a free one when that is taken)")
    some = command.add_mutually_exclusive_group()
    some.add_argument("--only", type=_names, default=[], metavar="NAMES", help="run a,b only")
    some.add_argument("--except", type=_names, default=[], metavar="NAMES", help="leave a,b out",
                      dest="left_out")  # fmt: skip
    command.add_argument(
        "--restart",
        choices=POLICIES,
        default="no",
        help="start programs again that have ended, after 0.5 s, 1 s, ... 30 s (no)",
    )
    command.add_argument(
        "--keep-going",
        action="store_true",
        help="go on with the others when a program has ended for good",
    )
    command.add_argument(
        "--wait-for",
        action="append",
        default=[],
        metavar="NAME=WHAT",
        help="start the programs behind NAME in the file once it is ready: when a port of this "
        f"machine accepts (5432, or {OWN_PORT} for its own), an URL is answered (http://...), or "
        "a line that it prints has a text (anything else); can be given again, for others",
    )
    command.add_argument(
        "--ready-timeout", type=seconds, default=PATIENCE, metavar="SECONDS",
        help=f"end all when one that others wait for is not ready by then ({PATIENCE:g})",
    )  # fmt: skip
    command.add_argument(
        "--grace", type=seconds, default=_GRACE, metavar="SECONDS",
        help=f"from SIGTERM to SIGKILL ({_GRACE:g})",
    )  # fmt: skip
    command.add_argument(
        "--env",
        action="append",
        metavar="FILE",
        help="file of variables for the programs; can be given again, the last one counts "
        "(.env beside the Procfile, if it is there)",
    )
    command.add_argument(
        "--base-port", type=int, metavar="N",
        help=f"PORT of the first program (PORT of the variables, or {_FIRST_PORT})",
    )  # fmt: skip
    command.add_argument("--id", default="all", help="names the channel of all output (all)")
    add_pty(command, "each")
    add_masks(command)
    add_watching(command)


def _up(arguments: argparse.Namespace, signals: Signals) -> int:
    plan = _plan(arguments)  # before anything is served
    watched = threading.Event()
    hub = Hub(
        HubConfig(
            on_first_subscriber=lambda channel: watched.set(),
            rules=[dataclasses.replace(PROCESS_RULE, history_ttl=_KEPT)],
        )
    )
    hub.masks.add(secrets_of(arguments), {**os.environ, **plan.variables})
    keep_exit_codes()
    channel = process_channel(arguments.id)
    with served(hub, arguments, shown=channel, any_port=True) as server:
        screen = Screen(sys.stdout)
        colour = screen.is_terminal and not os.environ.get("NO_COLOR")
        names = [each.name for each in plan.entries]
        merged = Merged(hub, arguments.id, names, screen, colour=colour)
        sizes = Sizes(merged.indent)
        supervisor = Supervisor(
            _programs(arguments, hub, merged, plan, sizes),
            merged.note,
            keep_going=arguments.keep_going,
            grace=arguments.grace,
            patience=arguments.ready_timeout,
            waits=functools.partial(_tell_status, hub),
        )
        if arguments.open:
            webbrowser.open(page_url(server, channel))
        hub.send_process_status(arguments.id, "running")
        with sizes if wants_pty(arguments) else contextlib.nullcontext():
            code = _supervise(supervisor, signals, screen)
        hub.send_process_status(arguments.id, "exited", code)
        screen.leave(_LEAVE)
        if supervisor.signal is not None:
            return code
        serve_on(arguments, signals, watched, "all have ended")
    return code


def _supervise(supervisor: Supervisor, signals: Signals, screen: Screen) -> int:
    """Run the programs until their end; return the exit code.

    Not on the main thread: the supervisor also writes to an output that may not be read, and
    meanwhile a signal has to be seen.

    Threads: the main thread; blocks.
    """
    passed_on = Signals()
    work = functools.partial(supervisor.run, passed_on)
    thread, outcome = begin("ws-hub:supervisor", work, signals)
    last: int | None = None
    while (number := signals.wait()) is not None:
        last = number
        screen.leave(_LEAVE)
        passed_on.put(number)
    threads.join(thread, _JOIN)
    if last is not None and supervisor.signal is None:
        signals.put(last)  # it came after the programs' end: it is for what follows
    return outcome.result(0)


class _Plan(NamedTuple):
    """What is to be run.

    Args:
        entries: the programs.
        variables: what the files of variables say.
        ports: the port of each program, by its name.
        awaited: what says that a program is ready, by its name, of those that are waited for.
    """

    entries: list[Entry]
    variables: dict[str, str]
    ports: dict[str, int]
    awaited: dict[str, Readiness]


def _plan(arguments: argparse.Namespace) -> _Plan:
    """Return what the arguments say; raises OSError and ConfigError."""
    entries = _chosen(arguments)
    variables = _variables(arguments)
    ports = _ports(arguments, entries, variables)
    return _Plan(entries, variables, ports, _awaited(arguments, ports))


def _names(text: str) -> list[str]:
    return [each.strip() for each in text.split(",") if each.strip()]


_names.__name__ = "names"  # for the messages of argparse


def _chosen(arguments: argparse.Namespace) -> list[Entry]:
    """Return the programs that are to run; raises OSError, and ConfigError for wrong names."""
    entries = parse_procfile(read_text(arguments.procfile), arguments.procfile)
    known = [each.name for each in entries]
    awaited = [each.partition("=")[0] for each in arguments.wait_for if "=" in each]
    for name in [*arguments.only, *arguments.left_out, *awaited]:
        if name not in known:
            raise ConfigError(
                f"{arguments.procfile} has no program {name!r}: use one of {', '.join(known)}"
            )
    chosen = [
        each
        for each in entries
        if each.name not in arguments.left_out and each.name in (arguments.only or known)
    ]
    if not chosen:
        raise ConfigError(
            f"{arguments.procfile} has no program that --except leaves: give fewer names"
        )
    if arguments.id in [each.name for each in chosen]:
        raise ConfigError(
            f"the program {arguments.id!r} has the name of the channel of all output: "
            "give another --id"
        )
    return chosen


def _variables(arguments: argparse.Namespace) -> dict[str, str]:
    """Return what the files of variables say; raises OSError and ConfigError."""
    beside = os.path.join(os.path.dirname(arguments.procfile), ".env")
    paths = arguments.env or ([beside] if os.path.exists(beside) else [])
    found: dict[str, str] = {}
    for path in paths:
        found |= parse_variables(read_text(path), path)
    return found


def _tell_status(hub: Hub, name: str, status: str) -> None:
    with contextlib.suppress(HubFull, HubNotRunning):  # it is for viewers alone
        hub.send_process_status(name, status)


def _programs(
    arguments: argparse.Namespace, hub: Hub, merged: Merged, plan: _Plan, sizes: Sizes
) -> list[Program]:
    """Return the programs, each with its environment."""
    environment = {**os.environ, **plan.variables}
    pty = wants_pty(arguments)
    if pty and "COLUMNS" in os.environ and "COLUMNS" not in plan.variables:
        environment["COLUMNS"] = str(sizes.now()[0])  # not ours, in place of their own
    cwd = os.path.dirname(arguments.procfile) or "."

    def program(entry: Entry, after: Sequence[Program]) -> Program:
        # PS is foreman's name of the program and of its instance.
        own = {"PORT": str(plan.ports[entry.name]), "PS": f"{entry.name}.1"}
        attempts = itertools.count(1)
        readiness = plan.awaited.get(entry.name)
        output = Output("" if readiness is None else readiness.text)

        def on_line(text: str, stream: str) -> None:
            merged.text(entry.name, text)
            if output.has(text, stream):
                made.tell()

        def start() -> Process:
            process = run_process(
                hub, [_SHELL, "-c", entry.command], entry.name,
                pty=sizes.now() if pty else False, cwd=cwd, env={**environment, **own},
                on_line=on_line, attempt=next(attempts) if arguments.restart != "no" else None,
            )  # fmt: skip
            if pty:
                sizes.add(entry.name, process)
            return process

        made = Program(entry.name, start, Restarts(arguments.restart), readiness, after)
        return made

    programs: list[Program] = []
    for entry in plan.entries:
        after = [each for each in programs if each.readiness is not None]
        programs.append(program(entry, after))
    return programs


def _awaited(arguments: argparse.Namespace, ports: dict[str, int]) -> dict[str, Readiness]:
    """Return what says that a program is ready, by its name; raises ConfigError."""
    found: dict[str, Readiness] = {}
    for each in arguments.wait_for:
        name, readiness = parse_readiness(each, ports)
        if name in found:
            raise ConfigError(f"--wait-for {name} must be given once: a program has one sign")
        found[name] = readiness
    return found


def _ports(
    arguments: argparse.Namespace, entries: Sequence[Entry], variables: Mapping[str, str]
) -> dict[str, int]:
    """Return the port of each program; raises ConfigError."""
    first = _base_port(arguments.base_port, {**os.environ, **variables})
    return {each.name: first + _NEXT_PORT * each.place for each in entries}


def _base_port(given: int | None, environment: Mapping[str, str]) -> int:
    text = environment.get("PORT") or str(_FIRST_PORT)
    if given is None and not text.isdecimal():
        raise ConfigError(f"PORT must be a number, not {excerpt(text)}: give --base-port")
    return int(text) if given is None else given
