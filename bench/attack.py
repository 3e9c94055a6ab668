"""What attackers do to everybody else: `make bench-attack`, `python -m bench.attack --help`.

For each attack, and each number of attackers, pairs of runs are made: one against the hub,
one against a sink, in this order and then in the other, so that what else the machine does
meets both. The figures are medians of the pairs.
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
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from .archive import RESULTS
from .document import PAGE, replace
from .machine import facts
from .result import Result, result_of, short
from .stage import ProcessFailed
from .trial import Assault, Trial

__all__ = ["ATTACKS", "Attack", "Plan", "main", "markdown", "measure", "report", "verdict"]

SCHEMA = 1
_RATIO = 2.0  # that others' p50 may have to the control's
_P99 = 100.0  # ms
BEGIN, FINISH = "<!-- attacks: made by bench.attack -->\n", "<!-- end of attacks -->\n"

Figures = dict[str, float]


@dataclass(frozen=True)
class Plan:
    """How much of it.

    Args:
        pairs: of runs, for each attack and number of attackers.
        seconds: that are measured in each run.
        clients: honest ones.
        attackers: how many of them, in turn; None for what each attack has.
        seed: of what attackers make up.
    """

    pairs: int = 3
    seconds: float = 5.0
    clients: int = 10
    attackers: tuple[int, ...] | None = None
    seed: int = 1


@dataclass(frozen=True)
class Attack:
    """One attack of the table.

    Args:
        name: as in the table, and for `--rows`.
        counts: what the attackers do, in one sentence.
        assault: the same, for a run.
        bound: MB by which the hub may grow while the fewest attackers work; None where
            there is no such goal.
        attackers: how many work at the same time, in turn.
        longer: how many times as long as others it is measured, for memory that grows.
    """

    name: str
    counts: str
    assault: Assault
    bound: float | None = 64.0
    attackers: tuple[int, ...] = (1, 5, 20)
    longer: float = 1.0


_LIVE = "a channel with 4 MiB of history"
ATTACKS = (
    Attack(
        "long-ids",
        "subscribe again and again to one channel with ids of 60,000 bytes, read 100 kB/s (116)",
        Assault("long-ids"),
        longer=2.0,
    ),
    Attack("ids-120", "the same with ids of 120 bytes", Assault("ids-120")),
    Attack(
        "replays",
        f"subscribe again and again to {_LIVE}, from its beginning, and read all (117)",
        Assault("replays", kept=True),
        150.0,
        longer=2.0,
    ),
    Attack(
        "replays-in-turn",
        f"unsubscribe from {_LIVE} and subscribe to it, in turn, and read all (117)",
        Assault("replays-in-turn", kept=True),
        150.0,
        longer=2.0,
    ),
    Attack(
        "published-history",
        "publish 60 kB to ever new channels that keep history, with --publish 'chat:*' (120)",
        Assault("published-history", ("publish",)),
        256.0,
        longer=2.0,
    ),
    Attack("json-pings", "send JSON pings, read all pongs (121)", Assault("json-pings")),
    Attack("ws-pings", "send ping frames of 125 bytes, read all pongs", Assault("ws-pings")),
    Attack(
        "nested",
        "send pings of 64 KiB whose data is arrays in arrays, as deep as may be (121)",
        Assault("nested"),
    ),
    Attack(
        "compressed",
        "the same in compressed frames of some 300 bytes, with compression on (121)",
        Assault("compressed", ("compression",)),
    ),
    Attack(
        "reconnects",
        "connect, send 10,000 JSON pings, and connect anew from the same address (121)",
        Assault("reconnects"),
    ),
    Attack(
        "subscribe-churn",
        "subscribe to unknown channels and unsubscribe, each with another name (125)",
        Assault("subscribe-churn"),
    ),
    Attack(
        "slow-readers",
        "never read, and come back when cut, while 16 kB are broadcast every ms (126)",
        Assault("slow-readers", storm=0.001),
        None,  # an outbox each
    ),
    Attack(
        "late-viewers",
        f"1,000 connections that subscribe to {_LIVE}, from its beginning, and read all (73)",
        Assault("late-viewers", kept=True, connections=1000),
        64.0,
        (5,),
    ),
)


def measure(attack: Attack, attackers: int, plan: Plan) -> tuple[list[Figures], list[Figures]]:
    """Return what each run against the hub showed, and each against the sink."""
    seconds = plan.seconds * attack.longer
    trial = Trial(attack.assault, attackers, clients=plan.clients, seconds=seconds, seed=plan.seed)
    with contextlib.closing(trial):
        found: dict[bool, list[Figures]] = {False: [], True: []}
        for turn in range(plan.pairs):
            for sink in (False, True) if turn % 2 == 0 else (True, False):
                found[sink].append(trial.run(sink=sink))
    return found[False], found[True]


def results(row: str, hub: Sequence[Figures], sink: Sequence[Figures]) -> list[Result]:
    """Return the figures of both kinds of run: p50 of plain requests, and all else beside."""
    attacked, control = (
        _result(row, name, runs) for name, runs in (("ws_hub", hub), ("control", sink))
    )
    assert attacked.median is not None and control.median is not None
    attacked.ratios["control"] = attacked.median / control.median
    for key in ("http p99", "message p50", "message p99", "publish p50"):
        if control.extra[key]:
            attacked.ratios[f"control, {key}"] = attacked.extra[key] / control.extra[key]
    return [attacked, control]


def _result(row: str, name: str, runs: Sequence[Figures]) -> Result:
    found = result_of(row, name, "ms", [each["http p50"] for each in runs])
    for key in runs[0]:
        found.extra[key] = statistics.median(each[key] for each in runs)
    if found.extra["called off"]:
        found.note = "called off: the hub grew too much"
    return found


def verdict(attack: Attack, attackers: int, found: Sequence[Result]) -> dict[str, Any]:
    """Return whether the goal holds, and what it is held against."""
    hub = found[0]
    goal: dict[str, Any] = {"attack": attack.name, "attackers": attackers, "holds": False}
    if hub.median is None:
        return {**goal, "why": [hub.note]}
    ratio = max(hub.ratios["control"], hub.ratios.get("control, message p50", 0.0))
    p99 = max(hub.extra["http p99"], hub.extra["message p99"])
    grown = hub.extra["MB grown"]
    bound = attack.bound if attackers == min(attack.attackers) else None
    why = []
    if ratio > _RATIO:
        why.append(f"p50 {short(ratio)} x the control's")
    if p99 > _P99:
        why.append(f"p99 {short(p99)} ms")
    if bound is not None and grown > bound:
        why.append(f"grew by {short(grown)} MB")
    for key in ("messages missing", "messages not published", "clients lost", "requests failed"):
        if hub.extra[key] > found[1].extra[key]:
            why.append(f"{short(hub.extra[key])} {key}")
    return {
        **goal,
        "holds": not why,
        "why": why,
        "p50 ratio": ratio,
        "p99": p99,
        "MB grown": grown,
        "MB allowed": bound,
    }


def report(
    rows: Sequence[tuple[Attack, int, list[Result]]],
    plan: Plan,
    machine: dict[str, Any],
    seconds: float,
) -> dict[str, Any]:
    """Return everything that a run found, as JSON has it."""
    return {
        "schema": SCHEMA,
        "when": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "seconds": round(seconds, 1),
        "plan": asdict(plan),
        "machine": machine,
        "servers": {
            "ws_hub": "the hub that the attackers work on",
            "control": "the same hub, while the same attackers send as much to a sink",
        },
        "rows": [
            {
                "name": row_name(attack, attackers),
                "counts": attack.counts,
                "unit": "ms",
                "point": {"sweep": attack.name, "x": attackers, "of": "attacker"},
                "results": [each.to_json() for each in found],
            }
            for attack, attackers, found in rows
        ],
        "goals": [verdict(*row) for row in rows],
    }


def row_name(attack: Attack, attackers: int) -> str:
    """Return the name of a row: one attack by so many."""
    return f"{attack.name}-{attackers}"


# --- showing -------------------------------------------------------------------------------

_HEADINGS = (
    *("attack", "attackers", "HTTP p50, ms", "HTTP p99", "message p50, ms", "message p99"),
    *("publish p99", "MB grown", "goal"),
)


def cells(row: dict[str, Any], goal: dict[str, Any]) -> list[str]:
    """Return one line of the table, of a row and its goal as JSON has them."""
    found = {each["server"]: each for each in row["results"]}
    hub, control = found["ws_hub"], found.get("control")
    line = [goal["attack"], str(goal["attackers"])]
    if hub["median"] is None or control is None:
        return [*line, *[""] * (len(_HEADINGS) - 3), hub["note"]]
    for what in ("http p50", "http p99", "message p50", "message p99", "publish p99"):
        ours, theirs = (each["extra"][what] for each in (hub, control))
        beside = f", {short(ours / theirs)} x" if what.endswith("p50") and theirs else ""
        line.append(f"{short(ours)} ({short(theirs)}{beside})")
    allowed = "" if goal["MB allowed"] is None else f" of {short(goal['MB allowed'])}"
    line.append(f"{short(hub['extra']['MB grown'])}{allowed}")
    parts = ["holds" if goal["holds"] else ", ".join(goal["why"]), hub["note"]]
    return [*line, "; ".join(part for part in parts if part)]


def table(found: dict[str, Any]) -> str:
    """Return the rows of a run as text."""
    lines = [list(_HEADINGS), *map(cells, found["rows"], found["goals"])]
    widths = [max(len(line[column]) for line in lines) for column in range(len(_HEADINGS))]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
        for line in lines
    )


def markdown(found: dict[str, Any]) -> str:
    """Return the rows of a run for a page."""
    machine, plan = found["machine"], found["plan"]
    rows = zip(found["rows"], found["goals"], strict=True)
    lines = [
        "",
        f"{found['when'][:10]}, commit {machine['commit'] or 'unknown'}: {machine['cpu']}, "
        f"{machine['cores']} cores, {machine['python']}; {plan['pairs']} pairs of "
        f"{plan['seconds']:g} s, {plan['clients']} honest clients; load "
        f"{machine['load_average']:.1f} at the start.",
        "",
        f"| {' | '.join(_HEADINGS)} |",
        f"|---|{'---:|' * (len(_HEADINGS) - 2)}---|",
        *(f"| {' | '.join(cells(*each))} |" for each in rows),
        "",
    ]
    return "\n".join([*lines, ""])


# --- the command ---------------------------------------------------------------------------


def main(argv: Sequence[str] | None = None) -> int:
    """Run the attacks; 1 when one did not come to a figure, whatever the figures are."""
    options = parse(argv)
    if options.list:
        for attack in ATTACKS:
            print(f"{attack.name:20} {attack.counts}")
        return 0
    if options.show:
        found = json.loads(Path(options.show).read_text(encoding="utf-8"))
        path = None
    else:
        found = _run(options)
        path = place(options, found["when"][:10])
    print(table(found))
    print("\nIn brackets: the same while the same attackers send as much to a sink.\n")
    for name, counts in {row["point"]["sweep"]: row["counts"] for row in found["rows"]}.items():
        print(f"{name}: {counts}")
    if path is not None:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    where = f"; written to {os.path.relpath(path)}" if path else ""
    print(f"\n{found['seconds']:.0f} s{where}")
    if options.docs:
        replace(PAGE, BEGIN, FINISH, markdown(found))
    medians = (row["results"][0]["median"] for row in found["rows"])
    return 1 if None in medians else 0


def _run(options: argparse.Namespace) -> dict[str, Any]:
    """Run what was asked for; return everything that was found."""
    plan = planned(options)
    before, began = facts(), time.monotonic()
    rows: list[tuple[Attack, int, list[Result]]] = []
    for each in ATTACKS:
        if options.rows and each.name not in options.rows:
            continue
        for attackers in plan.attackers or each.attackers:
            line = f"{time.monotonic() - began:5.0f} s  {row_name(each, attackers)}"
            print(line, file=sys.stderr, flush=True)
            rows.append((each, attackers, _one(each, attackers, plan)))
    return report(rows, plan, before, time.monotonic() - began)


def _one(attack: Attack, attackers: int, plan: Plan) -> list[Result]:
    name = row_name(attack, attackers)
    try:
        return results(name, *measure(attack, attackers, plan))
    except ProcessFailed as failure:
        return [result_of(name, "ws_hub", "ms", (), note=str(failure))]


def planned(options: argparse.Namespace) -> Plan:
    """Return how much was asked for."""
    seconds = options.seconds or (1.5 if options.quick else Plan.seconds)
    pairs = options.pairs or (1 if options.quick else Plan.pairs)
    attackers = tuple(options.attackers) if options.attackers else None
    return Plan(pairs=pairs, seconds=seconds, attackers=attackers, seed=options.seed)


def place(options: argparse.Namespace, date: str) -> Path | None:
    """Return where to write: a whole run has a place among the results."""
    if options.json:
        return Path(options.json)
    if options.rows or options.quick or options.attackers:
        return None
    return RESULTS / f"attack-{date}.json"


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """Return the options of the command."""
    parser = argparse.ArgumentParser(
        prog="python -m bench.attack",
        description="Measure what others of a hub notice of attackers, beside a control.",
    )
    parser.add_argument("--rows", nargs="+", metavar="NAME", help="only these attacks")
    parser.add_argument("--list", action="store_true", help="say what the attacks are")
    parser.add_argument("--quick", action="store_true", help="one short pair each")
    parser.add_argument("--pairs", type=int, help=f"of runs ({Plan.pairs})")
    parser.add_argument("--seconds", type=float, help=f"that a run measures ({Plan.seconds:g})")
    parser.add_argument("--attackers", nargs="+", type=int, help="how many (1 5 20)")
    parser.add_argument("--seed", type=int, default=Plan.seed, help="of what they make up")
    parser.add_argument(
        "--json",
        metavar="PATH",
        help="where to write (bench/results/attack-DATE.json; nowhere when not all was asked for)",
    )
    parser.add_argument(
        "--docs", action="store_true", help="afterwards put the table into docs/measurements.md"
    )
    parser.add_argument("--show", metavar="PATH", help="show the file of an earlier run instead")
    options = parser.parse_args(argv)
    unknown = set(options.rows or ()) - {each.name for each in ATTACKS}
    if unknown:
        parser.error(f"no such attack: {', '.join(sorted(unknown))}; see --list")
    return options


if __name__ == "__main__":
    raise SystemExit(main())
