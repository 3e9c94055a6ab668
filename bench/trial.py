"""One pair of runs: a hub while attackers work on it, and while they work on a sink.

Nothing is pinned: the cores belong to the hub, to its users and to the attackers alike, in
both runs, so that the two differ in one thing, which is what the hub makes of what it is
sent. An attacker sends to the sink no faster than it could to the hub.
"""

from __future__ import annotations

import contextlib
import statistics
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from .control import Answer
from .rows.base import percentile
from .stage import Process, ProcessFailed

__all__ = ["Assault", "Trial"]

_BEGUN = 0.5  # seconds of attack before anything is measured
_WARM_UP = 0.3  # seconds: imports, pools and threads are not the attackers' doing
_EVERY = 0.05  # seconds between two messages
_REST = 1.0  # seconds without attackers, before what memory is left is read
_LOOK = 0.05  # seconds between two looks at the hub's memory
_LATE = 5.0  # seconds for what was published to reach the clients
_ANSWER = 60.0  # seconds for an answer beside an attack
_CEILING = 1.5e9  # bytes by which the hub may grow before the attack is called off


@dataclass(frozen=True)
class Assault:
    """What attackers do, and what the hub does meanwhile.

    Args:
        kind: of the attackers (`attackers.KINDS`).
        words: what the hub has beside its defaults (`servers.attacked`).
        kept: whether it has a channel with 4 MiB of history.
        storm: seconds between two broadcasts of 16 kB; None for none.
        connections: in all, of kinds that have more than one an attacker.
    """

    kind: str
    words: tuple[str, ...] = ()
    kept: bool = False
    storm: float | None = None
    connections: int | None = None


