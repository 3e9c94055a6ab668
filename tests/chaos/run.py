"""One run: everything is started, the faults happen, all ends, and the judge looks at it."""

from __future__ import annotations

import contextlib
import json
import logging
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import pytest

from tests.browser.chromium import find_chromium
from tests.chaos.bus import Bus
from tests.chaos.clients import (
    Client,
    NodeClients,
    PageClient,
    PythonClient,
    RawClient,
    RemotePublisher,
    Visitors,
)
from tests.chaos.faults import break_things
from tests.chaos.judge import Verdict, judge
from tests.chaos.plan import BEGIN, END, PROXIES, REMOTE, Plan, schedule
from tests.chaos.record import Record
from tests.chaos.server import Servers
from tests.support import wait_until
from ws_hub.testing import FaultProxy

__all__ = ["BUFFER", "PATIENCE", "Outcome", "Tell", "run", "silent", "table"]

T = TypeVar("T", bound=Any)
Tell = Callable[[str], object]
BUFFER = 16 * 1024  # bytes that the kernel holds for a client: then it is behind
PATIENCE = 60.0  # seconds, for all to be there


@dataclass
class Outcome:
    """What a run has brought.

    Attributes:
        verdict: what the judge has found.
        faults: how often each kind of fault was injected.
        ghosts: users that the server still names, or names no more, at the end.
        accepted, remote: messages accepted of the server's publishers, and of clients.
        visitors: clients that came and vanished.
        connections: how many reached the server.
        lagged: how often a client was told that it was behind.
        left_out: kinds of clients that this machine has not.
        is_peer: whether it was another library's server.
    """

    verdict: Verdict = field(default_factory=Verdict)
    faults: Counter[str] = field(default_factory=Counter)
    ghosts: int = 0
    accepted: int = 0
    remote: int = 0
    visitors: int = 0
    connections: int = 0
    lagged: int = 0
    left_out: list[str] = field(default_factory=list)
    is_peer: bool = False

    @property
    def is_well(self) -> bool:
        """Whether nothing is wrong."""
        return self.verdict.is_well and not self.ghosts


class _Run:
    """What there is during a run; `stack` ends all of it."""

    def __init__(self, plan: Plan, tell: Tell, stack: contextlib.ExitStack) -> None:
        self._plan = plan
        self._tell = tell
        self._stack = stack
        self.outcome = Outcome()
        self._folder = Path(
            stack.enter_context(tempfile.TemporaryDirectory(prefix="ws-hub-chaos-"))
        )
        bus = self._ended(Bus(plan.bus, plan.workers)) if plan.bus else None
        self._server = Servers(self._folder, "tests.chaos.app", count=plan.workers, bus=bus)
        stack.callback(self._server.close)
        self._server.start()
        self._proxies = [
            stack.enter_context(FaultProxy(*self._server.target(), buffer=BUFFER))
            for _ in range(PROXIES)
        ]
        self._clients: list[Client] = []
        self._users: list[list[str]] = []  # whom each process of the server names
        self._places = {
            name: self._url(name, place) for place, name in enumerate(self._names(plan.clients))
        }
        self._make_clients()
        # Before anything breaks: who subscribes late has nothing to miss.
        self._server.ask("mark", BEGIN)
        wait_until(self._have_begun, PATIENCE, "the first message at every client")
        self._server.ask_all("go")
        self._publishers = [
            self._ended(RemotePublisher(each, self._url(f"publisher-{each}", each)))
            for each in REMOTE
        ]
        self._visitors = Visitors(lambda name: self._url(name, hash(name)))
        stack.callback(self._visitors.close)

    @property
    def _records(self) -> list[Record]:
        return [record for client in self._clients for record in client.records]

    @staticmethod
    def _names(count: int) -> Iterator[str]:
        for number in range(count):
            yield f"client-{number}"

    def _url(self, name: str, place: int) -> str:
        proxy = self._proxies[place % PROXIES]
        return f"ws://{proxy.host}:{proxy.port}/ws?user={name}"

    def _ended(self, thing: T) -> T:
        self._stack.callback(thing.close)
        return thing

    # --- the clients -----------------------------------------------------------------------

    def _make_clients(self) -> None:
        """Make a page if there can be one, and a third of the rest of each other kind."""
        waiting = list(self._places.items())
        if self._plan.page:
            binary = find_chromium()
            if binary is None:
                self.outcome.left_out.append("Chromium is not on this machine")
            else:
                self._clients.append(self._ended(PageClient(binary, *waiting.pop())))
        if self._plan.node:
            share = len(waiting) // 3
            try:
                self._clients.append(self._ended(NodeClients(dict(waiting[-share:]))))
                del waiting[-share:]
            except pytest.skip.Exception as skipped:
                self.outcome.left_out.append(f"Node: {skipped}")
        for place, (name, url) in enumerate(waiting):
            kind = (PythonClient, RawClient)[place % 2]
            made = kind(name, url, compression=place % 4 < 2)  # the others always do
            self._clients.append(self._ended(made))

    def break_things(self) -> None:
        """Let the faults of the plan happen."""
        plan = self._plan
        self.outcome.faults = break_things(
            schedule(plan), plan.seconds, self._server, self._proxies, self._tell
        )

    # --- the end ---------------------------------------------------------------------------

    def settle(self) -> None:
        """End what publishes, and let every client have all that there is."""
        self._server.ask_all("quiet")
        for publisher in self._publishers:
            publisher.stop()
        self._visitors.close()
        self._server.ask("mark", END)
        deadline = time.monotonic() + self._plan.patience
        self._await(self._have_ended, deadline)
        self._await(self._are_agreed, deadline)

    def _await(self, reached: Callable[[], bool], deadline: float) -> None:
        """Wait for what the judge will find missing otherwise."""
        with contextlib.suppress(AssertionError):
            wait_until(reached, max(deadline - time.monotonic(), 1.0))

    def _have_begun(self) -> bool:
        for client in self._clients:
            client.look()
        return all(record.begun for record in self._records)

    def _have_ended(self) -> bool:
        for client in self._clients:
            client.look()
        return all(record.ended for record in self._records)

    def _are_agreed(self) -> bool:
        """Say whether the server and all clients know who is present."""
        for client in self._clients:
            client.look()
        self._users = self._server.ask_all("users")
        views = [*self._users, *(record.present for record in self._records)]
        living = sorted(record.name for record in self._records)
        return all(sorted(map(str, view)) == living for view in views)

    def judge(self) -> None:
        """Look at what has come of it."""
        outcome, living = self.outcome, {record.name for record in self._records}
        for client in self._clients:
            client.finish()
        for users in self._users:
            outcome.ghosts += len(living ^ set(users)) + len(users) - len(set(users))
        path = self._folder / "stored.json"
        self._server.ask("read", path)
        stored = json.loads(path.read_text(encoding="utf-8"))
        accepted = self._server.accepted()
        remote = [
            (channel, value)
            for publisher in self._publishers
            for channel, values in publisher.accepted.items()
            for value in values
        ]
        again = sum(publisher.again for publisher in self._publishers)
        kills = self._server.kills()
        outcome.verdict = judge(self._records, living, stored, accepted, remote, kills, again)
        outcome.accepted, outcome.remote = len(accepted), len(remote)
        outcome.visitors = self._visitors.came
        outcome.connections = sum(proxy.accepted for proxy in self._proxies)
        outcome.lagged = sum(record.lagged for record in self._records)
        for line in self._server.failures():
            outcome.verdict.complaints.append(f"the server's log: {line}")
        if self._server.failures():
            self._tell(self._server.log())


