r"""Converts a program's output from bytes to texts of the wire, a line each, and back.

The end of a text tells its kind (`docs/processes.md`)::

    "Compiling..."           a whole line, without its newline
    "Password: \r"           the present state of a line: the next text replaces it
    "0101...01\x17"          a piece of a very long line: the next text continues it

Rules of this file:

- A line that was shown early is repeated in full: without the texts that end in "\r" exactly
  the lines remain, each in its final state.
- No text contains "\n", and "\r" only at its end.
- ETB (0x17, "end of transmission block") is ASCII's mark for "a block ends here, its text
  goes on". A line that itself ends in ETB is sent as a piece and an empty rest.
"""

from __future__ import annotations

import codecs
import re
from collections.abc import Iterable, Iterator

__all__ = ["GOES_ON", "MAX_PIECE", "REPLACED", "Lines", "cut", "join"]

# A control character takes six bytes of JSON: 48 KiB at worst, where a Go client takes 64.
MAX_PIECE = 8192
REPLACED = "\r"
GOES_ON = "\x17"
# White space and control sequences (ECMA-48), which set colours, erase, and move.
_UNSEEN = re.compile(r"(?:\s|\x1b\[[0-?]*[ -/]*[@-~])*")


class Lines:
    r"""Splits one stream of bytes into texts for the wire.

    Undecodable bytes become U+FFFD; a character may arrive in parts. `\r\n` (a terminal's form
    of a newline) ends a line like `\n`; a lone `\r` restarts the line.

    Args:
        max_piece: characters in one text; a longer line is cut into pieces.
    """

    __slots__ = ("_cut", "_decode", "_max_piece", "_returned", "_shown", "_text")

    def __init__(self, max_piece: int = MAX_PIECE) -> None:
        self._decode = codecs.getincrementaldecoder("utf-8")("replace").decode
        self._max_piece = max_piece
        self._text = ""  # the unfinished line, or what follows its last piece
        self._returned = False  # a "\r" follows it: any other text replaces it
        self._shown = False  # its present state has been returned
        self._cut = False  # pieces of it have been returned

    def copy(self) -> Lines:
        """Return a copy with the same state.

        Both share the decoder, which has no state when the last bytes ended with a character.
        """
        copy = Lines.__new__(Lines)
        for name in Lines.__slots__:
            setattr(copy, name, getattr(self, name))
        return copy

    @property
    def waiting(self) -> bool:
        """Whether part of a line has not been returned yet."""
        return bool(self._text) and not self._shown

    @property
    def cut(self) -> bool:
        """Whether the last returned text was a piece of a line that goes on."""
        return self._cut

    @property
    def empty(self) -> bool:
        """Whether the last line is finished."""
        return not self._text

    @property
    def returned(self) -> bool:
        r"""Whether a `\r` follows the unfinished line: any other text replaces it."""
        return self._returned

    @property
    def blank(self) -> bool:
        """Whether nothing of the unfinished line is visible, as of a cleared one."""
        return _UNSEEN.fullmatch(self._text) is not None

    def feed(self, data: bytes) -> list[str]:
        """Add bytes; return the texts that are complete."""
        return self._take(self._decode(data))

    def partial(self) -> list[str]:
        """Return the state of the unfinished line, unless that has been returned already."""
        if not self.waiting:
            return []
        self._shown = True
        return [self._text + REPLACED]

    def finish(self) -> list[str]:
        """End the stream; return the rest. An unfinished line counts as a line."""
        ready = self._take(self._decode(b"", True))
        if self._text:
            self._end(ready)
        return ready

    def break_off(self) -> list[str]:
        """End a line of which pieces were returned, so that another text may follow.

        The rest of the line becomes a line of its own.
        """
        if not self._cut:
            return []
        self._cut = False
        return [""]

    def _take(self, text: str) -> list[str]:
        text = text.replace("\r\n", "\n")
        first, *others = text.split("\n")
        ready: list[str] = []
        self._extend(first, ready)
        if not others:
            return ready
        self._end(ready)
        rest = others.pop()
        if "\r" in text or GOES_ON in text or len(text) > self._max_piece < _longest(others):
            for line in others:
                self._extend(line, ready)
                self._end(ready)
        else:
            ready += others
        self._extend(rest, ready)
        return ready

    def _extend(self, text: str, ready: list[str]) -> None:
        """Add text to the unfinished line."""
        for index, part in enumerate(text.split("\r")):
            if index:
                # Only the next character tells its meaning: "\n" ends the line as it is.
                self._returned = True
            if not part:
                continue
            if self._returned:
                ready += self.partial()
                self._text, self._returned = "", False
            self._text += part
            self._shown = False
            if len(self._text) > self._max_piece:
                self._give_pieces(ready)

    def _give_pieces(self, ready: list[str]) -> None:
        size, text = self._max_piece, self._text
        kept = (len(text) - 1) // size * size  # at least one character stays
        ready += [text[start : start + size] + GOES_ON for start in range(0, kept, size)]
        self._text, self._cut = text[kept:], True

    def _end(self, ready: list[str]) -> None:
        """Return the unfinished line as finished."""
        if self._text.endswith(GOES_ON):
            ready += [self._text + GOES_ON, ""]
        else:
            ready.append(self._text)
        self._text, self._returned, self._shown, self._cut = "", False, False, False


def _longest(lines: list[str]) -> int:
    return max(map(len, lines), default=0)


def cut(text: str, max_piece: int = MAX_PIECE) -> list[str]:
    """Return one text of the wire in pieces that a Go client accepts; mostly as it is.

    A state, which another text replaces, is truncated: its pieces would remain.
    """
    if len(text) <= max_piece + len(GOES_ON):
        return [text]
    if text.endswith(REPLACED):
        return [text[:max_piece] + REPLACED]
    rest = len(text) - len(GOES_ON) * text.endswith(GOES_ON)
    last = (rest - 1) // max_piece * max_piece  # at least one character stays
    pieces = [text[start : start + max_piece] + GOES_ON for start in range(0, last, max_piece)]
    return [*pieces, text[last:]]


def join(texts: Iterable[str]) -> Iterator[str]:
    """Yield the final lines of texts of the wire.

    States are left out and pieces are joined; a line without its last piece is yielded as
    far as it was sent.

    Threads: any.
    """
    pieces: list[str] = []
    for text in texts:
        if text.endswith(REPLACED):
            continue
        if text.endswith(GOES_ON):
            pieces.append(text[: -len(GOES_ON)])
            continue
        pieces.append(text)
        yield "".join(pieces)
        pieces.clear()
    if pieces:
        yield "".join(pieces)
