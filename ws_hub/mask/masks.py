"""The secrets of a hub, or of one program, and the text without them.

Threads: any. Each change is a single call of C, and what is made of the secrets is replaced
whole; so there is no lock, and a signal handler may print in the middle of a change.
"""

from __future__ import annotations

import contextlib
import fnmatch
import os
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ..errors import ConfigError, excerpt
from ..log import get_logger
from .forms import LEAST_BYTES, forms_of
from .literals import Literals, Span
from .patterns import Pattern
from .sequences import Bare

__all__ = ["MASK", "Finder", "MaskEnv", "Masks", "masks_of"]

logger = get_logger(__name__)

MASK = "***"  # what stands in place of a secret
MAX_CHARACTERS = 65_536  # of one secret


class MaskEnv:
    """The values of variables of the environment, as secrets.

    `mask=[MaskEnv("NPM_TOKEN", "*_SECRET")]`: a name with `*` or `?` is a pattern, and means every
    variable of which the name matches; values under 4 bytes are left out then, and logged. Of a
    program they are those of its own environment, of a hub those of this process.

    Raises ConfigError for no name, and for names that are no text.
    """

    def __init__(self, *names: str) -> None:
        given: tuple[object, ...] = names
        if not given or not all(isinstance(name, str) and name for name in given):
            raise ConfigError(
                "MaskEnv takes names of variables, and there must be one or more: "
                'MaskEnv("NPM_TOKEN", "*_SECRET")'
            )
        self.names = names

    def __repr__(self) -> str:
        return f"MaskEnv({', '.join(map(repr, self.names))})"


@dataclass(frozen=True, slots=True, repr=False)
class _Secrets:
    """What was given at once."""

    forms: frozenset[str]
    patterns: tuple[Pattern, ...]


class Finder:
    """Finds secrets in text without control sequences."""

    def __init__(self, forms: Iterable[str], patterns: Iterable[Pattern]) -> None:
        listed = set(forms)
        self._literals = Literals(listed) if listed else None
        self._patterns = list(patterns)

    def find(self, text: str, resume: dict[Pattern, int], *, whole: bool) -> tuple[list[Span], int]:
        """Return where secrets are, in order, and where the end begins that may become one.

        `resume` has from where on each pattern is looked for; it is changed to how far it was.
        """
        found = [] if self._literals is None else self._literals.find(text)
        begun = len(text) if whole or self._literals is None else self._literals.begun(text)
        tried = []
        for pattern in self._patterns:
            spans, at, open_at = pattern.find(text, resume.get(pattern, 0), whole=whole)
            tried.append((pattern, spans, at))
            found += spans
            begun = min(begun, open_at)
        for pattern, spans, at in tried:  # what is in the end that has begun is to be found again
            resume[pattern] = next((start for start, _ in spans if start >= begun), at)
        found.sort()
        return found, begun


class Masks:
    """Secrets, which may become more and less at any time.

    Args:
        parent: whose secrets count as well.
    """

    def __init__(self, parent: Masks | None = None) -> None:
        self._parent = parent
        self._given: dict[object, _Secrets] = {}
        self._version = object()  # replaced after each change
        self._made: tuple[tuple[object, ...], Finder | None] = ((), None)

    def __repr__(self) -> str:
        return f"<Masks: {len(self._given)}>"

    def add(
        self, secrets: Iterable[object], env: Mapping[str, str] | None = None
    ) -> Callable[[], None]:
        """Add secrets; return a function that takes these away again.

        `env` is the environment of a MaskEnv; None for ours. Raises ConfigError.
        """
        made = _made_of(secrets, os.environ if env is None else env)
        mark = object()

        def undo() -> None:
            if self._given.pop(mark, None) is not None:
                self._version = object()

        if made.forms or made.patterns:
            self._given[mark] = made
            self._version = object()
        return undo

    @property
    def versions(self) -> tuple[object, ...]:
        """What is another after each change."""
        return (self._version, *(self._parent.versions if self._parent is not None else ()))

    @property
    def finder(self) -> Finder | None:
        """What finds the secrets; None where there are none."""
        if not self._given:
            return None if self._parent is None else self._parent.finder
        versions = self.versions  # before the secrets: a change meanwhile has it made again
        if self._made[0] != versions:
            given = self._all()
            forms = [form for each in given for form in each.forms]
            patterns = [pattern for each in given for pattern in each.patterns]
            self._made = versions, Finder(forms, patterns) if given else None
        return self._made[1]

    def _all(self) -> list[_Secrets]:
        own = list(self._given.values())
        return own if self._parent is None else own + self._parent._all()

    def text(self, text: str, *, goes_on: bool = False) -> str:
        """Return a text without secrets.

        With `goes_on` the text may not be at its end: without what could be the beginning of
        one there, either.
        """
        finder = self.finder
        return text if finder is None else masked(finder, text, goes_on=goes_on)

    def each(self, lines: Sequence[Any]) -> Sequence[Any]:
        """Return lines of output, each without secrets; those that are no text as `value` does."""
        finder = self.finder
        if finder is None:
            return lines
        if all(isinstance(line, str) for line in lines):
            joined = Bare("\n".join(lines), whole=True)  # one search, which mostly finds nothing
            if not joined.gaps and not finder.find(joined.text, {}, whole=True)[0]:
                return lines
        return [self.value(line) for line in lines]

    def value(self, value: Any) -> Any:
        """Return a value with its texts without secrets, as far as they are in lists and dicts."""
        if self.finder is None:
            return value
        if isinstance(value, str):
            return self.text(value)
        if isinstance(value, bytes):
            text = self.text(value.decode("utf-8", "surrogateescape"))
            return text.encode("utf-8", "surrogateescape")
        if isinstance(value, (list, tuple)):
            return [self.value(each) for each in value]
        if isinstance(value, Mapping):
            return {self.value(name): self.value(each) for name, each in value.items()}
        return value


