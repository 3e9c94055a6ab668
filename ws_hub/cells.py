"""The cells of a terminal's rows: what is drawn in each, how, and the line that a row is part of.

No I/O and no clock.
"""

from __future__ import annotations

import functools
import unicodedata

__all__ = ["BLANK", "STUB", "Line", "Pen", "Row", "text_of", "width_of"]

BLANK, STUB = "\0", ""  # a cell that was never written; the right half of a wide character

_ON = {
    1: "bold", 2: "dim", 3: "italic", 4: "underline", 5: "blink", 6: "blink", 7: "inverse",
    8: "hidden", 9: "strike", 21: "underline", 53: "overline",
}  # fmt: skip
_OFF = {
    22: ("bold", "dim"), 23: ("italic",), 24: ("underline",), 25: ("blink",), 27: ("inverse",),
    28: ("hidden",), 29: ("strike",), 39: ("fg",), 49: ("bg",), 55: ("overline",), 59: ("line",),
}  # fmt: skip
_EXTENDED = {"38": "fg", "48": "bg", "58": "line"}


@functools.lru_cache(4096)
def width_of(character: str) -> int:
    """Return how many cells a character takes."""
    if unicodedata.category(character) in ("Mn", "Me", "Cf"):
        return 0
    return 2 if unicodedata.east_asian_width(character) in "WF" else 1


class Pen:
    """The colours and attributes that text is drawn with, and its link."""

    __slots__ = ("_set", "link", "style")

    def __init__(self) -> None:
        self._set: dict[str, str] = {}
        self.link = ""
        self.style = ""  # SGR parameters, and behind a NUL the link

    def copy(self) -> Pen:
        """Return a copy with the same state."""
        copy = Pen()
        copy._set, copy.link, copy.style = dict(self._set), self.link, self.style
        return copy

    def select(self, parameters: str) -> None:
        """Carry out SGR."""
        groups = parameters.split(";")
        at = 0
        while at < len(groups):
            group = groups[at]
            code, _, more = group.partition(":")
            at += 1
            if code in _EXTENDED:
                if not more:
                    size = {"5": 2, "2": 4}.get(groups[at] if at < len(groups) else "", 1)
                    group = ";".join(groups[at - 1 : at + size])
                    at += size
                    if size == 1:
                        continue
                self._set[_EXTENDED[code]] = group
            else:
                self._simple(int(code or 0) if code.isdigit() or not code else -1, group)
        self._mix()

    def _simple(self, code: int, group: str) -> None:
        if code == 0:
            self._set.clear()
        elif group == "4:0":
            self._set.pop("underline", None)
        elif code in _ON:
            self._set[_ON[code]] = group
        elif 30 <= code <= 37 or 90 <= code <= 97:
            self._set["fg"] = group
        elif 40 <= code <= 47 or 100 <= code <= 107:
            self._set["bg"] = group
        for name in _OFF.get(code, ()):
            self._set.pop(name, None)

    def follow(self, link: str) -> None:
        """Have the text that follows be a link: the parameters of OSC 8, "" for none."""
        self.link = link
        self._mix()

    def _mix(self) -> None:
        self.style = ";".join(self._set.values())
        if self.link:
            self.style += f"\0{self.link}"


