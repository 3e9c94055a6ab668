r"""The rows that a terminal shows of a program's output, as far as they may still change.

A model of a terminal's screen without its pixels: what a program writes moves a cursor, draws,
and erases. A line of output is one row, or several where the terminal wraps it. Rules of this
file:

- A line is given out when the cursor leaves it by a newline. What changes it later is a state of
  that line, and given out anew when the row leaves the screen, after which nothing can reach it.
- Rows have their places: what scrolls within a region, or is inserted, moves text from row to
  row. So the numbers of lines rise from the top to the bottom.
- A screen that is cleared is moved up, as by the terminals that keep it in their scrollback.
- Rows below a scroll region are status rows, and no lines. When the region has become larger they
  wait, and are lines once the cursor, or what scrolls, reaches them: apt erases them before.
- A section of GitLab's begins or ends with a text that is erased at once
  (`section_start:UNIX:name\r\x1b[0K`): no terminal shows it, so the line gets it as a mark.

No I/O and no clock.
"""

from __future__ import annotations

import enum
import re
from collections.abc import Callable
from typing import NamedTuple

from .cells import BLANK, STUB, Line, Pen, Row, text_of, width_of

__all__ = ["FULL_SCREEN", "STATUS_LINE", "Given", "Kind", "Rows"]

STATUS_LINE = 0  # the number of the status row
FULL_SCREEN = "(a full-screen program, which is not shown here)"

_TAB = 8
_MAX_SEQUENCE = 4096  # characters; what is longer is no sequence
_FAR = 9999  # of a parameter: what moves further is an attack
_WIDE = "\u0300"  # below it every character takes one cell
_MARK = "7300;"  # of an OSC sequence that is a mark
_MAX_MARKS = 2048  # characters of the marks of one line
_MAX_SECTION = 512  # characters of a section's text
_SECTION = re.compile(
    r"section_(?:start|end):[0-9]{1,20}:[A-Za-z0-9_.-]{1,128}(?:\[[^\[\]\x00-\x1f]{0,256}\])?\Z"
)

_TOKEN = re.compile(
    r"(?P<text>[^\x00-\x1f\x7f-\x9f]+)"
    r"|\x1b\[(?P<parameters>[0-?]*)(?P<between>[ -/]*)(?P<final>[@-~])"
    r"|\x1b\](?P<osc>[^\x07\x1b]*)(?:\x07|\x1b\\)"
    r"|\x1b[PX^_][^\x07\x1b]*(?:\x07|\x1b\\)"
    r"|\x1b(?P<set>[()])(?P<charset>.)"
    r"|\x1b(?:[ #%*+\-./]+.|(?P<short>[0-OQ-WYZ\\`-~]))"
    r"|(?P<control>[\x00-\x1a\x1c-\x1f\x7f-\x9f])",
    re.DOTALL,
)
_OPEN = re.compile(r"\x1b(?:\[[0-?]*[ -/]*|[\]PX^_][^\x07\x1b]*\x1b?|[ #%()*+\-./]*)\Z")
_DRAWING = str.maketrans(
    "`abcdefghijklmnopqrstuvwxyz{|}~_",
    "\u25c6\u2592\u2409\u240c\u240d\u240a\u00b0\u00b1\u2424\u240b\u2518\u2510\u250c\u2514\u253c"
    "\u23ba\u23bb\u2500\u23bc\u23bd\u251c\u2524\u2534\u252c\u2502\u2264\u2265\u03c0\u2260\u00a3"
    "\u00b7\u00a0",
)


class Given(NamedTuple):
    """A text to be given out, of a line.

    Args:
        line: the line.
        text: its text, or the beginning of it.
        kind: what the text is.
        time: when it was read, or drawn anew.
    """

    line: Line
    text: str
    kind: Kind
    time: float


class Kind(enum.Enum):
    """What a text is of its line."""

    WHOLE = "the finished line"
    STATE = "the line as it is so far"
    PIECE = "the beginning of a long line"


