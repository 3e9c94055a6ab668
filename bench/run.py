"""The command: choose rows, measure, print one table, write one JSON file.

Must not know how a row is measured.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from .document import document
from .engine import measure
from .machine import facts
from .result import Result, table
from .rows import ROWS, Plan, Row
from .servers import CONTENDERS

__all__ = ["main", "report"]

SCHEMA = 1
_RESULTS = Path(__file__).resolve().parent / "results"
_QUICK = Plan(repeats=2, work=0.2)
_NAMED = 3  # servers of which the progress says how long they took


def main(argv: Sequence[str] | None = None) -> int:
    """Run the benchmark; 1 when ws_hub did not come to a figure in some row."""
    options = _parse(argv)
    if options.list:
        for row in ROWS:
            print(f"{row.name:24} {row.unit:12} {row.counts}{' (--full)' if row.full else ''}")
        return 0
    rows = _chosen(options)
    plan = _QUICK if options.quick else Plan(repeats=options.repeats)
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
    print()
    for row in rows:
        print(f"{row.name}: {row.counts}")
    if options.docs:
        document(found)
    path = Path(options.json) if options.json else _RESULTS / f"{found['when'][:10]}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    print(f"\n{found['seconds']:.0f} s; written to {os.path.relpath(path)}")
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
    return {
        "schema": SCHEMA,
        "when": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        "seconds": round(seconds, 1),
        "plan": {"repeats": plan.repeats, "work": plan.work, "crowd": plan.crowd},
        "machine": machine,
        "servers": {name: contender.title for name, contender in CONTENDERS.items()},
        "rows": [
            {
                "name": row.name,
                "counts": row.counts,
                "unit": row.unit,
                "results": [each.to_json() for each in results if each.row == row.name],
            }
            for row in rows
        ],
    }


def _parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m bench",
        description="Measure ws_hub beside its peers; print a table, write JSON.",
    )
    parser.add_argument("--rows", nargs="+", metavar="NAME", help="only these rows")
    parser.add_argument("--full", action="store_true", help="the rows that take minutes as well")
    parser.add_argument("--list", action="store_true", help="say what the rows are")
    parser.add_argument("--quick", action="store_true", help="a fifth of the work, two repeats")
    parser.add_argument("--repeats", type=int, default=5, help="samples of each figure (5)")
    parser.add_argument("--json", metavar="PATH", help="where to write (bench/results/DATE.json)")
    parser.add_argument(
        "--docs", action="store_true", help="put the table into docs/performance.md as well"
    )
    options = parser.parse_args(argv)
    unknown = set(options.rows or ()) - {row.name for row in ROWS}
    if unknown:
        parser.error(f"no such row: {', '.join(sorted(unknown))}; see --list")
    return options


def _chosen(options: argparse.Namespace) -> list[Row]:
    if options.rows:
        return [row for row in ROWS if row.name in options.rows]
    return [row for row in ROWS if options.full or not row.full]
