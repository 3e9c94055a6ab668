"""Plays a recording, asciicast v2 or v3, to read the lines that a terminal had of it."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

from ..errors import HistoryError, excerpt
from ..lines import Lines, Numbers, Texts
from ..protocol.message import microseconds
from .log_file import PIPES
from .log_index import read_blocks
from .log_texts import TextLines
from .log_times import Origin, moment_of

__all__ = ["cast_lines"]

_MOST_SECONDS = 1e12  # of a time; what is beyond is none
_SIZE = re.compile(r"([0-9]{1,9})x([0-9]{1,9})")


def cast_lines(path: str) -> TextLines[float]:
    """Return the lines of a recording, plain or compressed, up to where it was written.

    They are in memory. Raises OSError, and HistoryError for a file that is no recording.
    """
    events = _events(path)
    header = next(events, None)
    columns, rows, start, is_relative, has_terminal = _header(header, path)
    lines = Lines(columns=columns if has_terminal else None, height=rows, numbers=Numbers())
    found = TextLines("file", _origin)
    now = start

    def take(texts: Texts) -> None:
        for text, number in zip(texts, texts.numbers, strict=True):
            found.take(text, number, now if start else 0.0)

    for event in events:
        moment, kind, data = _event(event)
        now = now + moment if is_relative else start + moment
        if kind == "o":
            take(lines.feed(data.encode("utf-8", "surrogatepass"), now))
        elif kind == "r" and (size := _size(data)) is not None:
            take(lines.resize(*size))
    take(lines.finish())
    return found


def _origin(moment: float) -> Origin:
    return Origin("", moment_of(microseconds(moment)))


def _events(path: str) -> Iterator[Any]:
    """Yield the values of a file, one a line; the last may be cut."""
    begun: list[bytes] = []  # parts of a line, which may be long
    for data in read_blocks(path):
        part, *parts = data.split(b"\n")
        begun.append(part)
        for part in parts:
            line, begun = b"".join(begun), [part]
            if line and not line.startswith(b"#"):  # a comment
                try:
                    yield json.loads(line)
                except (ValueError, RecursionError):  # it was damaged, or is no recording
                    yield None


def _header(header: Any, path: str) -> tuple[int, int, float, bool, bool]:
    """Return columns, rows, the start in POSIX seconds, whether times are relative, and so on."""
    try:
        version = header["version"]
        size = header if version == 2 else header["term"]
        columns, rows = (size["width"], size["height"]) if version == 2 else (
            size["cols"], size["rows"]
        )  # fmt: skip
        start = _seconds(float(header.get("timestamp") or 0))
        has_terminal = PIPES not in (header.get("tags") or [])
        if version not in (2, 3) or not 0 < int(columns) < 1 << 16 or not 0 < int(rows) < 1 << 16:
            raise ValueError(version)
    except (TypeError, KeyError, ValueError, AttributeError, OverflowError) as error:
        raise HistoryError(
            f"{excerpt(path)} is no recording in asciicast v2 or v3: give the path of one, or of "
            "a text that is not named .cast"
        ) from error
    return int(columns), int(rows), start, version == 3, has_terminal


def _event(event: Any) -> tuple[float, str, str]:
    match event:
        case [int() | float() as moment, str() as kind, str() as data]:
            return _seconds(moment), kind, data
    return 0.0, "", ""  # none that is known


def _seconds(given: float) -> float:
    """Return a time; 0 for what is none, such as infinity."""
    return float(given) if abs(given) < _MOST_SECONDS else 0.0


def _size(text: str) -> tuple[int, int] | None:
    found = _SIZE.fullmatch(text)
    if found is None:
        return None
    columns, rows = int(found[1]), int(found[2])
    return (min(columns, 1 << 15), min(rows, 1 << 15)) if columns and rows else None
