"""Masks the secrets in a stream of bytes, which may be cut anywhere.

What could be the beginning of a secret is held back, and no more, until the bytes that follow
tell. Where the stream is cut makes no difference to what comes out.
"""

from __future__ import annotations

import codecs

from .masks import Masks, masked, replaced
from .patterns import Pattern
from .sequences import Bare

__all__ = ["StreamMask"]


class StreamMask:
    """One stream, such as the standard output of a program.

    Args:
        masks: the secrets, as of each moment.
    """

    __slots__ = ("_covered", "_decode", "_held", "_is_on", "_masks", "_resume")

    def __init__(self, masks: Masks) -> None:
        self._masks = masks
        self._is_on = False  # there were secrets: bytes may be held back
        self._decode = codecs.getincrementaldecoder("utf-8")("surrogateescape").decode
        self._held = ""
        self._covered = 0  # characters of what is held that MASK has been returned for
        self._resume: dict[Pattern, int] = {}  # where in what is held to look for each

    def copy(self) -> StreamMask:
        """Return a copy with the same state.

        Both share the decoder, which has no state when the last bytes ended with a character.
        """
        copy = StreamMask(self._masks)
        copy._is_on, copy._decode = self._is_on, self._decode
        copy._held, copy._covered, copy._resume = self._held, self._covered, dict(self._resume)
        return copy

    @property
    def holds(self) -> bool:
        """Whether something is held back."""
        return bool(self._held)

    def feed(self, data: bytes) -> bytes:
        """Add bytes; return what cannot be part of a secret any more, masked."""
        if not self._is_on:
            if self._masks.finder is None:
                return data
            self._is_on = True
        return self._advance(self._decode(data), whole=False).encode("utf-8", "surrogateescape")

    def finish(self) -> bytes:
        """End the stream; return the rest, masked."""
        if not self._is_on:
            return b""
        rest = self._advance(self._decode(b"", True), whole=True)
        return rest.encode("utf-8", "surrogateescape")

    def add(self, text: str) -> str:
        """Add text of an assembled row; return what cannot be part of a secret any more."""
        return self._advance(text, whole=False)

    def end(self, text: str) -> str:
        """Add the last text of an assembled row; return the rest."""
        return self._advance(text, whole=True)

    def text(self, text: str, *, goes_on: bool = False) -> str:
        """Return a text without secrets, whatever was added before: see `Masks.text`."""
        return self._masks.text(text, goes_on=goes_on)

    def another(self) -> StreamMask:
        """Return a new one for the same secrets."""
        return StreamMask(self._masks)

    def _advance(self, more: str, *, whole: bool) -> str:
        text, self._held = self._held + more, ""
        finder = self._masks.finder
        if finder is None:  # the last one was taken away
            self._covered, self._resume = 0, {}
            return text
        without = Bare(text, whole=whole)
        spans, end = finder.find(without.text, self._resume, whole=whole)
        self._resume = {each: at - end for each, at in self._resume.items() if at > end}
        self._held = text[end + sum(len(gap) for at, gap in without.gaps if at <= end) :]
        without.change(lambda sequence: sequence[:2] + masked(finder, sequence[2:]))
        out, self._covered = replaced(without, spans, end, self._covered)
        return out
