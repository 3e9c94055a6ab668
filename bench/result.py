"""One figure: its samples summarised, its ratios, its line in a table, its JSON.

A ratio is always of two medians of the same row in the same run: on another machine, or
beside other work, only the ratio means anything.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

__all__ = ["Result", "relate", "result_of", "short", "table"]


@dataclass
class Result:
    """What one server did in one row.

    Args:
        row: the row's name.
        server: who was measured; "" where there is only ws_hub.
        unit: of the figures.
        better: "lower" or "higher".
        median: of the repeats; None when it did not come to a figure, and `note` says why.
        low: the smallest repeat.
        high: the largest repeat.
        repeats: how many repeats there were.
        note: what else there is to say.
        ratios: how this median compares, by what it is compared with; above 1 is more.
        extra: further figures of the row.
    """

    row: str
    server: str
    unit: str
    better: str
    median: float | None
    low: float | None = None
    high: float | None = None
    repeats: int = 0
    note: str = ""
    ratios: dict[str, float] = field(default_factory=dict)
    extra: dict[str, float] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """Return a plain dict."""
        return asdict(self)


def result_of(
    row: str,
    server: str,
    unit: str,
    samples: Sequence[float],
    *,
    higher: bool = False,
    note: str = "",
) -> Result:
    """Return the result of one figure a repeat."""
    if not samples:
        return Result(row, server, unit, "higher" if higher else "lower", None, note=note)
    return Result(
        row,
        server,
        unit,
        "higher" if higher else "lower",
        statistics.median(samples),
        min(samples),
        max(samples),
        len(samples),
        note,
    )


def relate(results: Iterable[Result], *, floors: Sequence[str], peers: Sequence[str]) -> None:
    """Fill in each row's ratios to its floors and to its best peer."""
    rows: dict[str, list[Result]] = {}
    for each in results:
        rows.setdefault(each.row, []).append(each)
    for members in rows.values():
        found = {each.server: each for each in members if each.median}
        against = [name for name in floors if name in found]
        rivals = [found[name] for name in peers if name in found]
        for each in members:
            if not each.median:
                continue
            for name in against:
                if name != each.server:
                    each.ratios[name] = each.median / _median(found[name])
            others = [rival for rival in rivals if rival is not each]
            if others and each.server not in floors:
                pick = max if each.better == "higher" else min
                each.ratios["best peer"] = each.median / _median(pick(others, key=_median))


def _median(result: Result) -> float:
    assert result.median is not None
    return result.median


_HEADINGS = ("row", "server", "median", "low .. high", "unit", "ratios", "note")


def table(results: Sequence[Result]) -> str:
    """Return all results as one table of text."""
    lines = [_HEADINGS, *map(_cells, results)]
    for index in range(len(lines) - 1, 1, -1):
        if lines[index][0] == lines[index - 1][0]:
            lines[index] = ("", *lines[index][1:])
    widths = [max(len(line[column]) for line in lines) for column in range(len(_HEADINGS))]
    text = []
    for index, line in enumerate(lines):
        if index and line[0]:
            text.append("")
        padded = [
            cell.rjust(width) if column in (2, 3) else cell.ljust(width)
            for column, (cell, width) in enumerate(zip(line, widths, strict=True))
        ]
        text.append("  ".join(padded).rstrip())
    return "\n".join(text)


def _cells(result: Result) -> tuple[str, ...]:
    low_high = "" if result.low is None else f"{short(result.low)} .. {short(result.high)}"
    ratios = ", ".join(f"{value:.2f} x {name}" for name, value in result.ratios.items())
    extra = ", ".join(f"{name} {short(value)}" for name, value in result.extra.items())
    note = "; ".join(part for part in (extra, result.note) if part)
    return (
        result.row,
        result.server,
        short(result.median),
        low_high,
        result.unit,
        ratios,
        note,
    )


def short(value: float | None) -> str:
    """Write a figure with three digits that mean something."""
    if value is None:
        return "-"
    if abs(value) >= 1000:
        return f"{value:,.0f}"
    return f"{value:.3g}" if abs(value) < 100 else f"{value:.0f}"
