"""The command: choose rows, measure, print one table, write one JSON file."""

from __future__ import annotations

import argparse
import datetime
import json
import os
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from .archive import RESULTS
from .document import document
from .engine import measure
from .line import lines, sentence
from .machine import facts
from .plot import draw
from .result import Result, table
from .rows import ROWS, Plan, Row
from .servers import CONTENDERS

__all__ = ["main", "report"]

SCHEMA = 1
QUICK = Plan(repeats=2, work=0.2)
_NAMED = 3  # servers of which the progress says how long they took


def main(argv: Sequence[str] | None = None, *, quick: Plan = QUICK) -> int:
    """Run the benchmark; 1 when ws_hub did not come to a figure in some row.

    `quick` is the plan of `--quick`.
    """
    options = parse(argv)
    if options.list:
        for name, row in _groups(ROWS).items():
            print(f"{name:24} {row.unit:12} {row.counts}{' (--full)' if row.full else ''}")
        return 0
    rows = chosen(options)
    plan = quick if options.quick else Plan(repeats=options.repeats)
    before, began = facts(), time.monotonic()

    def progress(row: str, seconds: Mapping[str, float] | None) -> None:
        if seconds is None:
            text = f"{time.monotonic() - began:5.0f} s  {row:24}"
        else:
            longest = sorted(seconds, key=lambda name: -seconds[name])[:_NAMED]
            named = ", ".join(f"{name} {seconds[name]:.1f}" for name in longest)
            text = f"{sum(seconds.values()):6.1f} s: {named}\n"
        print(text, end="", file=sys.stderr, flush=True)

    results = measure(rows, plan, progress)
    found = report(rows, results, plan, before, time.monotonic() - began)
    print(table(results))
    for line in found["lines"]:
        print(f"\n{line['sweep']}, {line['server']}: {sentence(line, found['rows'])}")
    print()
    for name, row in _groups(rows).items():
        print(f"{name}: {row.counts}")
    path = place(options, found["when"][:10])
    if path is not None:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    where = f"; written to {os.path.relpath(path)}" if path else ""
    print(f"\n{found['seconds']:.0f} s{where}")
    if options.docs:
        document()
        draw()
    ours = [each for each in results if each.server.startswith("ws_hub")]
    return 1 if any(each.median is None for each in ours) else 0


def report(
    rows: Sequence[Row],
    results: Sequence[Result],
    plan: Plan,
    machine: dict[str, Any],
    seconds: float,
) -> dict[str, Any]:
    """Return everything that a run found, as JSON has it."""
    found = [
        {
            "name": row.name,
            "counts": row.counts,
            "unit": row.unit,
            **({"point": asdict(row.point)} if row.point else {}),
            "results": [each.to_json() for each in results if each.row == row.name],
        }
        for row in rows
    ]
    return {
        "schema": SCHEMA,
        "when": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "seconds": round(seconds, 1),
        "plan": {"repeats": plan.repeats, "work": plan.work, "crowd": plan.crowd},
        "machine": machine,
        "servers": {name: contender.title for name, contender in CONTENDERS.items()},
        "rows": found,
        "lines": lines(found),
    }


def _groups(rows: Sequence[Row]) -> dict[str, Row]:
    """Return the names that rows can be asked for by, each with its first row."""
    found: dict[str, Row] = {}
    for row in rows:
        found.setdefault(row.group, row)
    return found


def place(options: argparse.Namespace, date: str) -> Path | None:
    """Return where to write: the rows of a whole run have a place among the results."""
    if options.json:
        return Path(options.json)
    if options.rows or options.quick:
        return None
    return RESULTS / f"{date}{'-full' if options.full else ''}.json"


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m bench",
        description="Measure ws_hub beside its peers; print a table, write JSON.",
    )
    parser.add_argument("--rows", nargs="+", metavar="NAME", help="only these rows, sweeps")
    parser.add_argument("--full", action="store_true", help="the rows that take minutes as well")
    parser.add_argument("--list", action="store_true", help="say what the rows are")
    parser.add_argument("--quick", action="store_true", help="a fifth of the work, two repeats")
    parser.add_argument("--repeats", type=int, default=5, help="samples of each figure (5)")
    parser.add_argument(
        "--json",
        metavar="PATH",
        help="where to write (bench/results/DATE.json or DATE-full.json; nowhere when not all "
        "rows or not all work was asked for)",
    )
    parser.add_argument(
        "--docs",
        action="store_true",
        help="afterwards put what bench/results holds into the documents, and draw it",
    )
    options = parser.parse_args(argv)
    unknown = set(options.rows or ()) - set(_groups(ROWS))
    if unknown:
        parser.error(f"no such row: {', '.join(sorted(unknown))}; see --list")
    return options


def chosen(options: argparse.Namespace) -> list[Row]:
    if options.rows:
        return [row for row in ROWS if row.group in options.rows]
    return [row for row in ROWS if options.full or not row.full]
