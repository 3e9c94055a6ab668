"""Puts the figures of a run into `docs/performance.md`: `python -m bench.document [JSON]`.

Must not know how anything is measured. Only what stands between two marks is replaced, so
that the words around the figures are written by people and the figures by nobody.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from .result import short

__all__ = ["document", "markdown"]

_ROOT = Path(__file__).resolve().parent.parent
_PAGE = _ROOT / "docs" / "performance.md"
_BEGIN, _END = "<!-- results: made by bench.document -->\n", "<!-- end of results -->\n"


def document(found: dict[str, Any], page: Path = _PAGE) -> None:
    """Replace the figures of a page by those of a run; raises ValueError without marks."""
    before, begin, rest = page.read_text(encoding="utf-8").partition(_BEGIN)
    _, end, after = rest.partition(_END)
    if not (begin and end):
        raise ValueError(f"{page} has no place for results")
    page.write_text(before + begin + markdown(found) + end + after, encoding="utf-8")


def markdown(found: dict[str, Any]) -> str:
    """Return the machine, and a table for each row."""
    machine = found["machine"]
    versions = ", ".join(f"{name} {version}" for name, version in machine["versions"].items())
    lines = [
        "",
        f"{found['when'][:10]}, commit {machine['commit'] or 'unknown'}: {machine['cpu']}, "
        f"{machine['cores']} cores, {machine['kernel']}, {machine['python']}; {versions}.",
    ]
    if machine["load_average"] > machine["cores"] / 4:
        lines += [
            "",
            f"**The machine was busy with other work** (load {machine['load_average']:.1f} at the "
            "start): read the ratios, not the figures.",
        ]
    for row in found["rows"]:
        lines += ["", f"**{row['name']}** ({row['unit']}): {row['counts']}.", ""]
        lines += ["| server | median | low .. high | beside | also |", "|---|---:|---:|---|---|"]
        lines += [_line(result) for result in row["results"]]
    return "\n".join([*lines, "", ""])


def _line(result: dict[str, Any]) -> str:
    spread = ""
    if result["repeats"] > 1:
        spread = f"{short(result['low'])} .. {short(result['high'])}"
    ratios = ", ".join(f"{short(value)} x {name}" for name, value in result["ratios"].items())
    extra = [f"{name} {short(value)}" for name, value in result["extra"].items()]
    also = ", ".join([*extra, result["note"]] if result["note"] else extra)
    return f"| {result['server']} | {short(result['median'])} | {spread} | {ratios} | {also} |"


if __name__ == "__main__":
    paths = sys.argv[1:] or [str(max((Path(__file__).parent / "results").glob("[0-9]*.json")))]
    document(json.loads(Path(paths[0]).read_text(encoding="utf-8")))
