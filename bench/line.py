"""How straight a sweep is: the line through its points, and how far they are from it.

The points of a sweep span orders of magnitude, and each counts the same: the line is the
one with the smallest squares of the distances as shares of the points' own height. A fit
of plain squares would be a line through the largest point, and would call whatever the
others do straight.
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from .result import short

__all__ = ["Line", "fit", "lines", "sentence"]

_FEWEST = 3  # points; there is a line through any two


@dataclass(frozen=True)
class Line:
    """height = base + slope * x.

    Args:
        slope: what one more costs.
        base: what none would cost.
        r2: the share of the points' variance that the line explains.
        off: the largest distance of a point from the line, as a share of its height.
    """

    slope: float
    base: float
    r2: float
    off: float

    def at(self, x: float) -> float:
        """Return the line's height."""
        return self.base + self.slope * x


def fit(points: Sequence[tuple[float, float]]) -> Line | None:
    """Return the line through points above zero; None when there are too few of them."""
    if len(points) < _FEWEST:
        return None
    weighted = [(1 / y**2, x, y) for x, y in points]
    total = sum(w for w, _, _ in weighted)
    mean_x = sum(w * x for w, x, _ in weighted) / total
    mean_y = sum(w * y for w, _, y in weighted) / total
    spread = sum(w * (x - mean_x) ** 2 for w, x, _ in weighted)
    slope = sum(w * (x - mean_x) * (y - mean_y) for w, x, y in weighted) / spread
    base = mean_y - slope * mean_x
    misses = [y - base - slope * x for x, y in points]
    middle = statistics.fmean(y for _, y in points)
    r2 = 1 - sum(miss**2 for miss in misses) / sum((y - middle) ** 2 for _, y in points)
    off = max(abs(miss) / y for miss, (_, y) in zip(misses, points, strict=True))
    return Line(slope, base, r2, off)


def lines(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return a line for each server of each sweep among rows as JSON has them."""
    points: dict[tuple[str, str], list[tuple[float, float]]] = {}
    for row in rows:
        for result in row["results"] if "point" in row else ():
            if result["median"] is not None:
                key = row["point"]["sweep"], result["server"]
                points.setdefault(key, []).append((row["point"]["x"], result["median"]))
    return [
        {"sweep": sweep, "server": server, **asdict(line)}
        for (sweep, server), found in points.items()
        if (line := fit(found)) is not None
    ]


def sentence(line: dict[str, Any], rows: Sequence[dict[str, Any]]) -> str:
    """Say what a line says, in the units of its rows."""
    row = next(row for row in rows if "point" in row and row["point"]["sweep"] == line["sweep"])
    return (
        f"{short(line['slope'])} {row['unit']} a {row['point']['of']}, and "
        f"{short(line['base'])} {row['unit']} whatever their number; R² {line['r2']:.4f}, "
        f"no point further than {line['off']:.0%} from the line"
    )
