"""Several workers beside one: `make bench-scale`, `python -m bench.scale --help`.

Every number of workers has its turn in each repeat, so that what else the machine does
meets all of them; the figures are medians of the repeats, and the ratios are to one worker
of the same run. `--sockets` asks something else: how many sockets four workers hold.
"""

from __future__ import annotations

import argparse
import contextlib
import datetime
import json
import os
import statistics
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from . import sockets
from .archive import RESULTS
from .document import PAGE
from .document import replace as write
from .fleet import Fleet, redis, redis_program
from .fleet_trial import REDIS, FleetTrial, Plan
from .machine import cores, facts
from .result import Result, result_of, short, table
from .rows.base import Sample
from .stage import Process, ProcessFailed, installed

__all__ = ["ROWS", "Subject", "main", "markdown", "measure", "relate", "run", "subjects"]

SCHEMA = 1
BEGIN, FINISH = "<!-- scale: made by bench.scale -->\n", "<!-- end of scale -->\n"
PEER = "Flask-SocketIO"
QUICK = Plan(repeats=1, seconds=0.3, clients=40, messages=50, workers=(1, 2))


@dataclass(frozen=True)
class Kind:
    """One row: its unit, what it counts, and whether more is better."""

    unit: str
    counts: str
    higher: bool = False


ROWS = {
    "connects": Kind(
        "connects/s",
        "clients that connect, 64 handshakes at a time, until the workers have registered the "
        "last: connections a second",
        True,
    ),
    "burst": Kind(
        "deliveries/s",
        "bursts to all clients, each published by one worker: messages read a second",
        True,
    ),
    "burst, all publish": Kind(
        "deliveries/s",
        "the same, each worker publishes a part of it: messages read a second",
        True,
    ),
    "one-to-all": Kind("ms", "one message to all, until the last client has read it: p50"),
    "own clients": Kind(
        "ms", "the same, until each client of the worker that published has read it: p50"
    ),
    "others' clients": Kind("ms", "the same, for the clients of the other workers: p50"),
    "one listens": Kind(
        "us", "a publish to a channel that only clients of the same worker listen to: a call"
    ),
    "others listen": Kind("us", "the same, where a client of each other worker listens as well"),
}


@dataclass(frozen=True)
class Subject:
    """Who is measured: so many workers of a kind, and what connects them."""

    kind: str
    workers: int
    backplane: str = ""

    @property
    def name(self) -> str:
        """As the table has it."""
        by = PEER if self.kind == PEER else self.backplane.partition("?")[0]
        plural = "s" if self.workers > 1 else ""
        return f"{self.workers} worker{plural}{', ' if by else ''}{by}"


ONE = Subject("ws_hub", 1)


def subjects(plan: Plan, *, peers: bool) -> list[Subject]:
    """Return who is measured: one worker by itself first."""
    found = [ONE]
    found += [Subject("ws_hub", count, by) for by in plan.backplanes for count in plan.workers]
    if peers:
        found += [Subject(PEER, count) for count in plan.workers if count > 1]
    return found


def measure(plan: Plan, say: Any = lambda text: None) -> list[Result]:
    """Return the results of all rows and subjects; `say` is told what is under way."""
    program, peers = redis_program(), plan.peers
    if peers and (program is None or not installed(PEER)):
        say(f"{PEER} is left out: {'it' if program else 'a Redis server'} is not installed")
        peers = False
    if REDIS in plan.backplanes and (program is None or not find_spec("redis")):
        say(f"{REDIS} is left out: {'redis-py' if program else 'a Redis server'} is not installed")
        plan = replace(plan, backplanes=[each for each in plan.backplanes if each != REDIS])
    who = subjects(plan, peers=peers)
    found: dict[tuple[str, Subject], list[Sample]] = {}
    failed: dict[Subject, str] = {}
    with contextlib.ExitStack() as stack:
        queue = stack.enter_context(redis(program)) if program else ""
        for turn, each in ((turn, each) for turn in range(plan.repeats) for each in who):
            say(f"{turn + 1} of {plan.repeats}: {each.name}")
            try:
                for row, sample in run(each, plan, queue):
                    found.setdefault((row, each), []).append(sample)
            except ProcessFailed as failure:
                failed[each] = str(failure)
    results = [
        _result(row, each, found.get((row, each), []), failed.get(each, ""))
        for row in ROWS
        for each in who
        if (row, each) in found or each in failed
    ]
    relate(results, who)
    return results


