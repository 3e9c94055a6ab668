r"""Patterns of secrets: regular expressions whose length and cost are bounded.

A pattern is a sequence of characters and classes, each with a count or without::

    ghp_[A-Za-z0-9]{36}        sk-[\w-]{20,100}        AKIA[0-9A-Z]{16}

No groups, alternatives and counts without an end: `re` has no bound for the time that these
take, and what may still become a match could not be told. Here each character costs one step
of an automaton, from each place where a match may begin, of which there are few.
"""

from __future__ import annotations

import re

from ..errors import ConfigError, excerpt
from .literals import Span

__all__ = ["MAX_WIDTH", "Pattern"]

MAX_WIDTH = 1024  # characters that a pattern may match
_LEAST_WIDTH = 4
_MOST_SEARCHED = 16  # characters that `re` looks at, before the automaton does
_MAX_NODES = 4096  # of an automaton; it is made anew beyond

_ITEM = re.compile(
    r"(?P<one>\\[dDwWsS]|\\x[0-9a-fA-F]{2}|\\u[0-9a-fA-F]{4}|\\[^a-zA-Z0-9]"
    r"|\[\^?\]?(?:\\.|[^\]\\])*\]|[^\\\[\](){}*+?^$|])"
    r"(?P<count>\?|\{(?P<least>\d{1,4})(?:,(?P<most>\d{1,4}))?\})?",
    re.DOTALL,
)


class _Node:
    """What may come next, once some characters have been matched."""

    __slots__ = ("accepts", "next", "places")

    def __init__(self, places: frozenset[int], width: int) -> None:
        self.places = places
        self.accepts = width in places
        self.next: dict[str, _Node] = {}


class Pattern:
    """One pattern.

    Args:
        pattern: the regular expression; of its flags, IGNORECASE alone counts.

    Raises ConfigError for one that is not of the kind that is described above.
    """

    def __init__(self, pattern: re.Pattern[str]) -> None:
        self._ones: list[str] = []  # for each character of the longest match
        self._may_skip: list[bool] = []
        self._searched = min(self._parse(pattern.pattern), _MOST_SEARCHED)
        flags = pattern.flags & re.IGNORECASE
        self._tests = {one: re.compile(one, flags) for one in self._ones}
        self._begin()
        # Where a match may begin: its first characters, each of one set.
        places, sets = self._first.places, []
        for _ in range(self._searched):
            ones = sorted({self._ones[place] for place in places if place < len(self._ones)})
            sets.append(f"(?:{'|'.join(ones)})")
            places = self._after(places)
        self._search = re.compile("".join(sets), flags).search

    def _parse(self, source: str) -> int:
        """Take the pattern apart; return how many characters it matches at least."""
        at = least_width = 0
        while at < len(source):
            item = _ITEM.match(source, at)
            if item is None:
                raise ConfigError(
                    f"the pattern {excerpt(source)} must be a sequence of characters and classes, "
                    f"each with a count such as {{20}} or {{20,100}} or without, and is not at "
                    f"{at}: write several patterns for alternatives, and {{1,40}} for + and *"
                )
            at = item.end()
            least, most = 1, 1
            if item["count"] == "?":
                least = 0
            elif item["count"]:
                least = int(item["least"])
                most = int(item["most"] or least)
            self._ones += [item["one"]] * most
            self._may_skip += [False] * least + [True] * (most - least)
            least_width += least
        if least_width < _LEAST_WIDTH or len(self._ones) > MAX_WIDTH:
            raise ConfigError(
                f"the pattern {excerpt(source)} must match {_LEAST_WIDTH} characters or more, and "
                f"at most {MAX_WIDTH}: it matches {least_width} to {len(self._ones)}"
            )
        return least_width

    def _begin(self) -> None:
        self._nodes: dict[frozenset[int], _Node] = {}
        self._first = self._node(self._closed({0}))

    def _node(self, places: frozenset[int]) -> _Node:
        return self._nodes.setdefault(places, _Node(places, len(self._ones)))

    def _closed(self, places: set[int]) -> frozenset[int]:
        """Return the places, and those behind what may be left out."""
        found = set(places)
        for place in places:
            while place < len(self._ones) and self._may_skip[place]:
                place += 1
                if place in found:
                    break
                found.add(place)
        return frozenset(found)

    def _after(self, places: frozenset[int]) -> frozenset[int]:
        return self._closed({place + 1 for place in places if place < len(self._ones)})

    def _step(self, node: _Node, character: str) -> _Node:
        tests, ones = self._tests, self._ones
        fitting = {one for one in {ones[place] for place in node.places if place < len(ones)}
                   if character not in "\r\n\x1b" and tests[one].fullmatch(character)}  # fmt: skip
        following = {
            place + 1 for place in node.places if place < len(ones) and ones[place] in fitting
        }
        if len(self._nodes) > _MAX_NODES:
            self._begin()
        found = node.next[character] = self._node(self._closed(following))
        return found

    def _run(self, text: str, start: int) -> tuple[int, bool]:
        """Return where the longest match from a place ends, or -1; whether it may be longer."""
        node, end = self._first, -1
        for at in range(start, len(text)):
            character = text[at]
            node = node.next.get(character) or self._step(node, character)
            if not node.places:
                return end, False
            if node.accepts:
                end = at + 1
                if len(node.places) == 1:
                    return end, False
        return end, True

    def find(self, text: str, at: int, *, whole: bool) -> tuple[list[Span], int, int]:
        """Return the matches from a place on, where to go on, and what may have begun.

        The last is where the end of the text begins that may become a match; the end of the
        text for none, and where the text is whole.
        """
        found: list[Span] = []
        while (match := self._search(text, at)) is not None:
            at = match.start()
            end, is_open = self._run(text, at)
            if is_open and not whole:
                return found, at, at
            if end < 0:
                at += 1
            else:
                found.append((at, end))
                at = end
        if not whole:
            for start in range(max(at, len(text) - self._searched + 1), len(text)):
                if self._run(text, start)[1]:
                    return found, start, start
        return found, at, len(text)
