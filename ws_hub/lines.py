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
from collections.abc import Iterable, Iterator, Sequence
from typing import Protocol, Self

from .cells import Line
from .rows import STATUS_LINE, Kind, Rows

__all__ = ["GOES_ON", "HEIGHT", "MAX_PIECE", "REPLACED", "Lines", "Numbers", "Texts", "cut", "join"]

# A control character takes six bytes of JSON: 48 KiB at worst, where a Go client takes 64.
MAX_PIECE = 8192
REPLACED = "\r"
GOES_ON = "\x17"
HEIGHT = 24  # rows of a screen where none is known
_NO_COLOUR = re.compile(r"\x1b(?!\[[0-9;:]*m)")
_RESETS = ("\x1b[0m", "\x1b[m")


class Numbers:
    """Numbers lines, from 1; shared by the streams of one program."""

    __slots__ = ("_next",)

    def __init__(self) -> None:
        self._next = 1

    def take(self, count: int = 1) -> int:
        """Return the first of so many numbers that follow each other."""
        first = self._next
        self._next += count
        return first


class Texts(list[str]):
    """Texts of the wire, and of each the number of its line and when it was read.

    Attributes:
        numbers: the number of the line of each.
        time: when they were read, POSIX seconds; 0 where that is not known.
        times: by their places, when those were read that were read before that.
    """

    __slots__ = ("numbers", "time", "times")

    def __init__(self, texts: Iterable[str] = ()) -> None:
        super().__init__(texts)
        self.numbers: list[int] = []
        self.time = 0.0
        self.times: dict[int, float] = {}

    def put(self, text: str, number: int) -> None:
        """Add a text."""
        self.append(text)
        self.numbers.append(number)

    def part(self, start: int, end: int) -> Texts:
        """Return those from one place to another."""
        part = Texts(self[start:end])
        part.numbers, part.time = self.numbers[start:end], self.time
        if self.times:
            part.times = {
                at - start: moment for at, moment in self.times.items() if start <= at < end
            }
        return part

    def not_before(self, moment: float) -> None:
        """Have their time be no earlier than this one; each was read when it was.

        Those whose time is not known have none.
        """
        if 0 < self.time < moment:
            self.times = dict.fromkeys(range(len(self)), self.time) | self.times
            self.time = moment


class Mask(Protocol):
    """What masks the secrets of one stream; see `ws_hub.mask.stream.StreamMask`."""

    @property
    def holds(self) -> bool: ...

    def copy(self) -> Self: ...

    def another(self) -> Self: ...

    def feed(self, data: bytes) -> bytes: ...

    def finish(self) -> bytes: ...

    def add(self, text: str) -> str: ...

    def end(self, text: str) -> str: ...

    def text(self, text: str, *, goes_on: bool = False) -> str: ...