class Rows:
    """The screen of a terminal, and what becomes of its rows.

    Args:
        columns: cells of a row; None for rows without an end, as in a file.
        height: rows of the screen.
        max_piece: characters of a line that are waited for.

    Attributes:
        given: what is to be given out, in order; emptied by the caller.
        rows: the rows of the screen that have been reached, from the top.
        changed: lines that have changed since they were given out.
        status: status rows, by their places.
        returned: whether a return was the last that the unfinished line has got.
        time: when what is fed was read; set by the caller.
    """

    time = 0.0

    def __init__(self, columns: int | None, height: int, max_piece: int) -> None:
        self.columns = columns
        self.height = height
        self.given: list[Given] = []
        self._max_piece = max_piece
        self.rows: list[Row] = []
        self.changed: dict[Line, None] = {}
        self.status: dict[int, Row] = {}
        self._below: dict[int, Row] = {}  # that were status rows, and are no lines yet
        self.returned = False
        self._pending = ""  # the beginning of a sequence
        self._last = ""  # the character that was drawn last
        self._alternate: tuple[int, int] | None = None  # where the cursor was on the main screen
        self._reset()

    def _reset(self) -> None:
        self.x = self.y = 0
        self._top, self._bottom = 0, self.height - 1
        self._pen = Pen()
        self._saved: tuple[int, int, Pen, tuple[bool, bool], bool] | None = None
        self._drawing = (False, False)  # whether G0 and G1 are line drawing
        self._shifted = False  # G1 is in use
        self._inserts, self._wraps = False, True

    @property
    def at_rest(self) -> bool:
        """Whether the cursor is in front of a new line, and nothing is set that changes it."""
        return (
            self.x == 0
            and self.y == len(self.rows)
            and self.unfinished is None  # it may be moved away from without a newline
            and not self._pending
            and not self._pen.style
            and self._alternate is None
            and self._drawing == (False, False)
            and not (self._shifted or self._inserts or self.status)
            and not any([row.end for row in self._below.values()])
            and self._wraps
            and (self._top, self._bottom) == (0, self.height - 1)
        )

    @property
    def unfinished(self) -> Line | None:
        """The last line, if it is not finished."""
        line = self.rows[-1].line if self.rows else None
        return line if line is not None and line.kept is None else None

    def feed(self, text: str, *, bare: bool = False) -> None:
        r"""Carry out what a program writes; `bare` says that "\n" only moves down."""
        text, self._pending = self._pending + text, ""
        at, end = 0, len(text)
        match = _TOKEN.match
        while at < end:
            token = match(text, at)
            if token is None:
                if _OPEN.match(text, at) and end - at <= _MAX_SEQUENCE:
                    self._pending = text[at:]
                    return
                at += 1  # an ESC that begins nothing
                continue
            at = token.end()
            kind = token.lastgroup
            if kind == "text":
                if self._alternate is None:
                    self._draw(token["text"])
            elif kind == "control":
                self._control(token["control"], bare)
            elif kind == "final":
                if not token["between"]:
                    self._csi(token["parameters"], token["final"])
            elif kind == "charset":
                g0, g1 = self._drawing
                is_drawing = token["charset"] == "0"
                self._drawing = (is_drawing, g1) if token["set"] == "(" else (g0, is_drawing)
            elif kind == "short":
                self._escape(token["short"])
            elif kind == "osc":
                self._osc(token["osc"])

    def lines(self) -> list[Line]:
        """Return the lines of the screen, from the top."""
        return list(dict.fromkeys(row.line for row in self.rows if row.line is not None))

    def load(self, text: str, number: int) -> None:
        """Add a line that was given out; the screen is at rest."""
        self.begin(text, number)
        line = self._own(self.y)
        line.kept = line.text(self.columns)
        self.feed("\n")
        self.changed.pop(line, None)

    def begin(self, text: str, number: int) -> Line:
        """Add a line that is not finished; the screen is at rest."""
        self.feed(text)
        line = self._own(self.y)
        line.number = number
        return line

    def clear(self) -> None:
        """Have every row leave the screen; the cursor stays."""
        self._reach(self.height)
        self.finish_last()
        for row in self.rows:
            self._leave(row)
        self.rows = []
        self.status.clear()

    def resize(self, columns: int | None, height: int) -> None:
        """Give the screen another size. Its rows stay as they are, and the cursor among them.

        Rows that have no room leave it, and so do wrapped lines, with the rows above them: the
        program will not draw them as they were.
        """
        self._reach(self.height)
        wrapped = [at for at, row in enumerate(self.rows) if row.line and len(row.line.rows) > 1]
        gone = max(wrapped[-1] + 1 if wrapped else 0, len(self.rows) - height)
        if gone == len(self.rows):
            self.finish_last()
        for row in self.rows[:gone]:
            self._leave(row)
        del self.rows[:gone]
        self.columns, self.height = columns, height
        self._top, self._bottom = 0, height - 1
        self.x, self.y = self._place(self.x, self.y - gone)
        self.status.clear()  # the program sets its region anew
        if self._saved is not None:
            x, y, *rest = self._saved
            self._saved = (*self._place(x, y - gone), *rest)  # type: ignore[assignment]
        if self._alternate is not None:
            x, y = self._alternate
            self._alternate = self._place(x, y - gone)

    def _place(self, x: int, y: int) -> tuple[int, int]:
        return x if self.columns is None else min(x, self.columns), min(max(y, 0), self.height - 1)

    def restart(self) -> None:
        """Have every row leave the screen, and the cursor go to its top."""
        self.clear()
        self.x = self.y = 0

    def finish_last(self) -> None:
        """Have the last line be finished, if it is not."""
        line = self.unfinished
        if line is not None:
            self._complete(line)

    def show(self) -> None:
        """Give out the lines that have changed, as they are so far."""
        for line in list(self.changed):
            self._show(line)

    def _show(self, line: Line) -> None:
        del self.changed[line]
        text = line.text(self.columns)
        if text != (line.kept or "" if line.shown is None else line.shown):
            line.shown, line.time = text, line.touched
            self.given.append(Given(line, text, Kind.STATE, line.time))

    def end(self) -> None:
        """Give out what is left at the end of the output."""
        self._reach(self.height)
        line = self.unfinished
        if line is not None and not line.cut and not line.text(self.columns).strip():
            self.changed[line] = None
            self._show(line)
            self.rows = [row for row in self.rows if row.line is not line]
        self.clear()

    def status_text(self) -> str:
        """Return what the status rows hold."""
        rows = [row for _, row in sorted(self.status.items())]
        return " ".join(text for row in rows if (text := text_of(row.cells, row.styles, row.end)))

    def copy(self) -> Rows:
        """Return a copy with the same state."""
        copy = Rows(self.columns, self.height, self._max_piece)
        lines: dict[Line, Line] = {}
        rows: dict[Row, Row] = {}
        for line in dict.fromkeys([*self.lines(), *self.changed]):
            lines[line] = line.copy(rows)
        copy.rows = [rows[row] for row in self.rows]
        copy.changed = {lines[line]: None for line in self.changed}
        copy.status = {y: row.copy(None) for y, row in self.status.items()}
        copy._below = {y: row.copy(None) for y, row in self._below.items()}
        for name in _PLAIN:
            setattr(copy, name, getattr(self, name))
        copy._pen = self._pen.copy()
        return copy

    # --- rows and lines --------------------------------------------------------------------

    def _is_status(self, y: int) -> bool:
        return self._bottom < self.height - 1 and y > self._bottom

    def _row(self, y: int) -> Row:
        """Return the row at a place, which is made if need be, and will change."""
        if self._is_status(y):
            return self.status.setdefault(y, Row(None))
        if self._below:
            self._reach(y)
        while len(self.rows) <= y:
            self.finish_last()
            self._add_row(Line())
        return self._touch(self.rows[y])

    def _touch(self, row: Row) -> Row:
        """Note that the line of a row changes; return the row."""
        if row.line is not None:
            row.line.touched = self.time
            self.changed[row.line] = None
        return row

    def _add_row(self, line: Line) -> None:
        line.touched = self.time
        row = Row(line)
        line.rows.append(row)
        self.rows.append(row)
        self.changed[line] = None

    def _own(self, y: int) -> Line:
        line = self._row(y).line
        assert line is not None
        return line

    def _there(self, y: int) -> Row | None:
        """Return the row at a place, which will change; None for none."""
        if self._is_status(y):
            return self.status.get(y)
        return self._row(y) if y < len(self.rows) else self._below.get(y)

    def _complete(self, line: Line) -> None:
        self.changed.pop(line, None)
        line.kept = text = line.text(self.columns)
        line.shown, line.time = None, line.touched
        self.given.append(Given(line, text, Kind.WHOLE, line.time))

    def _leave(self, row: Row) -> None:
        """Have a row leave the screen: nothing can change it any more."""
        line = row.line
        assert line is not None
        line.gone += 1
        if line.kept is None:
            if line.gone == len(line.rows):  # scrolled away without a newline
                self._complete(line)
            elif line.rows[line.gone - 1] is row:
                self._shorten(line)
        elif line.gone == len(line.rows):
            self.changed.pop(line, None)
            text = line.text(self.columns)
            if text != line.kept or (line.shown is not None and line.shown != text):
                line.kept = text
                # Drawn anew as it was shown last, it has not changed since.
                time = line.time if text == line.shown else line.touched
                self.given.append(Given(line, text, Kind.WHOLE, time))

    def _shorten(self, line: Line) -> None:
        """Give out the rows of an unfinished line that have left the screen, if it is long."""
        if self.columns is None or line.gone * self.columns < self._max_piece // 2:
            return
        whole, line.rows = line.rows, line.rows[: line.gone]
        last = line.rows[-1]
        last.reach(self.columns)
        last.cells = [" " if cell == BLANK else cell for cell in last.cells]
        text = line.text(self.columns)
        line.rows, line.gone, line.cut, line.marks = whole[line.gone :], 0, True, ""
        self.given.append(Given(line, text, Kind.PIECE, line.touched))

    def _scroll_up(self) -> None:
        self._reach(self.height)
        top, bottom = self._top, self._bottom
        if top >= len(self.rows):
            return
        full = len(self.rows) > bottom
        row = self.rows.pop(top)
        self._leave(row)
        if full and bottom < self.height - 1 and len(self.rows) > bottom:
            self._insert_row(bottom)  # rows below the region stay where they are

    def _scroll_by(self, count: int) -> None:
        for _ in range(min(count, self.height)):
            self._scroll_up()

    def _insert_row(self, y: int) -> None:
        """Add a row at a place: a new one at the end, and the text of those between moves down."""
        self.finish_last()
        self._add_row(Line())
        for place in range(len(self.rows) - 1, y, -1):
            self._touch(self.rows[place]).move(self.rows[place - 1])
        self._touch(self.rows[y]).move(None)
        self.finish_last()

    def _shift(self, first: int, count: int) -> None:
        """Move the text of the rows from one to the end of the region down; up if negative."""
        self._reach(self.height)
        last = self._bottom
        for _ in range(min(abs(count), last - first + 1)):
            if count > 0:
                if first >= len(self.rows):
                    return
                end = min(last, len(self.rows))
                if self.rows[end - 1].end or end < len(self.rows):
                    self._row(end)
                for y in range(end, first, -1):
                    self._row(y).move(self._row(y - 1))
                self._row(first).move(None)
            else:
                end = min(last, len(self.rows) - 1)
                for y in range(first, end):
                    self._row(y).move(self._row(y + 1))
                if first <= end:
                    self._row(end).move(None)

    # --- what moves the cursor --------------------------------------------------------------

    def _control(self, control: str, bare: bool) -> None:
        if self._alternate is not None:
            return
        if control == "\n":
            if not bare:
                self.x = 0
            self._line_feed()
        elif control == "\r":
            self.x = 0
            self.returned = True
        elif control == "\b":
            self._back(1)
        elif control == "\t":
            self._tab()
        elif control in "\v\f":
            self._line_feed()
        elif control in "\x0e\x0f":
            self._shifted = control == "\x0e"

    def _line_feed(self) -> None:
        self.returned = False
        if not self._is_status(self.y):
            if self.y >= len(self.rows) - 1:
                self._row(self.y)
                self.finish_last()
        self._index()

    def _index(self) -> None:
        if self.y == self._bottom:
            self._scroll_up()
        elif self.y < self.height - 1:
            self.y += 1

    def _reverse_index(self) -> None:
        if self.y == self._top:
            self._shift(self._top, 1)
        elif self.y:
            self.y -= 1

    def _back(self, count: int) -> None:
        if self.x == self.columns:  # behind the last cell, before the line wraps
            self.x -= 1
        self.x = max(self.x - count, 0)

    def _tab(self) -> None:
        stop = (self.x // _TAB + 1) * _TAB
        self.x = stop if self.columns is None else min(stop, self.columns - 1)

    def _to_column(self, column: int) -> None:
        self.x = min(max(column, 0), _FAR if self.columns is None else self.columns - 1)

    def _up(self, count: int) -> None:
        self.y = max(self.y - count, self._top if self.y >= self._top else 0)

    def _down(self, count: int) -> None:
        last = self._bottom if self.y <= self._bottom else self.height - 1
        self.y = min(self.y + count, last)

    def _next_line(self, count: int) -> None:
        self.x = 0
        self._down(count)

    def _previous_line(self, count: int) -> None:
        self.x = 0
        self._up(count)

    def _to(self, row: int, column: int) -> None:
        self.y = min(max(row, 0), self.height - 1)
        self._to_column(column)

    # --- sequences --------------------------------------------------------------------------

    def _escape(self, final: str) -> None:
        if self._alternate is not None:
            if final == "c":
                self._alternate = None
            return
        if final == "7":
            self._save()
        elif final == "8":
            self._restore()
        elif final == "D":
            self._index()
        elif final == "E":
            self.x = 0
            self._index()
        elif final == "M":
            self._reverse_index()
        elif final == "c":
            self.clear()
            self._reset()

    def _save(self) -> None:
        self._saved = (self.x, self.y, self._pen.copy(), self._drawing, self._shifted)

    def _restore(self) -> None:
        if self._saved is None:
            self.x = self.y = 0
            return
        self.x, self.y, pen, self._drawing, self._shifted = self._saved
        self._pen = pen.copy()

    def _csi(self, parameters: str, final: str) -> None:
        if final in "hl":
            self._mode(parameters, final == "h")
            return
        if parameters[:1] in "<=>?" and parameters:
            return
        if final == "m":
            self._pen.select(parameters)
            return
        if self._alternate is not None:
            return
        numbers = [
            min(int(each), _FAR) if each.isdigit() else 0
            for each in parameters.replace(":", ";").split(";")
        ]
        count = max(numbers[0], 1)
        if final in _MOVES:
            _MOVES[final](self, count)
        elif final in "Hf":
            self._to(count - 1, (max(numbers[1], 1) if len(numbers) > 1 else 1) - 1)
        elif final == "r":
            self._set_region(numbers)
        elif final in "JK":
            (self._erase_display if final == "J" else self._erase_line)(numbers[0])
        elif final in "LM":
            if self._top <= self.y <= self._bottom:
                self._shift(self.y, count if final == "L" else -count)
                self.x = 0
        elif final in _EDITS:
            row = self._there(self.y)
            if row is not None:
                _EDITS[final](self, row, count)
        elif final == "b" and self._last:
            self._draw(self._last * min(count, self.columns or self._max_piece))
        elif final == "s":
            self._save()
        elif final == "u":
            self._restore()

    def _osc(self, text: str) -> None:
        if text.startswith("8;"):
            _, _, target = text[2:].partition(";")
            self._pen.follow(text[2:] if target else "")
        elif text.startswith(_MARK) and self._alternate is None and not self._is_status(self.y):
            self._mark(self._own(self.y), text.removeprefix(_MARK))

    def _mark(self, line: Line, text: str) -> None:
        """Have a line remember the section that a text ends in, if it does."""
        section = _SECTION.search(text[-_MAX_SECTION:])
        if section is None:
            return
        self.returned = False  # nothing of the line is replaced
        if len(line.marks) + _MAX_SECTION <= _MAX_MARKS:
            line.marks += f"\x1b]{_MARK}{section[0]}\x1b\\"

    def _mode(self, parameters: str, on: bool) -> None:
        for mode in parameters.lstrip("?").split(";"):
            if not parameters.startswith("?"):
                if mode == "4":
                    self._inserts = on
            elif mode == "7":
                self._wraps = on
            elif mode in ("47", "1047", "1049"):
                self._switch(on)

    def _switch(self, alternate: bool) -> None:
        """Go to the alternate screen, of which nothing is shown, or come back."""
        if alternate and self._alternate is None:
            if self.x or self.unfinished is not None:
                self.x = 0
                self._line_feed()
            self._draw(FULL_SCREEN)
            self.x = 0
            self._line_feed()
            self._alternate = (self.x, self.y)
        elif not alternate and self._alternate is not None:
            self.x, self.y = self._alternate
            self._alternate = None

    def _set_region(self, numbers: list[int]) -> None:
        top = max(numbers[0] - 1, 0)
        bottom = (numbers[1] if len(numbers) > 1 and numbers[1] else self.height) - 1
        bottom = min(bottom, self.height - 1)
        if top >= bottom:
            return
        self._top, self._bottom = top, bottom
        rows = self.status | self._below
        self.status = {y: row for y, row in rows.items() if self._is_status(y)}
        self._below = {y: row for y, row in rows.items() if not self._is_status(y)}
        self._to(0, 0)

    def _reach(self, y: int) -> None:
        """Have the rows that were status rows be lines, as far as one; they stay where they are."""
        for place in sorted(place for place in self._below if place <= y):
            row = self._below.pop(place)
            if row.end:
                self._row(place).move(row)

    def _erase_line(self, how: int) -> None:
        row = self._there(self.y)
        if row is None:
            return
        end = len(row.cells)
        if self.returned and self.x == 0 and row.line is not None and how != 1:
            self._mark(row.line, "".join(row.cells[: row.end][-_MAX_SECTION:]))
        if how == 0:
            row.erase(self.x, end)
        elif how == 1:
            row.erase(0, self.x + 1)
        elif how == 2:
            row.erase(0, end)

    def _erase_display(self, how: int) -> None:
        if how in (2, 3):
            if how == 2:
                self.clear()
            return
        self._erase_line(how)
        for y in range(self.y + 1, self.height) if how == 0 else range(self.y):
            row = self._there(y)
            if row is not None:
                row.move(None)

    def _insert_cells(self, row: Row, count: int) -> None:
        if self.x < len(row.cells):
            row.cells[self.x : self.x] = [BLANK] * count
            row.styles[self.x : self.x] = [""] * count
            most = 2 * self._max_piece if self.columns is None else self.columns
            del row.cells[most:], row.styles[most:]

    def _delete_cells(self, row: Row, count: int) -> None:
        del row.cells[self.x : self.x + count], row.styles[self.x : self.x + count]

    def _erase_cells(self, row: Row, count: int) -> None:
        row.erase(self.x, self.x + count)

    # --- text -------------------------------------------------------------------------------

    def _draw(self, text: str) -> None:
        """Draw printable text at the cursor, which goes on behind it."""
        if self._drawing[self._shifted]:
            text = text.translate(_DRAWING)
        if self.returned:
            self.returned = False
            line = self.unfinished
            if line is not None and line in self.changed and self.y == len(self.rows) - 1:
                self._show(line)
        self._last = text[-1]
        if self._inserts or max(text) >= _WIDE:
            for character in text:
                self._draw_one(character)
            return
        style = self._pen.style
        while text:
            if self.x == self.columns and not self._wraps:
                text = text[-1]
            self._wrap(1)
            room = len(text) if self.columns is None else self.columns - self.x
            part, text = text[:room], text[room:]
            row = self._row(self.y)
            end = self.x + len(part)
            row.reach(self.x)
            if not row.is_narrow:
                row.split(self.x)
                row.split(end)
            row.cells[self.x : end] = part
            row.styles[self.x : end] = [style] * len(part)
            self.x = end
            self._cut_long(row)

    def _draw_one(self, character: str) -> None:
        width = width_of(character)
        if width == 0:
            self._combine(character)
            return
        self._wrap(width)
        row = self._row(self.y)
        if self._inserts:
            self._insert_cells(row, width)
        row.reach(self.x + width)
        row.split(self.x)
        row.split(self.x + width)
        row.is_narrow = row.is_narrow and width == 1
        row.cells[self.x : self.x + width] = [character] + [STUB] * (width - 1)
        row.styles[self.x : self.x + width] = [self._pen.style] * width
        self.x += width
        if self.columns is not None:
            del row.cells[self.columns :], row.styles[self.columns :]
            self.x = min(self.x, self.columns)
        self._cut_long(row)

    def _combine(self, character: str) -> None:
        """Add an accent to the character before the cursor."""
        at = self.x - 1
        row = self._there(self.y)
        if row is None or at < 0:
            return
        while at and at < len(row.cells) and row.cells[at] == STUB:
            at -= 1
        if at < len(row.cells) and row.cells[at] not in (BLANK, STUB):
            row.cells[at] = row.cells[at][:32] + character

    def _wrap(self, width: int) -> None:
        """Go on in the next row where the cursor is behind the last cell."""
        if self.columns is None or self.x < self.columns:
            return
        if not self._wraps:
            self.x = self.columns - min(width, self.columns)
            return
        self.x = 0
        if self._is_status(self.y) or self.y < len(self.rows) - 1:
            self._index()  # a row that is there is drawn over
            return
        line = self._own(self.y)
        self._index()
        if self.y == len(self.rows) and not self._is_status(self.y) and line.kept is None:
            self._add_row(line)

    def _cut_long(self, row: Row) -> None:
        if self.columns is not None or len(row.cells) <= self._max_piece or row.line is None:
            return
        line, size = row.line, self._max_piece
        while len(row.cells) > size:
            if line.kept is None:
                cut = line.marks + text_of(row.cells[:size], row.styles[:size], size)
                line.cut, line.marks = True, ""
                self.given.append(Given(line, cut, Kind.PIECE, line.touched))
            del row.cells[:size], row.styles[:size]
            self.x = max(self.x - size, 0)


_PLAIN = (
    "returned", "time", "x", "y", "_pending", "_last", "_alternate", "_top", "_bottom", "_saved",
    "_drawing", "_shifted", "_inserts", "_wraps",
)  # fmt: skip
_MOVES: dict[str, Callable[[Rows, int], None]] = {
    "A": Rows._up,
    "B": Rows._down,
    "e": Rows._down,
    "C": lambda rows, count: rows._to_column(rows.x + count),
    "a": lambda rows, count: rows._to_column(rows.x + count),
    "D": Rows._back,
    "E": Rows._next_line,
    "F": Rows._previous_line,
    "G": lambda rows, count: rows._to_column(count - 1),
    "`": lambda rows, count: rows._to_column(count - 1),
    "d": lambda rows, count: rows._to(count - 1, rows.x),
    "S": lambda rows, count: rows._scroll_by(count),
    "T": lambda rows, count: rows._shift(rows._top, min(count, rows.height)),
}
_EDITS: dict[str, Callable[[Rows, Row, int], None]] = {
    "@": Rows._insert_cells,
    "P": Rows._delete_cells,
    "X": Rows._erase_cells,
}