def run(subject: Subject, plan: Plan, queue: str) -> Iterator[tuple[str, Sample]]:
    """Yield the rows of one run of a subject."""
    mine, theirs = _places()
    threads = plan.clients + 16 if subject.kind == PEER else 8  # it keeps one for each client
    with contextlib.ExitStack() as stack:
        load = Process(mine, "bench.readers")
        stack.callback(load.close)
        fleet = Fleet(
            subject.kind,
            subject.workers,
            backplane=queue if subject.backplane == REDIS else subject.backplane,
            queue=queue,
            threads=threads,
            cores=theirs,
        )
        stack.callback(fleet.close)
        trial = FleetTrial(fleet, load, plan)
        yield "connects", trial.connects()
        yield "burst", trial.bursts(everybody=False)
        if subject.workers > 1:
            yield "burst, all publish", trial.bursts(everybody=True)
        yield from trial.singles().items()
        if subject.kind == "ws_hub":
            yield "one listens", trial.listened(everywhere=False)
            if subject.workers > 1:
                yield "others listen", trial.listened(everywhere=True)


def _places() -> tuple[int | None, set[int] | None]:
    """Return the core of the load, where there are enough, and those of the workers."""
    found = cores()
    if len(found) < 3 or not hasattr(os, "sched_setaffinity"):
        return None, None
    return found[-1], set(found[:-1])


def _result(row: str, subject: Subject, samples: Sequence[Sample], failure: str) -> Result:
    kind = ROWS[row]
    values = [each.value for each in samples]
    found = result_of(row, subject.name, kind.unit, values, higher=kind.higher, note=failure)
    for key in samples[0].extra if samples else ():
        found.extra[key] = statistics.median(each.extra[key] for each in samples)
    notes = dict.fromkeys(each.note for each in samples if each.note)
    found.note = "; ".join([*notes, *([failure] if failure else [])])
    return found


def relate(results: Sequence[Result], who: Sequence[Subject]) -> None:
    """Fill in the ratios: to one worker, and to as many of Flask-SocketIO."""
    named = {(each.row, each.server): each.median for each in results}
    rivals = {each.name: Subject(PEER, each.workers).name for each in who if each.kind == "ws_hub"}
    for each in results:
        if each.median is None:
            continue
        if each.row == "burst, all publish":
            one = named.get(("burst", ONE.name))
        elif each.row == "others listen":
            one = named.get(("one listens", ONE.name))
        elif each.row == "others' clients":
            one = named.get(("own clients", ONE.name))
        else:
            one = named.get((each.row, ONE.name))
        if one and each.server != ONE.name:
            each.ratios[ONE.name] = each.median / one
        rival = named.get((each.row, rivals.get(each.server, "")))
        if rival:
            each.ratios[PEER] = each.median / rival


# --- the report ----------------------------------------------------------------------------


def report(
    results: Sequence[Result], plan: Plan, machine: dict[str, Any], seconds: float
) -> dict[str, Any]:
    """Return everything that a run found, as JSON has it."""
    return {
        "schema": SCHEMA,
        "when": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "seconds": round(seconds, 1),
        "plan": asdict(plan),
        "machine": machine,
        "servers": {each.server: "gunicorn -k gthread" for each in results},
        "rows": [
            {
                "name": row,
                "counts": kind.counts,
                "unit": kind.unit,
                "results": [each.to_json() for each in results if each.row == row],
            }
            for row, kind in ROWS.items()
            if any(each.row == row for each in results)
        ],
    }


def remark(machine: dict[str, Any]) -> str:
    """Return what the number of cores says of the figures."""
    if machine["cores"] < 3:
        return (
            f"{machine['cores']} cores: the load shares them with the workers, so that what it "
            "takes is missing to them. A second worker cannot show here what it would be worth "
            "beside a load that has a core of its own."
        )
    return "The load has a core of its own, and the workers have the others."


