"""Everything at once for ten minutes: `make soak`, or `python -m bench.soak --help`.

A server (`servers.soak`) and its clients (`visitors`) are told to go; every few seconds
both say how they are. After the first minute, and again at the end, all that comes and
goes is told to leave, and what is left is compared.

Both times at rest, because only then are two moments alike: under load a process holds
what happens to be on its way, some tens of megabytes that differ from second to second
and would hide a leak of any size that ten minutes can show. The residents stay connected
from before the first moment until after the second, so that what is compared is a hub at
work that has nothing to do just now.

Compared are threads of each kind and descriptors, which must not be more, and memory,
within margins. After a collection: the blocks that Python has given out, and the bytes
that malloc has (mallinfo2), which is all that a leak can be made of and varies little:
caches of names, each with a bound, grow by steps for as long as new names come.
Then resident bytes, once malloc has given back what it can (malloc_trim): without that it
keeps what the highest load needed, and each thread's arena what its own did. What is left
still varies by a few megabytes with where in the arenas and on the stacks of threads that
live on things happened to lie, and so has a wider margin. The lines and the file have all.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from .machine import cores, facts
from .stage import Process, ProcessFailed

__all__ = ["Plan", "main", "soak", "verdict"]

# Each thread's cache of freed memory counts as given out, and grows for as long as there is
# a size that the thread has not needed yet: without it malloc's figure is exact.
_EXACT = {"GLIBC_TUNABLES": "glibc.malloc.tcache_count=0"}

_SCHEMA = 1
_RESULTS = Path(__file__).resolve().parent / "results"
_WRITERS = "ws-hub:writer:#"
_READERS = ("ws-hub:reader", "ws-hub:reader:#")  # without and with a client that it reads
_FIRST_REST = 60.0  # seconds
_PATIENCE = 150.0  # seconds for all that comes and goes to leave
_SETTLED = 60.0  # seconds to get everything that was said, and to free what is freed later

Figures = Mapping[str, Any]


@dataclass(frozen=True)
class Plan:
    """How much of it.

    Args:
        seconds: of load in all.
        first: seconds of load before the first rest.
        every: seconds between two samples.
        residents: clients that stay.
        visitors: threads of clients that come and go.
        stuck: clients at a time that do not read, or hardly.
        margin: share by which what is given out may have grown.
        held_margin: share by which resident memory may have.
    """

    seconds: float = 600.0
    first: float = _FIRST_REST
    every: float = 5.0
    residents: int = 40
    visitors: int = 3
    stuck: int = 4
    margin: float = 0.05
    held_margin: float = 0.15


def soak(plan: Plan, tell: Callable[[str], object]) -> dict[str, Any]:
    """Run it; return everything that was found, as JSON has it."""
    before, began = facts(), time.monotonic()
    found = cores()
    pinned = len(found) > 1 and hasattr(os, "sched_setaffinity")
    server = Process(found[0] if pinned else None, "bench.servers.soak", env=_EXACT)
    load = Process(found[-1] if pinned else None, "bench.visitors")
    samples: list[Figures] = []
    rests: list[Figures] = []
    try:
        hello = server.ask("hello")
        load.ask("arrive", port=hello["port"], path=hello["path"], residents=plan.residents)
        for seconds in (plan.first, plan.seconds - plan.first):
            server.ask("go")
            load.ask("go", visitors=plan.visitors, stuck=plan.stuck)
            _watch(server, load, plan, seconds, samples, tell)
            rests.append(_rest(server, load, plan, samples[-1]))
            tell(_line(rests[-1]) + "  at rest")
            if _faults(rests[-1]):
                break
        load.ask("leave")
    finally:
        server.close()
        load.close()
    return {
        "schema": _SCHEMA,
        "when": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "seconds": round(time.monotonic() - began, 1),
        "plan": asdict(plan),
        "machine": before,
        "samples": samples,
        "rests": rests,
        "complaints": verdict(rests[0], rests[-1], plan),
    }


def _watch(
    server: Process,
    load: Process,
    plan: Plan,
    seconds: float,
    samples: list[Figures],
    tell: Callable[[str], object],
) -> None:
    """Let it run for so long; take a sample every few seconds, and stop at a fault."""
    ended = time.monotonic() + seconds
    while (left := ended - time.monotonic()) > 0:
        time.sleep(min(plan.every, left))
        samples.append({**server.ask("usage"), "load": load.ask("usage")})
        tell(_line(samples[-1], samples[-2] if len(samples) > 1 else None))
        if _faults(samples[-1]):
            return


def _rest(server: Process, load: Process, plan: Plan, latest: Figures) -> Figures:
    """Have all leave that comes and goes; return what is left, once it has settled."""
    load.ask("rest", _PATIENCE)
    said = server.ask("rest", _PATIENCE)["said"]
    # After a fault nobody knows what is still to come: what there is will do.
    timeout = 1.0 if _faults(latest) else _SETTLED
    load.ask("catch_up", _PATIENCE, said=said, timeout=timeout)
    try:
        found = server.ask("settle", _PATIENCE, clients=plan.residents, timeout=timeout)
    except ProcessFailed as failure:
        found = server.ask("usage")
        found["faults"].append(str(failure))
    return {**found, "load": load.ask("usage")}


def verdict(first: Figures, last: Figures, plan: Plan) -> list[str]:
    """Return what is wrong; nothing when all is as it was and everybody got everything."""
    complaints = list(dict.fromkeys(_faults(first) + _faults(last)))
    (kinds, threads), (before, threads_before) = map(_threads_to_compare, (last, first))
    more = [
        f"{count - before.get(kind, 0)} more of {kind!r}"
        for kind, count in sorted(kinds.items())
        if count > before.get(kind, 0)
    ]
    if more or threads > threads_before:
        named = f": {', '.join(more)}" if more else ""
        complaints.append(f"threads: {first['threads']}, then {last['threads']}{named}")
    if last["descriptors"] > first["descriptors"]:
        complaints.append(f"descriptors: {first['descriptors']}, then {last['descriptors']}")
    for key, what, margin in (
        ("blocks", "blocks of Python's", plan.margin),
        ("used_bytes", "bytes of malloc's", plan.margin),
        ("held_bytes", "resident bytes, held", plan.held_margin),
    ):
        if key in first and key in last and last[key] > first[key] * (1 + margin):
            complaints.append(
                f"{what}: {first[key]:,}, then {last[key]:,}: more than {margin:.0%} above"
            )
    return complaints


def _threads_to_compare(figures: Figures) -> tuple[dict[str, int], int]:
    """Return how many threads of each kind there are, and in all, those of clients apart.

    A writer starts with the first backlog of its client, and a client that has just been heard
    may have a reader: more of them than before is no leak while each has a client. Two more
    readers are there for the clients that are quiet, or one until it needs the other.
    """
    kinds = dict(figures["kinds"])
    readers = sum(kinds.pop(name, 0) for name in _READERS)
    writers = kinds.get(_WRITERS, 0)
    kinds[_READERS[0]] = max(readers - figures["clients"] - 2, 0)
    kinds[_WRITERS] = max(writers - figures["clients"], 0)
    expected = readers - kinds[_READERS[0]] + writers - kinds[_WRITERS]
    return kinds, figures["threads"] - expected


def _faults(figures: Figures) -> list[str]:
    faults: list[str] = [*figures["faults"], *figures["load"]["faults"]]
    return faults


def _line(figures: Figures, before: Figures | None = None) -> str:
    """Return one sample as a line; rates since the one before."""
    load = figures["load"]
    parts = [
        f"rss {figures['rss_bytes'] / 1e6:6.1f} MB",
        f"threads {figures['threads']}",
        f"descriptors {figures['descriptors']}",
        f"clients {figures['clients']}",
    ]
    if "held_bytes" in figures:
        parts.append(f"held {figures['held_bytes'] / 1e6:.1f} MB in {figures['blocks']:,} blocks")
    if before is not None:
        seconds = figures["now"] - before["now"]
        cpu = (figures["cpu_seconds"] - before["cpu_seconds"]) / seconds
        theirs = (load["cpu_seconds"] - before["load"]["cpu_seconds"]) / seconds
        parts += [
            f"{(figures['published'] - before['published']) / seconds:,.0f} published/s",
            f"{(figures['delivered'] - before['delivered']) / seconds:,.0f} delivered/s",
            f"cpu {cpu:.0%}, of the clients {theirs:.0%}",
        ]
    parts += [f"visits {load.get('visits', 0)}", f"cut {figures['cut']}"]
    return "  ".join(parts)


def _summary(found: Figures) -> str:
    """Return what a run amounts to, in a few lines."""
    first, last = found["rests"][0], found["rests"][-1]
    load = last["load"]
    checked = load["messages"] + load.get("visited", 0)
    lines = [
        "",
        f"{last['published']:,} published, {last['delivered']:,} delivered, {checked:,} checked: "
        f"by {found['plan']['residents']} residents and in {load.get('visits', 0):,} visits; "
        f"{last['listened']:,} heard by listeners",
        f"{last['programs']:,} programs, {load.get('stuck', 0)} stuck clients, "
        f"{last['cut']} cut for a full outbox, {load.get('lagged', 0)} told that they lag",
        f"{'':22}{'after the first rest':>22}{'at the end':>16}",
    ]
    for key, what in (
        ("threads", "threads"),
        ("descriptors", "descriptors"),
        ("blocks", "blocks of Python's"),
        ("used_bytes", "bytes of malloc's"),
        ("held_bytes", "resident bytes, held"),
        ("rss_bytes", "resident bytes"),
        ("highest_rss_bytes", "highest resident bytes"),
    ):
        if key in first and key in last:
            lines.append(f"{what:22}{first[key]:22,}{last[key]:16,}")
    lines += ["", *(f"WRONG: {each}" for each in found["complaints"])]
    if not found["complaints"]:
        plan = found["plan"]
        lines.append(
            f"As it was: no more threads or descriptors, memory within {plan['margin']:.0%} "
            f"(resident: {plan['held_margin']:.0%}); every client got everything, whole and in "
            "order."
        )
    return "\n".join(lines)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the soak; 1 when something is not as it was, or not as it should be."""
    options = _parse(argv)
    seconds = options.minutes * 60
    plan = Plan(
        seconds=seconds,
        first=min(_FIRST_REST, seconds / 2),
        every=options.every,
        residents=options.residents,
    )
    began = time.monotonic()

    def tell(line: str) -> None:
        print(f"{time.monotonic() - began:5.0f} s  {line}", flush=True)

    try:
        found = soak(plan, tell)
    except ProcessFailed as failure:
        print(f"\nWRONG: {failure}")
        return 1
    print(_summary(found))
    path = Path(options.json) if options.json else _RESULTS / f"soak-{found['when'][:10]}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    print(f"\n{found['seconds']:.0f} s; written to {os.path.relpath(path)}")
    return 1 if found["complaints"] else 0


def _parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m bench.soak",
        description="Run ws_hub at full load; say whether anything is left over or lost.",
    )
    parser.add_argument("--minutes", type=float, default=10.0, help="of load in all (10)")
    parser.add_argument("--every", type=float, default=5.0, help="seconds between samples (5)")
    parser.add_argument("--residents", type=int, default=40, help="clients that stay (40)")
    parser.add_argument(
        "--json", metavar="PATH", help="where to write (bench/results/soak-DATE.json)"
    )
    return parser.parse_args(argv)


if __name__ == "__main__":
    raise SystemExit(main())
