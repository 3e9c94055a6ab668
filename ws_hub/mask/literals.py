r"""Finds many texts in one, at a cost that does not depend on how many there are.

Each text that is searched for is at least as long as its group says. So it is enough to look at
every n-th place: a few characters from there (a gram) are part of the text, if it is there. All
grams are in one dictionary; what looks at them is C, but for the places that have one.
"""

from __future__ import annotations

from collections.abc import Iterable
from itertools import islice

__all__ = ["Literals", "Span"]

Span = tuple[int, int]  # where something begins, and where it has ended

_HEAD = 4  # characters by which texts that may have begun are looked up
_SIZES = ((32, 6), (16, 6), (8, 4), (4, 4), (1, 1))  # least length of a group, and of its grams
_WINDOW = 16_384  # places that are looked at in one go, and remembered
_MOST_STEP = 16  # places; more grams would be more memory, and hardly less time


class _Group:
    """Texts of about one length."""

    def __init__(self, texts: list[str], gram: int) -> None:
        least = min(map(len, texts))
        self._gram = gram
        self._step = min(least - gram + 1, _MOST_STEP)
        self._places: list[slice] = []
        self._grams: dict[str, list[tuple[str, int]]] = {}
        for text in texts:
            for offset in range(self._step):
                part = text[offset : offset + gram]
                self._grams.setdefault(part, []).append((text, offset))

    def find(self, text: str) -> list[Span]:
        """Return each place where one of the texts is."""
        window = _WINDOW * self._step
        if len(text) <= window:
            return self._find(text, text, 0)
        found: list[Span] = []
        for base in range(0, len(text), window):
            found += self._find(text[base : base + window + self._gram - 1], text, base)
        return found

    def _find(self, part: str, text: str, base: int) -> list[Span]:
        """Look at the places of a part of a text, which begins at `base`."""
        count = min(len(part) // self._step + 1, _WINDOW)
        places = self._places
        if len(places) < count:
            step, gram, most = self._step, self._gram, min(count + count // 4, _WINDOW)
            places = [slice(at * step, at * step + gram) for at in range(most)]
            self._places = places  # a single step: other threads may search as well
        grams = self._grams
        if grams.keys().isdisjoint(map(part.__getitem__, islice(places, count))):
            return []
        found = []
        for place in islice(places, count):
            for searched, offset in grams.get(part[place], ()):
                start = base + place.start - offset
                if start >= 0 and text.startswith(searched, start):
                    found.append((start, start + len(searched)))
        return found


class Literals:
    """Texts to be found in others.

    Args:
        texts: one or more, none empty and none with a newline.
    """

    def __init__(self, texts: Iterable[str]) -> None:
        ordered = sorted(texts)
        self._groups: list[_Group] = []
        rest = ordered
        for least, gram in _SIZES:
            own = [text for text in rest if len(text) >= least]
            rest = [text for text in rest if len(text) < least]
            if own:
                self._groups.append(_Group(own, gram))
        self._longest = max(map(len, ordered))
        self._heads: dict[str, list[str]] = {}
        self._short: set[str] = set()
        for text in ordered:
            if len(text) > _HEAD:
                self._heads.setdefault(text[:_HEAD], []).append(text)
            self._short.update(text[:end] for end in range(1, min(_HEAD, len(text))))

    def find(self, text: str) -> list[Span]:
        """Return each place where one of the texts is; they may overlap."""
        return [span for group in self._groups for span in group.find(text)]

    def begun(self, text: str) -> int:
        """Return where the end of a text begins that one of the texts may begin with."""
        end = len(text)
        start = max(text.rfind("\n"), text.rfind("\r"), end - self._longest) + 1
        heads = self._heads
        for at in range(start, end - _HEAD + 1):
            if text[at : at + _HEAD] in heads:
                rest = text[at:]
                if any(
                    len(each) > len(rest) and each.startswith(rest) for each in heads[rest[:_HEAD]]
                ):
                    return at
        for at in range(max(start, end - _HEAD + 1), end):
            if text[at:] in self._short:
                return at
        return end