@contextlib.contextmanager
def silent(*names: str) -> Iterator[None]:
    """Have loggers log nothing below CRITICAL meanwhile."""
    loggers = [logging.getLogger(name) for name in names]
    levels = [logger.level for logger in loggers]
    try:
        for logger in loggers:
            logger.setLevel(logging.CRITICAL)
        yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


def run(plan: Plan, tell: Tell) -> Outcome:
    """Run it, tell what happens, and return what has come of it. Nothing is left behind."""
    with contextlib.ExitStack() as stack:
        # These log each connection that is lost, and each gap, which the judge counts.
        stack.enter_context(silent("websockets", "ws_hub"))
        each = _Run(plan, tell, stack)
        each.break_things()
        tell("the faults are over")
        each.settle()
        each.judge()
        return each.outcome


def table(outcome: Outcome) -> str:
    """Return what has come of a run, as text."""
    heads = ("client", "n", "messages", "silent losses", "duplicates", "out of order",
             "told gaps", "unnumbered", "repeated", "untrue", "ghosts")  # fmt: skip
    rows = [
        (kind, *map(str, vars(count).values())) for kind, count in outcome.verdict.kinds.items()
    ]
    if not outcome.is_peer:
        rows.append(("the hub itself", *[""] * 9, str(outcome.ghosts)))
    rows.insert(0, heads)
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = [
        " | ".join(
            cell.rjust(width) if place else cell.ljust(width)
            for place, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        for row in rows
    ]
    lines.insert(1, "-+-".join("-" * width for width in widths))
    injected = ", ".join(f"{count} x {kind}" for kind, count in sorted(outcome.faults.items()))
    lines += ["", f"faults injected: {injected}", *_notes(outcome)]
    return "\n".join(lines)


def _notes(outcome: Outcome) -> list[str]:
    own, verdict = f"{outcome.accepted} of the server's own publishers", outcome.verdict
    if outcome.is_peer:
        return [f"{outcome.connections} connections; published: {own}"]
    return [
        f"{outcome.connections} connections, and {outcome.visitors} visitors that vanished; "
        f"clients were told {outcome.lagged} times that they were behind",
        f"accepted: {own}, {outcome.remote} of clients",
        f"lost by kills before they were committed, for all alike: {verdict.lost_at_kills}, the "
        f"oldest accepted {verdict.oldest_lost * 1000:.0f} ms before",
        *(f"left out: {each}" for each in outcome.left_out),
        *(f"WRONG: {each}" for each in verdict.complaints[:40]),
    ]
