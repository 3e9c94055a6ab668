r"""Bytes of a program's output in, texts for the wire out: one a line, and back.

Must not know processes, descriptors, clocks or the hub. What a text says, by its end
(`docs/processes.md`)::

    "Compiling..."           a whole line, without its newline
    "Password: \r"           a line as it looks so far: the next text replaces it
    "0101...01\x17"          a piece of a very long line: the next text goes on with it

Rules of this file:

- What is shown early is repeated in full: whoever drops every text that ends in "\r"
  has exactly the lines, each as it looked in the end.
- No text holds "\n", and "\r" only at its end.
- ETB (0x17, "end of transmission block") is what ASCII has for "a block ends here, its
  text goes on". A line that itself ends in ETB is sent as a piece and an empty rest.
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
# Blanks, and control sequences (ECMA-48), which colour, erase and move.
_UNSEEN = re.compile(r"(?:\s|\x1b\[[0-?]*[ -/]*[@-~])*")


class Lines:
    r"""Splits one stream of bytes into texts for the wire.

    Undecodable bytes become U+FFFD; a character may come in parts. `\r\n` (what a
    terminal makes of a newline) ends a line like `\n`; a lone `\r` starts it anew.

    Args:
        max_piece: characters in one text; a longer line is cut into pieces.
    """

    __slots__ = ("_cut", "_decode", "_max_piece", "_returned", "_shown", "_text")

    def __init__(self, max_piece: int = MAX_PIECE) -> None:
        self._decode = codecs.getincrementaldecoder("utf-8")("replace").decode
        self._max_piece = max_piece
        self._text = ""  # the unfinished line, or what follows its last piece
        self._returned = False  # a "\r" came after it: other text replaces it
        self._shown = False  # it has been given out as it is now
        self._cut = False  # pieces of it have been given out

    def copy(self) -> Lines:
        """Return one that stands where this one does: to go on with, or to come back to.

        Both share the decoder, which has no state where what was fed ends with a character.
        """
        copy = Lines.__new__(Lines)
        for name in Lines.__slots__:
            setattr(copy, name, getattr(self, name))
        return copy

    @property
    def waiting(self) -> bool:
        """Whether there is part of a line that nobody has been shown."""
        return bool(self._text) and not self._shown

    @property
    def cut(self) -> bool:
        """Whether the last text given out was a piece, whose line goes on."""
        return self._cut

    @property
    def empty(self) -> bool:
        """Whether the last line is finished."""
        return not self._text

    @property
    def returned(self) -> bool:
        r"""Whether a `\r` stands behind the unfinished line: any other text replaces it."""
        return self._returned

    @property
    def blank(self) -> bool:
        """Whether nothing can be seen of the unfinished line, as of one that was cleared."""
        return _UNSEEN.fullmatch(self._text) is not None

    def feed(self, data: bytes) -> list[str]:
        """Take the next bytes; return the texts that are ready."""
        return self._take(self._decode(data))

    def partial(self) -> list[str]:
        """Return the unfinished line as it looks so far, unless that is known."""
        if not self.waiting:
            return []
        self._shown = True
        return [self._text + REPLACED]

    def finish(self) -> list[str]:
        """End the stream; return what was left. An unfinished line counts as one."""
        ready = self._take(self._decode(b"", True))
        if self._text:
            self._end(ready)
        return ready

    def break_off(self) -> list[str]:
        """End a line that was cut, so that others may speak; the rest is a line of its own."""
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
        """Go on with the unfinished line."""
        for index, part in enumerate(text.split("\r")):
            if index:
                # Only what comes next says what it means: "\n" ends the line as it is.
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
        """Give out the unfinished line as finished."""
        if self._text.endswith(GOES_ON):
            ready += [self._text + GOES_ON, ""]
        else:
            ready.append(self._text)
        self._text, self._returned, self._shown, self._cut = "", False, False, False


def _longest(lines: list[str]) -> int:
    return max(map(len, lines), default=0)


def cut(text: str, max_piece: int = MAX_PIECE) -> list[str]:
    """Return one text of the wire in pieces that a Go client takes; mostly as it is.

    A state, which another text replaces, loses what is too much: as pieces it would stay.
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
    """Yield the lines that `texts` of the wire amount to in the end.

    What was shown early is left out and pieces are put together; a line whose pieces
    stop is yielded as far as it came.
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