class Trial:
    """The processes that all runs of one attack share: its attackers, and the sink.

    Args:
        assault: what they do.
        attackers: how many.
        clients: how many honest clients the hub has.
        seconds: that are measured in each run.
        seed: of what the attackers make up; each run takes the next.
        ceiling: bytes by which the hub may grow before the attack is called off.
    """

    def __init__(
        self,
        assault: Assault,
        attackers: int,
        *,
        clients: int,
        seconds: float,
        seed: int,
        ceiling: float = _CEILING,
    ) -> None:
        self._ceiling = ceiling
        self._assault = assault
        self._clients = clients
        self._seconds = seconds
        self._seed = seed
        self._published = 0  # broadcasts of this run
        self._rates: list[float] = []  # bytes a second that one attacker could send to the hub
        self._attackers: list[Process] = []
        self._sink: Process | None = None
        try:
            for _ in range(attackers):
                self._attackers.append(Process(None, "bench.attackers"))
            self._sink = Process(None, "bench.servers.sink")
            self._sink_port = self._sink.ask("hello", _ANSWER)["port"]
        except ProcessFailed:
            self.close()
            raise

    def close(self) -> None:
        """End the processes."""
        for each in (*self._attackers, *([self._sink] if self._sink else ())):
            each.close()

    def run(self, *, sink: bool) -> dict[str, float]:
        """Return what one run showed, with a hub of its own.

        A run against the sink comes after one against the hub, whose rate it has.
        """
        self._published = 0
        words = self._assault.words
        with _process("bench.servers.attacked", *words) as hub, _process("bench.witness") as users:
            hello = hub.ask("hello", _ANSWER)
            if self._assault.kept:
                hub.ask("keep", _ANSWER)
            port, path = hello["port"], hello["path"]
            users.ask("arrive", _ANSWER, port=port, path=path, clients=self._clients)
            hub.ask("await_clients", _ANSWER, count=self._clients, timeout=_ANSWER)
            self._measure(hub, users, _WARM_UP)
            stats = hub.ask("stats")
            hub.forget_peak()
            before = hub.usage()
            self._begin(self._sink_port if sink else port, path, paced=sink)
            try:
                time.sleep(_BEGUN)
                seen, stopped = self._measure(hub, users, self._seconds)
            finally:
                theirs = self._end()
            peak = hub.usage()
            counted = hub.ask("stats", _ANSWER)
            time.sleep(_REST)
            after = hub.usage()
        if not sink:
            self._rates.append(_total(theirs, "up") / _total(theirs, "seconds"))
        return {
            **seen,
            "MB before": before.rss_bytes / 1e6,
            "MB peak": peak.peak_rss_bytes / 1e6,
            "MB grown": (peak.peak_rss_bytes - before.rss_bytes) / 1e6,
            "MB left": (after.rss_bytes - before.rss_bytes) / 1e6,
            "called off": float(stopped),
            **_work(theirs),
            **{f"hub {key}": counted[key] - stats[key] for key in stats},
        }

    def _begin(self, port: int, path: str, *, paced: bool) -> None:
        """Let the attackers go."""
        count = len(self._attackers)
        wanted = self._assault.connections or count
        rate = statistics.median(self._rates) if paced else None
        for index, each in enumerate(self._attackers):
            self._seed += 1
            each.tell(
                "attack",
                kind=self._assault.kind,
                port=port,
                path=path,
                number=index * (wanted // count),
                connections=wanted // count,
                rate=rate,
                seed=self._seed,
            )

    def _end(self) -> list[Answer]:
        """Call the attackers back; return what each did."""
        for each in self._attackers:
            each.tell("rest")
        found = [each.answer(_ANSWER) for each in self._attackers]
        for each in self._attackers:
            each.answer(_ANSWER)  # to the request to rest
        return found

    def _measure(
        self, hub: Process, users: Process, seconds: float
    ) -> tuple[dict[str, float], bool]:
        """Return what the users see for so long, and whether the hub grew too much."""
        ceiling = hub.usage().rss_bytes + self._ceiling
        users.tell("watch", seconds=seconds)
        hub.tell("probe", seconds=seconds, every=_EVERY, storm=self._assault.storm)
        stopped = False
        while not hub.answered(_LOOK):
            if not stopped and hub.usage().rss_bytes > ceiling:
                stopped = True
                for each in self._attackers:
                    each.pause(on=True)
        probed = hub.answer(_ANSWER)
        dues = probed["dues"]
        self._published += len(dues)
        users.tell("settle", messages=self._published, dues=dues, timeout=_LATE)
        users.answer(_ANSWER)  # to the request to watch
        seen = users.answer(_ANSWER)
        for each in self._attackers:
            each.pause(on=False)
        return _figures(probed, seen), stopped


@contextlib.contextmanager
def _process(module: str, *words: str) -> Iterator[Process]:
    found = Process(None, module, *words)
    try:
        yield found
    finally:
        found.close()


def _figures(probed: Answer, seen: Answer) -> dict[str, float]:
    """Return what the users saw, in ms and in numbers."""
    figures: dict[str, float] = {}
    for what, times in (
        ("http", seen["requests"]),
        ("message", seen["messages"] + probed["late"]),
        ("publish", probed["ns"]),
    ):
        figures[f"{what} p50"] = statistics.median(times) / 1e6
        figures[f"{what} p99"] = percentile(times, 0.99) / 1e6
    return {
        **figures,
        "requests": len(seen["requests"]),
        "requests failed": seen["failed"],
        "messages missing": seen["missing"],
        "messages not published": len(probed["late"]) + probed["unpublished"],
        "clients lost": seen["lost"],
    }


def _work(theirs: Sequence[Answer]) -> dict[str, float]:
    """Return what the attackers did, all together."""
    seconds = statistics.fmean(each["seconds"] for each in theirs)
    return {
        "MB/s up": _total(theirs, "up") / seconds / 1e6,
        "MB/s down": _total(theirs, "down") / seconds / 1e6,
        **{f"attackers {key}": _total(theirs, key) for key in ("opened", "refused", "cut")},
    }


def _total(theirs: Sequence[Answer], key: str) -> float:
    return float(sum(each[key] for each in theirs))
