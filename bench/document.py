"""Puts what `bench/results` holds into the documents: `python -m bench.document`.

`docs/measurements.md` gets all tables, `docs/performance.md` one with the best of each kind.
Only what stands between two marks is replaced: the words around it are written by people.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from .archive import RESULTS, group, newest
from .line import sentence
from .plot import plotted
from .result import short
from .rows import ROWS
from .servers import FLOORS, PYTHON_PEERS

__all__ = ["PAGE", "SUMMARY", "document", "markdown", "replace", "summary"]

_DOCS = Path(__file__).resolve().parent.parent / "docs"
PAGE = _DOCS / "measurements.md"
SUMMARY = _DOCS / "performance.md"
_BEGIN, _END = "<!-- results: made by bench.document -->\n", "<!-- end of results -->\n"
_TOP, _BOTTOM = "<!-- summary: made by bench.document -->\n", "<!-- end of summary -->\n"
# What the summary compares, in a reader's words.
_COMPARED = {
    "one-to-100": "one message to 100 clients",
    "one-to-100-busy": "the same, while a thread of the process computes",
    "one-to-1000": "one message to 1,000 clients",
    "burst-to-100": "a burst of messages to 100 clients",
    "burst-to-1000": "a burst of messages to 1,000 clients",
    "slow-clients": "one message to 100 clients, beside some that never read",
    "echo": "a round trip, one client",
    "echo-100": "a round trip each, 100 clients at once",
    "connects": "connecting",
}


def document(page: Path = PAGE, summarised: Path = SUMMARY, folder: Path = RESULTS) -> None:
    """Replace the figures of the pages by the newest; raises ValueError without marks."""
    runs = newest({row.group for row in ROWS}, folder)
    replace(page, _BEGIN, _END, "".join(map(markdown, runs)))
    replace(summarised, _TOP, _BOTTOM, summary(runs))


def summary(runs: Sequence[dict[str, Any]]) -> str:
    """Return a table of ws_hub beside the best server of each kind, in times its figure."""
    rows = {row["name"]: row["results"] for run in runs for row in run["rows"]}
    lines = [
        "| | ws_hub | floor | floor in C | the best Python peer | the best other server |",
        "|---|---:|---:|---:|---:|---:|",
    ]
    for name, words in _COMPARED.items():
        found = {each["server"]: each for each in rows.get(name, ())}
        ours = found.get("ws_hub")
        if ours is None or ours["median"] is None:
            continue
        rest = [each for each in found if not each.startswith("ws_hub") and each not in FLOORS]
        kinds = (
            ["floor"],
            ["floor in C"],
            [each for each in rest if each in PYTHON_PEERS],
            [each for each in rest if each not in PYTHON_PEERS],
        )
        cells = [_best([found[each] for each in kind if each in found], ours) for kind in kinds]
        value = f"{short(ours['median'])} {ours['unit']}"
        lines.append(f"| {words} | {value} | {' | '.join(cells)} |")
    return "\n".join(["", *lines, "", ""])


def _best(results: Sequence[dict[str, Any]], ours: dict[str, Any]) -> str:
    """Return the best of some servers, as so many times the figure of ws_hub."""
    measured = [each for each in results if each["median"] is not None]
    if not measured:
        return ""
    pick = max if ours["better"] == "higher" else min
    best = pick(measured, key=lambda each: float(each["median"]))
    name = "" if best["server"] in FLOORS else f", {best['server']}"
    return f"{short(best['median'] / ours['median'])} x{name}"


def replace(page: Path, begin: str, end: str, text: str) -> None:
    """Replace what a page has between two marks; raises ValueError without them."""
    before, found, rest = page.read_text(encoding="utf-8").partition(begin)
    _, also, after = rest.partition(end)
    if not (found and also):
        raise ValueError(f"{page} has no place for results")
    page.write_text(before + begin + text + end + after, encoding="utf-8")


def markdown(run: dict[str, Any]) -> str:
    """Return the machine, and a table for each row or sweep of a run."""
    machine = run["machine"]
    versions = ", ".join(f"{name} {version}" for name, version in machine["versions"].items())
    lines = [
        "",
        f"{run['when'][:10]}, commit {machine['commit'] or 'unknown'}: {machine['cpu']}, "
        f"{machine['cores']} cores, {machine['kernel']}, {machine['python']}; {versions}.",
    ]
    if machine["load_average"] > machine["cores"] / 4:
        lines += [
            "",
            f"**The machine was busy with other work** (load {machine['load_average']:.1f} at the "
            "start): read the ratios, not the figures.",
        ]
    groups: dict[str, list[dict[str, Any]]] = {}
    for row in run["rows"]:
        groups.setdefault(group(row), []).append(row)
    for name, rows in groups.items():
        lines += ["", f"**{name}** ({rows[0]['unit']}): {rows[0]['counts']}.", ""]
        if "point" in rows[0]:
            lines += _points(rows)
            found = [line for line in run["lines"] if line["sweep"] == name]
            lines += ["", *(f"- {line['server']}: {sentence(line, rows)}." for line in found)]
            lines += ["", f"![{name}](images/{plotted(name)})"] if found else []
            continue
        lines += ["| server | median | low .. high | beside | also |", "|---|---:|---:|---|---|"]
        lines += [_line(result) for result in rows[0]["results"]]
    return "\n".join([*lines, "", ""])


def _points(rows: Sequence[dict[str, Any]]) -> list[str]:
    """Return a table with a line a point and a column a server."""
    servers = list(dict.fromkeys(each["server"] for row in rows for each in row["results"]))
    lines = [f"| {rows[0]['point']['of']} | {' | '.join(servers)} |"]
    lines.append("|---:|" + "---:|" * len(servers))
    for row in rows:
        found = {each["server"]: each for each in row["results"]}
        cells = [_cell(found[server]) for server in servers]
        lines.append(f"| {short(row['point']['x'])} | {' | '.join(cells)} |")
    return lines


def _cell(result: dict[str, Any]) -> str:
    if result["median"] is None:
        return str(result["note"])
    return f"{short(result['median'])} ({short(result['low'])} .. {short(result['high'])})"


def _line(result: dict[str, Any]) -> str:
    spread = ""
    if result["repeats"] > 1:
        spread = f"{short(result['low'])} .. {short(result['high'])}"
    ratios = ", ".join(f"{short(value)} x {name}" for name, value in result["ratios"].items())
    extra = [f"{name} {short(value)}" for name, value in result["extra"].items()]
    also = ", ".join([*extra, result["note"]] if result["note"] else extra)
    return f"| {result['server']} | {short(result['median'])} | {spread} | {ratios} | {also} |"


if __name__ == "__main__":
    document()