class Row:
    """One row of the screen: its cells, the style of each, and the line that it is part of."""

    __slots__ = ("cells", "is_narrow", "line", "styles")

    def __init__(self, line: Line | None) -> None:
        self.cells: list[str] = []
        self.styles: list[str] = []
        self.is_narrow = True  # no character takes two cells
        self.line = line

    def copy(self, line: Line | None) -> Row:
        """Return a copy that is part of a line."""
        copy = Row(line)
        copy.cells, copy.styles = list(self.cells), list(self.styles)
        copy.is_narrow = self.is_narrow
        return copy

    def reach(self, end: int) -> None:
        """Have at least so many cells."""
        more = end - len(self.cells)
        if more > 0:
            self.cells += [BLANK] * more
            self.styles += [""] * more

    def erase(self, start: int, end: int) -> None:
        """Erase some cells."""
        end = min(end, len(self.cells))
        if start < end:
            self.cells[start:end] = [BLANK] * (end - start)
            self.styles[start:end] = [""] * (end - start)

    def split(self, x: int) -> None:
        """Erase a wide character that has a cell on both sides of a place."""
        if 0 < x < len(self.cells) and self.cells[x] == STUB:
            self.cells[x - 1] = self.cells[x] = " "

    def move(self, other: Row | None) -> None:
        """Take the cells of another row; None for none."""
        self.cells = other.cells if other is not None else []
        self.styles = other.styles if other is not None else []
        self.is_narrow = other is None or other.is_narrow

    @property
    def end(self) -> int:
        """How many cells there are without those at the end that were never written."""
        return _end_of(self.cells)


class Line:
    """A line of output: the rows that it takes.

    Attributes:
        number: its number; 0 until it is first given out.
        rows: its rows; those that have left the screen as well.
        gone: how many have left the screen.
        kept: its text as it was given out when it was finished; None before.
        shown: the newest state that was given out; None for none since it was finished.
        cut: whether pieces of it were given out.
        touched: when something was drawn to it last, the same text perhaps.
        time: when what was given out of it last was drawn.
        marks: sequences that stand before its text: the sections that begin or end with it.
    """

    __slots__ = ("cut", "gone", "kept", "marks", "number", "rows", "shown", "time", "touched")

    def __init__(self) -> None:
        self.number = 0
        self.rows: list[Row] = []
        self.gone = 0
        self.kept: str | None = None
        self.shown: str | None = None
        self.cut = False
        self.time = self.touched = 0.0
        self.marks = ""

    def copy(self, rows: dict[Row, Row]) -> Line:
        """Return a copy; `rows` gets the copies of its rows."""
        copy = Line()
        copy.number, copy.gone, copy.kept = self.number, self.gone, self.kept
        copy.time, copy.touched = self.time, self.touched
        copy.shown, copy.cut, copy.marks = self.shown, self.cut, self.marks
        for row in self.rows:
            rows[row] = row.copy(copy)
            copy.rows.append(rows[row])
        return copy

    def text(self, columns: int | None) -> str:
        """Return its text, with its marks and the sequences that colour it."""
        if len(self.rows) == 1:
            row = self.rows[0]
            return self.marks + text_of(row.cells, row.styles, row.end)
        assert columns is not None
        cells: list[str] = []
        styles: list[str] = []
        for at, row in enumerate(self.rows):
            missing = at * columns - len(cells)
            cells += [BLANK] * missing + row.cells
            styles += [""] * missing + row.styles
        least = (len(self.rows) - 1) * columns + 1  # the last row is one, blank or not
        missing = least - len(cells)
        end = max(_end_of(cells), least)
        return self.marks + text_of(cells + [BLANK] * missing, styles + [""] * missing, end)


def _end_of(cells: list[str]) -> int:
    end = len(cells)
    while end and cells[end - 1] == BLANK:
        end -= 1
    return end


def text_of(cells: list[str], styles: list[str], end: int) -> str:
    """Return cells as text, which begins and ends without any style."""
    if not any(styles[:end]):
        return "".join(cells[:end]).replace(BLANK, " ")
    parts: list[str] = []
    style = link = ""
    for cell, own in zip(cells[:end], styles[:end], strict=True):
        if own != style and cell != STUB:
            colour, _, target = own.partition("\0")
            if target != link:
                parts.append(f"\x1b]8;{target or ';'}\x1b\\")
                link = target
            if colour != style.partition("\0")[0]:
                parts.append(f"\x1b[0;{colour}m" if colour else "\x1b[0m")
            style = own
        parts.append(cell if cell != BLANK else " ")
    if link:
        parts.append("\x1b]8;;\x1b\\")
    if style.partition("\0")[0]:
        parts.append("\x1b[0m")
    return "".join(parts)
