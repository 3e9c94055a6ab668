"""The lines of texts of the wire, each in its last state, to read them by their numbers.

In memory; for what a channel keeps, and for a recording that is played.
"""

from __future__ import annotations

import itertools
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterator
from typing import Generic, TypeVar

from ..lines import GOES_ON, REPLACED
from .log_reader import Chunk, Late, LogLine, MissingLines, Span, never
from .log_times import Origin

__all__ = ["TextLines"]

_CHUNK = 1000  # lines at once

T = TypeVar("T")


class TextLines(Generic[T]):
    """The lines of texts that are taken, oldest first.

    Args:
        name: what the lines are read from, as of a `LogPage`.
        origin: returns where a text has come from, of what was given with it.

    Threads: one at a time.
    """

    def __init__(self, name: str, origin: Callable[[T], Origin]) -> None:
        self.name = name
        self._origin = origin
        self._texts: dict[int, list[str]] = {}
        self._whole: set[int] = set()
        self._newest: dict[int, T] = {}  # what was given with the newest text of each
        self._numbers: list[int] | None = None  # of the lines, in order, once they are known
        self.missing: MissingLines | None = None  # between two of them; no chunk has both of these

    def take(self, text: str, number: int, given: T) -> None:
        """Take a text of a line; a state that will be replaced is left out."""
        if text.endswith(REPLACED) or number <= 0:
            return
        self._numbers = None
        if number in self._whole:
            self._whole.discard(number)
            self._texts[number] = []
        goes_on = text.endswith(GOES_ON)
        self._texts.setdefault(number, []).append(text[:-1] if goes_on else text)
        self._newest[number] = given
        if not goes_on:
            self._whole.add(number)

    @property
    def first(self) -> int:
        """The number of the oldest line; 1 for none."""
        numbers = self._ordered()
        return numbers[0] if numbers else 1

    def span(self, late: Late = never) -> Span:
        """Return the numbers of the oldest line and the newest; 1 and 0 for none."""
        numbers = self._ordered()
        return Span(self.first, numbers[-1] if numbers else 0, complete=True)

    def chunks(self, first: int) -> Iterator[Chunk]:
        """Yield the lines from a number on."""
        ordered = self._ordered()
        numbers = ordered[bisect_left(ordered, first) :]
        cut = bisect_right(numbers, self.missing.after) if self.missing else 0
        starts = [*range(0, cut, _CHUNK), *range(cut, len(numbers), _CHUNK)]
        for start, end in itertools.pairwise([*starts, len(numbers)]):
            part = numbers[start:end]
            lines = ("".join(self._texts[number]).replace("\n", " ") for number in part)
            yield Chunk(part, "\n".join([*lines, ""]).encode("utf-8", "replace"))

    def dated(self, lines: tuple[LogLine, ...]) -> tuple[LogLine, ...]:
        """Return the same lines with their streams and times."""
        return tuple(
            LogLine(line.number, line.text, *self._origin(self._newest[line.number]))
            for line in lines
        )

    def absent(self, after: int, last: int) -> int:
        """Return how many lines behind one, up to another one, are not there."""
        there = sum(1 for number in self._ordered() if after < number <= last)
        return last - after - there

    def _ordered(self) -> list[int]:
        if self._numbers is None:
            self._numbers = sorted(self._texts)
        return self._numbers