class Lines:
    r"""Splits one stream of bytes into texts for the wire.

    Undecodable bytes become U+FFFD; a character may arrive in parts. Text is passed on as it
    is. What moves the cursor or erases is carried out (`ws_hub.rows`), as far back as the
    screen of a terminal reaches.

    Args:
        max_piece: characters in one text; a longer line is cut into pieces.
        columns: cells of a row of the program's terminal; None where it has none.
        height: rows of it.
        numbers: numbers the lines.
        mask: masks the secrets that become visible where a row is assembled. `feed` takes what
            its `feed` has returned; None for no secrets.

    Attributes:
        mask: the same.
    """

    __slots__ = (
        "_columns", "_cut", "_decode", "_height", "_held", "_max_piece", "_number", "_numbers",
        "_raw", "_raw_numbers", "_ready", "_resting", "_rows", "_shown", "_status", "_text",
        "_time", "_masked_pieces", "mask",
    )  # fmt: skip

    def __init__(
        self,
        max_piece: int = MAX_PIECE,
        *,
        columns: int | None = None,
        height: int = HEIGHT,
        numbers: Numbers | None = None,
        mask: Mask | None = None,
    ) -> None:
        self.mask = mask
        self._masked_pieces: dict[int, Mask] = {}  # by line: what its pieces went through
        self._decode = codecs.getincrementaldecoder("utf-8")("replace").decode
        self._max_piece = max_piece
        self._columns, self._height = columns, height
        self._numbers = numbers or Numbers()
        self._ready = Texts()
        self._held = ""  # a "\r" at the end: the next character tells its meaning
        # At rest, which is nearly always, the unfinished line is a text, and so are the last
        # lines before it: nothing has moved the cursor.
        self._resting = True
        self._text = ""  # the unfinished line, or what follows its last piece
        self._number = 0  # of that line, once something of it was returned
        self._shown = False  # its present state has been returned
        self._cut = False  # pieces of it have been returned
        self._raw: list[str] = []  # the last lines that were returned at rest
        self._raw_numbers: list[int] = []
        self._rows: Rows | None = None  # the screen before these, once it was needed
        self._status = ""  # the status row, as it was returned last
        self._time = 0.0  # when bytes were added last

    def copy(self) -> Lines:
        """Return a copy with the same state.

        Both share the decoder, which has no state when the last bytes ended with a character.
        """
        copy = Lines.__new__(Lines)
        for name in Lines.__slots__:
            setattr(copy, name, getattr(self, name))
        copy._raw, copy._raw_numbers = list(self._raw), list(self._raw_numbers)
        copy._ready = Texts()
        if self.mask is not None:
            copy.mask = self.mask.copy()
            copy._masked_pieces = {at: each.copy() for at, each in self._masked_pieces.items()}
        if self._rows is not None:
            copy._rows = self._rows.copy()
        return copy

    @property
    def waiting(self) -> bool:
        """Whether part of a line has not been returned yet."""
        if self._text and not self._shown:
            return True
        rows = self._rows
        return rows is not None and (bool(rows.changed) or rows.status_text() != self._status)

    @property
    def cut(self) -> bool:
        """Whether the last returned text was a piece of a line that goes on."""
        line = self._unfinished
        return self._cut if line is None else line.cut

    @property
    def empty(self) -> bool:
        """Whether the last line is finished, and nothing can change those before it."""
        return self._resting and not self._text and not (self.mask and self.mask.holds)

    @property
    def returned(self) -> bool:
        r"""Whether a `\r` follows the unfinished line: any other text is drawn over it."""
        if self._resting or self._rows is None:
            return bool(self._held and self._text)
        return bool(self._held) or self._rows.returned

    @property
    def blank(self) -> bool:
        """Whether nothing of the unfinished line is visible, as of a cleared one."""
        line = self._unfinished
        text = self._text if line is None else line.text(self._columns)
        return not text or text.isspace()

    @property
    def _unfinished(self) -> Line | None:
        return None if self._resting or self._rows is None else self._rows.unfinished

    def feed(self, data: bytes, time: float = 0.0) -> Texts:
        """Add bytes that were read at a time; return the texts that are complete."""
        self._time = time
        self._take(self._decode(data))
        return self._returning()

    def partial(self) -> Texts:
        """Return the states of lines that have changed, unless they have been returned already."""
        if self._rows is not None:
            self._rows.show()
            self._collect(self._rows)
            self._show_status(self._rows.status_text())
        if self._text and not self._shown:
            self._shown = True
            self._number = self._number or self._numbers.take()
            self._ready.put(_state(self._text, self._max_piece), self._number)
        return self._returning()

    def finish(self) -> Texts:
        """End the stream; return the rest. An unfinished line counts as a line."""
        if self.mask is not None:
            self._take(self._decode(self.mask.finish()))
        self._held = ""
        self._take(self._decode(b"", True))
        if self._rows is not None:
            if not self._resting:
                self._rows.end()
            else:
                self._rows.clear()
            self._collect(self._rows)
            self._show_status("")
            self._rows, self._resting = None, True
        if self._text:
            self._end()
        return self._returning()

    def break_off(self) -> Texts:
        """End a line of which pieces were returned, so that another text may follow.

        The rest of the line becomes a line of its own.
        """
        line = self._unfinished
        if line is not None and line.cut:
            self._ready.put("", line.number)
            line.cut, line.number = False, 0
        elif self._cut:
            self._ready.put("", self._number)
            self._cut, self._number = False, 0
        return self._returning()

    def resize(self, columns: int, height: int) -> Texts:
        """Go on with another size of the terminal; return the texts that this completes."""
        self._columns, self._height = columns, height
        if self._rows is not None:
            self._rows.resize(columns, height)
            self._collect(self._rows)
            self._resting = self._rows.at_rest
        return self._returning()

    def _returning(self) -> Texts:
        ready, self._ready = self._ready, Texts()
        ready.time = self._time
        return ready

    def _take(self, text: str) -> None:
        if self._held:
            text, self._held = self._held + text, ""
        bare = False  # a newline only moves down
        if "\r" in text:
            if text.endswith("\r"):
                text, self._held = text.rstrip("\r"), "\r"
            bare = self._columns is not None and text.count("\n") != text.count("\r\n")
            if not bare:
                text = text.replace("\r\n", "\n")
        elif self._columns is not None and "\n" in text:
            bare = True
        if bare:
            self._draw(text, bare=True)
        elif self._resting and not _moves(text):
            self._add(text)
        else:
            self._add_mixed(text)

    def _add_mixed(self, text: str) -> None:
        """Add text of which some lines have control characters."""
        if not self._resting:
            head, newline, text = text.partition("\n")
            self._draw(head + newline)
            if not text:
                return
        *lines, rest = text.split("\n")
        if self._resting and _is_coloured(text) and all(map(_is_reset, lines)):
            self._add(text[: len(text) - len(rest)])
            lines = []
        simple: list[str] = []
        for line in lines:
            if self._resting and _is_simple(line):
                simple.append(line)
                continue
            self._add_simple(simple)
            self._draw(line + "\n")
        self._add_simple(simple)
        if self._resting and _is_simple(rest):
            self._add(rest)
        elif rest:
            self._draw(rest)

    def _add_simple(self, lines: list[str]) -> None:
        if lines:
            self._add("\n".join([*lines, ""]))
            lines.clear()

    # --- at rest ---------------------------------------------------------------------------

    def _add(self, text: str) -> None:
        """Add text that moves the cursor by newlines only."""
        first, *others = text.split("\n")
        self._extend(first)
        if not others:
            return
        self._end()
        rest = others.pop()
        if GOES_ON in text or len(text) > self._max_piece < _longest(others):
            for line in others:
                self._extend(line)
                self._end()
        elif others:
            self._ready += others
            number = self._numbers.take(len(others))
            numbers = range(number, number + len(others))
            self._ready.numbers += numbers
            self._remember(others, numbers)
        self._extend(rest)

    def _extend(self, text: str) -> None:
        """Add text to the unfinished line."""
        if text:
            self._text += text
            self._shown = False
            if len(self._text) > self._max_piece:
                self._give_pieces()

    def _give_pieces(self) -> None:
        size, text = self._max_piece, self._text
        kept = (len(text) - 1) // size * size  # at least one character stays
        self._number = self._number or self._numbers.take()
        for start in range(0, kept, size):
            self._ready.put(text[start : start + size] + GOES_ON, self._number)
        self._text, self._cut = text[kept:], True

    def _end(self) -> None:
        """Return the unfinished line as finished."""
        number = self._number or self._numbers.take()
        if self._text.endswith(GOES_ON):
            self._ready.put(self._text + GOES_ON, number)
            self._ready.put("", number)
        else:
            self._ready.append(self._text)
            self._ready.numbers.append(number)
        self._raw.append(self._text)
        self._raw_numbers.append(number)
        if len(self._raw) > 4 * self._height:
            self._remember([], [])
        self._text, self._number, self._shown, self._cut = "", 0, False, False

    def _remember(self, lines: Sequence[str], numbers: Sequence[int]) -> None:
        """Keep the lines that the cursor may come back to."""
        most = self._height
        self._raw += lines[-most:]
        self._raw_numbers += numbers[-most:]
        if len(self._raw) > 2 * most:
            del self._raw[:-most], self._raw_numbers[:-most]

    # --- on the screen ---------------------------------------------------------------------

    def _draw(self, text: str, *, bare: bool = False) -> None:
        """Add text that moves the cursor."""
        rows = self._screen()
        rows.feed(text, bare=bare)
        self._collect(rows)
        self._resting = rows.at_rest

    def _screen(self) -> Rows:
        """Return the screen, with what was added at rest."""
        if self._rows is None:
            self._rows = Rows(self._columns, self._height, self._max_piece)
        rows = self._rows
        rows.time = self._time
        if not self._resting:
            return rows
        most = self._height - 1
        if len(self._raw) >= most:
            rows.restart()
        last = slice(-most if most else len(self._raw), None)
        for text, number in zip(self._raw[last], self._raw_numbers[last], strict=True):
            rows.load(text, number)
        self._raw, self._raw_numbers = [], []
        if self._text:
            line = rows.begin(self._text, self._number)
            line.cut = self._cut
            if self._shown:
                rows.changed.pop(line, None)
                line.shown = line.text(self._columns)
            elif self._number:
                line.shown = self._text[:-1]  # something of it was returned before
        self._text, self._number, self._shown, self._cut = "", 0, False, False
        self._resting = False
        return rows

    def _collect(self, rows: Rows) -> None:
        """Return what the screen has given out."""
        for line, text, kind, time in rows.given:
            number = line.number = line.number or self._numbers.take()
            start = len(self._ready)
            if self.mask is not None:
                text = self._masked(number, text, kind)
            if kind is Kind.STATE:
                self._ready.put(_state(text, self._max_piece), number)
                self._read_before(start, time)
                continue
            pieces = [text] if len(text) <= self._max_piece else cut(text, self._max_piece)
            if kind is Kind.PIECE:
                pieces = [each.removesuffix(GOES_ON) + GOES_ON for each in pieces]
            for piece in pieces:
                self._ready.put(piece, number)
            self._read_before(start, time)
        rows.given.clear()

    def _read_before(self, start: int, time: float) -> None:
        """Note when the texts from a place on were read, if that is not now."""
        if time < self._time:
            self._ready.times.update(dict.fromkeys(range(start, len(self._ready)), time))

    def _masked(self, number: int, text: str, kind: Kind) -> str:
        """Return a text of the screen without the secrets that were assembled there."""
        assert self.mask is not None
        pieces = self._masked_pieces.get(number)
        if kind is Kind.PIECE:
            if pieces is None:
                pieces = self._masked_pieces[number] = self.mask.another()
                if len(self._masked_pieces) > self._height:  # those above have left the screen
                    del self._masked_pieces[min(self._masked_pieces)]
            return pieces.add(text)
        if pieces is None:
            return self.mask.text(text, goes_on=kind is Kind.STATE)
        pieces = pieces.copy()  # the same text may come again
        return pieces.add(text) if kind is Kind.STATE else pieces.end(text)

    def _show_status(self, status: str) -> None:
        if self.mask is not None:
            status = self.mask.text(status)
        if status != self._status:
            self._status = status
            self._ready.put(_state(status, self._max_piece), STATUS_LINE)


def _moves(text: str) -> bool:
    """Whether a text has characters that move the cursor, or may: it is not passed on as it is.

    Newlines and tabs are not among them. Searches for characters, one by one, are faster than
    one for a class of them.
    """
    return "\x1b" in text or _has_controls(text)


def _has_controls(text: str) -> bool:
    return (
        "\r" in text
        or "\b" in text
        or "\x0b" in text
        or "\x0c" in text
        or "\x0e" in text
        or "\x0f" in text
    )


def _is_simple(line: str) -> bool:
    """Whether a line is text and colours, and ends without any."""
    return not _moves(line) or (_is_coloured(line) and _is_reset(line))


def _is_coloured(text: str) -> bool:
    """Whether nothing in a text moves the cursor: it has colours at most."""
    return not _has_controls(text) and _NO_COLOUR.search(text) is None


def _is_reset(line: str) -> bool:
    """Whether a line of text and colours ends without any."""
    at = line.rfind("\x1b")
    return at < 0 or line.startswith(_RESETS, at)


def _state(text: str, max_piece: int) -> str:
    return text[:max_piece] + REPLACED


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
