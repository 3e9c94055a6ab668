"""Draws what `bench/results` holds into `docs/images`: `python -m bench.plot`.

A plot a sweep, with the line that was fitted, and one chart for README. Bars begin at
zero; a plot over orders of magnitude is beside one that is not. Drawn twice from the same
figures, a file is the same byte for byte.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .archive import RESULTS, group, newest
from .line import Line, sentence
from .result import short
from .rows import ROWS

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["CHART", "PANELS", "draw", "plotted"]

_IMAGES = Path(__file__).resolve().parent.parent / "docs" / "images"
CHART = "bench.svg"
PANELS = (
    ("one-to-100", "One message to 100 clients", "ms until the last has read it\n(less is better)"),
    (
        "one-to-100-busy",
        "Beside a computing thread",
        "ms until the last has read it\n(less is better)",
    ),
    (
        "burst-to-100",
        "100 messages back to back to 100",
        "messages/s that they read\n(more is better)",
    ),
)
_LEFT_OUT = ("floor joined",)  # has a figure in one panel only
_OURS, _FLOOR, _PEER = "#1a73c7", "#9aa3ad", "#d9a066"
_STYLE = {
    "svg.fonttype": "none",  # text stays text: a tenth of the bytes
    "svg.hashsalt": "bench",
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans", "Verdana", "Arial", "sans-serif"],
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
}


def plotted(sweep: str) -> str:
    """Return the name of a sweep's picture."""
    return f"bench-{sweep}.svg"


def draw(folder: Path = RESULTS, images: Path = _IMAGES) -> list[Path]:
    """Draw all pictures for which there are figures; return where they are.

    Raises ImportError without Matplotlib, which the extra `bench` brings.
    """
    # Here, because whoever only measures needs none of it.
    import matplotlib
    from matplotlib.figure import Figure

    drawn = []
    rows: list[dict[str, Any]] = []
    with matplotlib.rc_context(_STYLE):
        for run in newest({row.group for row in ROWS}, folder):
            rows += run["rows"]
            for sweep in dict.fromkeys(line["sweep"] for line in run["lines"]):
                figure = Figure(figsize=(8, 3.2), layout="constrained")
                _sweep(figure, run, sweep)
                drawn.append(_save(figure, images / plotted(sweep)))
        named = {row["name"]: row for row in rows}
        if all(name in named for name, _, _ in PANELS):
            figure = Figure(figsize=(9, 3.7), layout="constrained")
            _chart(figure, named)
            drawn.append(_save(figure, images / CHART))
    return drawn


def _save(figure: Figure, path: Path) -> Path:
    figure.savefig(path, format="svg", metadata={"Date": None, "Creator": None})
    return path


def _sweep(figure: Figure, run: dict[str, Any], sweep: str) -> None:
    """Draw the points with their spread and their lines, on even and on log scales."""
    rows = [row for row in run["rows"] if group(row) == sweep]
    point, unit = rows[0]["point"], rows[0]["unit"]
    even, log = figure.subplots(1, 2)
    for line in run["lines"]:
        if line["sweep"] != sweep:
            continue
        color = _color(line["server"])
        found = [
            (row["point"]["x"], result)
            for row in rows
            for result in row["results"]
            if result["server"] == line["server"] and result["median"] is not None
        ]
        xs, heights = [x for x, _ in found], [each["median"] for _, each in found]
        spread = [
            [each["median"] - each["low"] for _, each in found],
            [each["high"] - each["median"] for _, each in found],
        ]
        straight = Line(line["slope"], line["base"], line["r2"], line["off"])
        many = _between(min(xs), max(xs))
        label = f"{line['server']}: {sentence(line, rows).partition(';')[0]}"
        for axes in (even, log):
            axes.errorbar(xs, heights, spread, fmt="o", ms=4, lw=1, color=color, label=label)
            axes.plot(many, [straight.at(x) for x in many], lw=1, color=color)
    even.set(xlim=(0, None), ylim=(0, None))
    even.locator_params(nbins=6)
    log.set(xscale="log", yscale="log")
    for axes in (even, log):
        axes.set(xlabel=f"{point['of']}s", ylabel=unit)
        axes.grid(alpha=0.25)
        for axis in (axes.xaxis, axes.yaxis):
            axis.set_major_formatter(_plain)
            axis.set_minor_formatter("")
    figure.legend(*even.get_legend_handles_labels(), loc="outside upper left", frameon=False)


def _chart(figure: Figure, rows: dict[str, dict[str, Any]]) -> None:
    """Draw a panel of bars for each row, the servers in one order."""
    panels = figure.subplots(1, len(PANELS), sharey=True)
    for axes, (name, title, unit) in zip(panels, PANELS, strict=True):
        results = [each for each in rows[name]["results"] if each["server"] not in _LEFT_OUT]
        _bars(axes, results)
        axes.set(xlabel=unit)
        axes.set_title(title, fontsize=9, fontweight="bold", loc="left")
    panels[0].invert_yaxis()


def _bars(axes: Axes, results: Sequence[dict[str, Any]]) -> None:
    for result in results:
        server, height = result["server"], result["median"]
        text = "no figure" if height is None else short(height)
        spread = None
        if height is not None:
            spread = [[height - result["low"]], [result["high"] - height]]
        axes.barh(server, height or 0, xerr=spread, color=_color(server), ecolor="#555555")
        axes.annotate(
            text,
            (result["high"] or 0, server),
            xytext=(4, 0),
            textcoords="offset points",
            va="center",
            fontweight="bold" if server == "ws_hub" else "normal",
        )
    axes.margins(x=0.35)
    axes.set_xlim(left=0)
    axes.locator_params(axis="x", nbins=4)
    axes.xaxis.set_major_formatter(_plain)
    axes.spines["left"].set_visible(False)
    axes.tick_params(left=False)


def _plain(value: float, _: object) -> str:
    """Write a tick without powers of ten."""
    return f"{value:,.10g}"


def _color(server: str) -> str:
    if server.startswith("ws_hub"):
        return _OURS
    return _FLOOR if server.startswith("floor") else _PEER


def _between(low: float, high: float) -> list[float]:
    """Return places along both scales."""
    return [low * (high / low) ** (step / 100) for step in range(101)]


if __name__ == "__main__":
    for path in draw():
        print(path)
