r"""Patterns of secrets: regular expressions whose length and cost are bounded.

A pattern is a sequence of characters and classes, each with a count or without::

    ghp_[A-Za-z0-9]{36}        sk-[\w-]{20,100}        AKIA[0-9A-Z]{16}

No groups, alternatives and counts without an end: `re` has no bound for the time that these
take, and what may still become a match could not be told. Here each character costs one step
of an automaton. Where a match may begin is found by `re`, which looks at a few characters of
each place, and by trying; where that has cost more steps than there are characters, by a
second automaton, which reads the text backwards once.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Sequence

from ..errors import ConfigError, excerpt
from .literals import Span
from .sequences import bare

__all__ = ["MAX_COUNTS", "MAX_WIDTH", "Pattern"]

MAX_WIDTH = 1024  # characters that a pattern may match
MAX_COUNTS = 16  # items with a count: a character is looked at by no more than so many matches
_LEAST_WIDTH = 4
_MOST_SEARCHED = 16  # characters that `re` looks at, before the automaton does
_MOST_REMEMBERED = 8192  # steps of an automaton; it begins anew beyond
_PATIENCE = 2048  # steps beyond one for each character, before the text is read backwards
_ENDS = "\r\n\x1b"  # of what a match is within
_WINDOW = 8192  # places of which it is found out in one go whether a match begins there

_FLAGS = re.compile(r"(?:\(\?[aimsux]+\))*")  # of the whole pattern: `re` has read them
_BLANKS = re.compile(r"(?:\s|#[^\n]*)*")  # of re.VERBOSE
_ONE = re.compile(
    r"\\[dDwWsS]|\\x[0-9a-fA-F]{2}|\\u[0-9a-fA-F]{4}|\\[^a-zA-Z0-9]"
    r"|\[\^?\]?(?:\\.|[^\]\\])*\]|[^\\[\](){}*+?^$|]",
    re.DOTALL,
)
_COUNT = re.compile(r"\?|\{(\d{1,4})(?:,(\d{1,4}))?\}")


class _Node:
    """What may come next, once some characters have been read."""

    __slots__ = ("accepts", "is_last", "next", "places")

    def __init__(self, places: int, width: int) -> None:
        self.places = places
        self.accepts = bool(places >> width)
        self.is_last = places == 1 << width
        self.next: dict[str, _Node] = {}


class _Automaton:
    """Reads characters, and knows which places of a sequence have been reached.

    A place is a bit of a number: the lowest before the first character, the highest behind the
    last. What a step leads to is remembered, up to a bound.

    Args:
        ones: what each character is to be.
        may_skip: which of them may be left out.
        tests: whether a character is one of these.
        anew: whether the sequence may begin behind each character.

    Threads: any. What is remembered is changed by single calls.
    """

    def __init__(
        self,
        ones: Sequence[str],
        may_skip: Sequence[bool],
        tests: dict[str, re.Pattern[str]],
        *,
        anew: bool,
    ) -> None:
        self._tests = tests
        self._width = len(ones)
        self._anew = int(anew)
        self._bits: dict[str, int] = {}
        for place, one in enumerate(ones):
            self._bits[one] = self._bits.get(one, 0) | 1 << place
        skipped = sum(1 << place for place, skips in enumerate(may_skip) if skips)
        self._behind = skipped << 1  # places that are reached from the one before
        self._before = skipped & ~self._behind  # the place before each run of them
        self._last = self._behind & ~skipped  # and its last one
        self.every = (1 << self._width + 1) - 1
        self._nodes: dict[int, _Node] = {}
        self.kinds: dict[str, str] = {}  # of each character one that leads to the same
        self._firsts: dict[int, str] = {}  # by the places that it may come behind
        self._begin()

    def _begin(self) -> None:
        forgotten, self._nodes = self._nodes, {}
        for node in list(forgotten.values()):
            node.next.clear()  # these refer to each other
        self.kinds.clear()
        self._firsts.clear()
        self._masks: dict[str, int] = {}  # of such a character, the places that it may come behind
        self._count = 0
        self.first = self.node(self.closed(1))

    def node(self, places: int) -> _Node:
        """Return the node of these places."""
        return self._nodes.setdefault(places, _Node(places, self._width))

    def closed(self, places: int) -> int:
        """Return the places, and those behind what may be left out."""
        # In each run the subtraction changes all up to the lowest place that is there.
        ends = places | self._last
        return places | self._behind & (~(ends - self._before) ^ ends)

    def after(self, places: int) -> int:
        """Return the places that any character leads to."""
        return self.closed(places << 1 & self.every)

    def kind(self, character: str) -> str:
        """Return a character that leads to the same from everywhere, and remember it."""
        self._grow()
        mask = self._mask(character)
        found = self._firsts.setdefault(mask, character)
        self._masks[found] = mask
        self.kinds[character] = found
        return found

    def step(self, node: _Node, kind: str) -> _Node:
        """Return where a character leads to, and remember it."""
        self._grow()
        mask = self._masks.get(kind)
        if mask is None:
            mask = self._mask(kind)
        places = (node.places & mask) << 1 | self._anew
        found = node.next[kind] = self.node(self.closed(places))
        return found

    def _grow(self) -> None:
        if self._count >= _MOST_REMEMBERED:
            self._begin()
        self._count += 1

    def _mask(self, character: str) -> int:
        """Return the places that a character may come behind."""
        if character in _ENDS:
            return 0
        found = 0
        for one, test in self._tests.items():
            if test.fullmatch(character):
                found |= self._bits[one]
        return found


class Pattern:
    """One pattern.

    Args:
        pattern: the regular expression, with its flags.

    Raises ConfigError for one that is not of the kind that is described above.
    """

    def __init__(self, pattern: re.Pattern[str]) -> None:
        self._source, self._flags = pattern.pattern, pattern.flags
        self._ones: list[str] = []  # for each character of the longest match
        self._may_skip: list[bool] = []
        self._searched = min(self._parse(), _MOST_SEARCHED)
        flags = self._flags & (re.IGNORECASE | re.ASCII)
        tests = {one: re.compile(one, flags) for one in self._ones}
        self._check(tests)
        self._forwards = _Automaton(self._ones, self._may_skip, tests, anew=False)
        reverse = self._ones[::-1], self._may_skip[::-1]
        self._backwards = _Automaton(*reverse, tests, anew=True)
        # Where a match may begin: its first characters, each of one set. Of a set one alone is
        # tried: a search that fails does not go back to the others.
        places, sets = self._forwards.first.places, []
        for _ in range(self._searched):
            ones = sorted({one for at, one in enumerate(self._ones) if places >> at & 1})
            sets.append(ones[0] if len(ones) == 1 else f"(?>{'|'.join(ones)})")
            places = self._forwards.after(places)
        self._search = re.compile("".join(sets), flags).search

    def _parse(self) -> int:
        """Take the pattern apart; return how many characters it matches at least."""
        source = self._source
        at, least_width, counts = self._behind(_FLAGS, 0), 0, 0
        while (at := self._behind_blanks(at)) < len(source):
            one = _ONE.match(source, at)
            if one is None:
                raise ConfigError(
                    f"the pattern {excerpt(source)} must be a sequence of characters and classes, "
                    f"each with a count such as {{20}} or {{20,100}} or without, and is not at "
                    f"{at}: write several patterns for alternatives, and {{1,40}} for + and *"
                )
            least, most, at = 1, 1, self._behind_blanks(one.end())
            count = _COUNT.match(source, at)
            if count is not None:
                least = int(count[1] or 0)
                most = int(count[2] or count[1] or 1)
                at = count.end()
            counts += most > 1
            self._ones += [one[0]] * most
            self._may_skip += [False] * least + [True] * (most - least)
            least_width += least
        if least_width < _LEAST_WIDTH or len(self._ones) > MAX_WIDTH or counts > MAX_COUNTS:
            raise ConfigError(
                f"the pattern {excerpt(source)} must match {_LEAST_WIDTH} characters or more, and "
                f"at most {MAX_WIDTH}, with at most {MAX_COUNTS} counts: it matches {least_width} "
                f"to {len(self._ones)}, with {counts}"
            )
        return least_width

    def _behind(self, what: re.Pattern[str], at: int) -> int:
        """Return where in the source something ends that begins at a place."""
        match = what.match(self._source, at)
        return at if match is None else match.end()

    def _behind_blanks(self, at: int) -> int:
        return self._behind(_BLANKS, at) if self._flags & re.VERBOSE else at

    def _check(self, tests: dict[str, re.Pattern[str]]) -> None:
        """Refuse what is never found: a match is within a line, and has no control characters."""
        source = excerpt(self._source)
        if self._flags & re.DOTALL and "." in tests:
            raise ConfigError(
                f"the pattern {source} has the flag DOTALL, and a match is within one line: leave "
                "the flag out, and write a pattern for each line"
            )
        needed = {one for one, skips in zip(self._ones, self._may_skip, strict=True) if not skips}
        for end in (0x300, sys.maxunicode + 1):
            text = _shown(end)
            needed = {one for one in needed if tests[one].search(text) is None}
            if not needed:
                return
        raise ConfigError(
            f"the pattern {source} is never found, as no line has {excerpt(min(needed))}: leave "
            "out what matches line ends and control characters only"
        )

    def _run(self, text: str, start: int) -> tuple[int, int]:
        """Return where the longest match from a place ends, or -1, and up to where it was read.

        That is behind the end of the text where the match may be longer.
        """
        automaton, end = self._forwards, -1
        node, kinds = automaton.first, automaton.kinds
        for at in range(start, len(text)):
            kind = kinds.get(text[at]) or automaton.kind(text[at])
            node = node.next.get(kind) or automaton.step(node, kind)
            if not node.places:
                return end, at
            if node.accepts:
                end = at + 1
                if node.is_last:
                    return end, at
        return end, len(text)

    def _begins(self, text: str, start: int, *, whole: bool) -> tuple[list[int], int]:
        """Return where matches begin, or may, and up to which place; the last of them first."""
        end = min(start + _WINDOW, len(text))
        after = min(end + len(self._ones), len(text))  # a match from before the end ends there
        automaton, found = self._backwards, []
        is_end = whole and after == len(text)
        node = automaton.node(automaton.first.places if is_end else automaton.every)
        kinds = automaton.kinds
        for at in range(after - 1, start - 1, -1):
            kind = kinds.get(text[at]) or automaton.kind(text[at])
            node = node.next.get(kind) or automaton.step(node, kind)
            if node.accepts and at < end:
                found.append(at)
        return found, end

    def find(self, text: str, at: int, *, whole: bool) -> tuple[list[Span], int, int]:
        """Return the matches from a place on, where to go on, and what may have begun.

        The last is where the end of the text begins that may become a match; the end of the
        text for none, and where the text is whole.
        """
        found: list[Span] = []
        patience = _PATIENCE - at  # steps that are left beyond one for each character
        begins: list[int] = []  # where matches begin, before this place, the last of them first
        known = 0
        while at < len(text):
            if patience + at > 0:
                match = self._search(text, at)
                if match is None:
                    break
                at = match.start()
            else:
                if at >= known:
                    begins, known = self._begins(text, at, whole=whole)
                while begins and begins[-1] < at:
                    begins.pop()
                if not begins:
                    at = known
                    continue
                at = begins[-1]
            end, read = self._run(text, at)
            if read == len(text) and not whole:
                return found, at, at
            patience -= read - max(end, at)
            if end < 0:
                at += 1
            else:
                found.append((at, end))
                at = end
        if not whole:
            for start in range(max(at, len(text) - self._searched + 1), len(text)):
                if self._run(text, start)[1] == len(text):
                    return found, start, start
        return found, len(text), len(text)


def _shown(end: int) -> str:
    """Return the characters before a number that text without control sequences may have."""
    return bare("".join(map(chr, range(end)))).translate(dict.fromkeys(map(ord, _ENDS)))
