"""What `bench/results` holds, read as one: of each row, the newest run that has it.

A run keeps its rows together with the machine that it ran on, because only figures of one
run compare; the points of a sweep are never taken from two.
"""

from __future__ import annotations

import json
from collections.abc import Container, Iterable
from pathlib import Path
from typing import Any

__all__ = ["RESULTS", "group", "newest"]

RESULTS = Path(__file__).resolve().parent / "results"


def newest(names: Container[str], folder: Path = RESULTS) -> list[dict[str, Any]]:
    """Return the runs with a row that no newer run has, newest first, with those rows.

    Args:
        names: of rows and sweeps that there still are; others are left out.
        folder: with a file of JSON a run.
    """
    runs = [json.loads(path.read_text(encoding="utf-8")) for path in folder.glob("[0-9]*.json")]
    runs.sort(key=lambda run: run["when"], reverse=True)
    return list(_without_older(runs, names))


def _without_older(
    runs: Iterable[dict[str, Any]], names: Container[str]
) -> Iterable[dict[str, Any]]:
    seen: set[str] = set()
    for run in runs:
        rows = [row for row in run["rows"] if group(row) in names and group(row) not in seen]
        seen.update(map(group, rows))
        kept = set(map(group, rows))
        straight = [line for line in run.get("lines", ()) if line["sweep"] in kept]
        if rows:
            yield {**run, "rows": rows, "lines": straight}


def group(row: dict[str, Any]) -> str:
    """Return the name that asks for a row: its sweep's, or its own."""
    name: str = row["point"]["sweep"] if "point" in row else row["name"]
    return name