def markdown(found: dict[str, Any]) -> str:
    """Return the rows of a run for a page."""
    machine, plan = found["machine"], found["plan"]
    lines = [
        "",
        f"{found['when'][:10]}, commit {machine['commit'] or 'unknown'}: {machine['cpu']}, "
        f"{machine['cores']} cores, {machine['python']}; {plan['clients']} clients, bursts of "
        f"{plan['messages']} messages of {plan['size']} bytes, {plan['seconds']:g} s a figure, "
        f"medians of {plan['repeats']} runs; load {machine['load_average']:.1f} at the start. "
        f"{remark(machine)}",
        "",
    ]
    for row in found["rows"]:
        lines += [
            f"**{row['name']}** ({row['unit']}): {row['counts']}.",
            "",
            "| workers | median | low .. high | ratios | also |",
            "|---|---:|---:|---|---|",
            *(_line(each) for each in row["results"]),
            "",
        ]
    return "\n".join([*lines, ""])


def _line(each: dict[str, Any]) -> str:
    low_high = "" if each["low"] is None else f"{short(each['low'])} .. {short(each['high'])}"
    ratios = ", ".join(f"{value:.2f} x {name}" for name, value in each["ratios"].items())
    also = ", ".join(f"{name} {short(value)}" for name, value in each["extra"].items())
    also = "; ".join(part for part in (also, each["note"]) if part)
    return f"| {each['server']} | {short(each['median'])} | {low_high} | {ratios} | {also} |"


# --- the command ---------------------------------------------------------------------------


def main(argv: Sequence[str] | None = None) -> int:
    """Measure; 1 when something did not come to a figure, whatever the figures are."""
    options = parse(argv)
    if options.sockets is not None:
        return sockets.main(options.sockets, options.backplane[0])
    plan = planned(options)
    before, began = facts(), time.monotonic()

    def say(text: str) -> None:
        print(f"{time.monotonic() - began:5.0f} s  {text}", file=sys.stderr, flush=True)

    results = measure(plan, say)
    found = report(results, plan, before, time.monotonic() - began)
    print(table(results))
    print(f"\n{remark(before)}\n")
    for row in found["rows"]:
        print(f"{row['name']}: {row['counts']}")
    path = place(options, found["when"][:10])
    if path is not None:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    print(f"\n{found['seconds']:.0f} s{f'; written to {os.path.relpath(path)}' if path else ''}")
    if options.docs:
        write(PAGE, BEGIN, FINISH, markdown(found))
    return 1 if any(each.median is None for each in results) else 0


def planned(options: argparse.Namespace) -> Plan:
    """Return how much was asked for."""
    asked = {
        name: getattr(options, name)
        for name in ("repeats", "seconds", "clients", "workers")
        if getattr(options, name) is not None
    }
    plan = QUICK if options.quick else Plan()
    backplanes = tuple(options.backplane)
    return replace(plan, backplanes=backplanes, peers=not options.no_peers, **asked)


def place(options: argparse.Namespace, date: str) -> Path | None:
    """Return where to write: a whole run has a place among the results."""
    if options.json:
        return Path(options.json)
    whole = planned(options) == Plan()
    return RESULTS / f"scale-{date}.json" if whole else None


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """Return the options of the command."""
    parser = argparse.ArgumentParser(
        prog="python -m bench.scale",
        description="Measure several workers that a backplane connects, beside one.",
    )
    parser.add_argument("--quick", action="store_true", help="a few clients, 1 and 2 workers, once")
    parser.add_argument("--workers", nargs="+", type=int, help="how many (1 2 4)")
    parser.add_argument("--clients", type=int, help=f"in all workers together ({Plan.clients})")
    parser.add_argument("--seconds", type=float, help=f"for each figure ({Plan.seconds:g})")
    parser.add_argument("--repeats", type=int, help=f"of each number of workers ({Plan.repeats})")
    parser.add_argument(
        "--backplane",
        nargs="+",
        default=Plan.backplanes,
        metavar="ADDRESS",
        help="what connects the workers; redis is a server of the bench's own (local redis)",
    )
    parser.add_argument("--no-peers", action="store_true", help=f"leave {PEER} out")
    parser.add_argument(
        "--sockets",
        nargs="?",
        type=int,
        const=sockets.AIM,
        metavar="COUNT",
        help=f"instead, open so many ({sockets.AIM:,}), or as many as may be, on 4 workers",
    )
    parser.add_argument(
        "--json",
        metavar="PATH",
        help="where to write (bench/results/scale-DATE.json; nowhere when asked for less)",
    )
    parser.add_argument("--docs", action="store_true", help="put the table on docs/measurements.md")
    return parser.parse_args(argv)


if __name__ == "__main__":
    sys.exit(main())