def masks_of(parent: Masks, secrets: Iterable[object], env: object) -> Masks:
    """Return the secrets of a program, whose environment is `env`; None for ours.

    Raises ConfigError.
    """
    masks = Masks(parent)
    masks.add(secrets, env if isinstance(env, Mapping) else None)
    return masks


def masked(finder: Finder, text: str, *, goes_on: bool = False) -> str:
    """Return a text without what a finder finds."""
    without = Bare(text, whole=not goes_on)
    spans, begun = finder.find(without.text, {}, whole=not goes_on)
    without.change(lambda sequence: sequence[:2] + masked(finder, sequence[2:]))
    return replaced(without, spans, begun, 0)[0]


def replaced(without: Bare, spans: list[Span], end: int, covered: int) -> tuple[str, int]:
    """Return the text up to a place with MASK for each span, and its sequences.

    Spans that overlap are one. `covered` characters at the beginning belong to a span of which
    MASK was returned before; the second value is how many there are behind the end.
    """
    merged: list[list[Any]] = [[0, covered, ""]] if covered else []
    for start, stop in spans:
        if start >= end:
            break
        if merged and start < merged[-1][1]:
            merged[-1][1] = max(merged[-1][1], stop)
        else:
            merged.append([start, stop, MASK])
    text, parts, at, gaps = without.shown, [], 0, iter(without.gaps)
    gap = next(gaps, None)
    for start, stop, mark in (*merged, (end, end, "")):
        while gap is not None and gap[0] <= start:
            parts += [text[at : gap[0]], gap[1]]
            at, gap = gap[0], next(gaps, None)
        parts += [text[at:start], mark]
        at = min(stop, end)
        while gap is not None and gap[0] < at:
            parts.append(gap[1])
            gap = next(gaps, None)
    behind = max(merged[-1][1] - end, 0) if merged else 0
    return "".join(parts), behind


def _made_of(secrets: object, env: Mapping[str, str]) -> _Secrets:
    if isinstance(secrets, (str, bytes, re.Pattern, MaskEnv)) or not isinstance(secrets, Iterable):
        raise ConfigError(
            "mask must be a list of secrets, each a text, a MaskEnv or a compiled pattern: "
            'mask=[token, MaskEnv("*_SECRET")]'
        )
    forms: set[str] = set()
    patterns: list[Pattern] = []
    for number, each in enumerate(secrets):
        if isinstance(each, re.Pattern) and isinstance(each.pattern, str):
            patterns.append(Pattern(each))
        elif isinstance(each, MaskEnv):
            for name in each.names:
                forms |= _forms_of_variable(name, env)
        else:
            forms |= _checked_forms(each, f"secret {number} of mask")
    return _Secrets(frozenset(forms), tuple(patterns))


def _forms_of_variable(name: str, env: Mapping[str, str]) -> set[str]:
    if "*" not in name and "?" not in name:
        value: object = env.get(name)
        if value is None:
            raise ConfigError(
                f"the environment has no variable {excerpt(name)} to be masked: set it, or write a "
                "pattern of names, such as NPM_*, for what may be missing"
            )
        return _checked_forms(value, f"the variable {excerpt(name)}") if value else set()
    forms: set[str] = set()
    for each, value in list(env.items()):
        if value and fnmatch.fnmatchcase(each, name):
            try:
                forms |= _checked_forms(value, f"the variable {excerpt(each)}")
            except ConfigError as error:
                logger.warning("not masked: %s", error)
    return forms


def _checked_forms(secret: object, what: str) -> set[str]:
    """Return the forms of a secret; raises ConfigError, without naming it."""
    if isinstance(secret, bytes):
        secret = secret.decode("utf-8", "surrogateescape")
    if not isinstance(secret, str):
        kind = type(secret).__name__  # and not its value
        raise ConfigError(
            f"{what} must be a text, a MaskEnv or a compiled pattern of text, not {kind}"
        )
    if len(secret) > MAX_CHARACTERS:
        raise ConfigError(f"{what} must have at most {MAX_CHARACTERS} characters")
    forms = None
    with contextlib.suppress(UnicodeEncodeError):  # which has the secret
        forms = forms_of(secret)
    if forms is None:
        raise ConfigError(f"{what} must be text that has a UTF-8 form: it is in no output")
    if not forms:
        raise ConfigError(
            f"{what} must have a line of {LEAST_BYTES} bytes or more, without blanks around it: "
            "what is shorter is in every text. Use a longer secret"
        )
    return forms
