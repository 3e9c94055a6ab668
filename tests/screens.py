"""What a terminal emulator shows of a program's output, and what a viewer of ours does.

The emulator is pyte. What differs from it on purpose is in `Terminal`: a screen that is cleared
goes to the scrollback, as in VTE and kitty, and a saved cursor can be restored twice, as in all
terminals.
"""

from __future__ import annotations

import copy
import unicodedata
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import pyte

from ws_hub.lines import GOES_ON, REPLACED, Lines

__all__ = ["Viewer", "reads", "shown", "terminal_rows", "texts_of"]

WIDE = 2000  # columns where the program has no terminal
Cell = tuple[str, str, str, bool, bool, bool]


class Stream(pyte.Stream):
    """Knows sequences of xterm that pyte's own does not."""

    csi = {
        **pyte.Stream.csi,
        "S": "scroll_up",
        "T": "scroll_down",
        "b": "repeat",
        "s": "save",
        "u": "restore",
    }  # fmt: skip
    events = pyte.Stream.events | frozenset(csi.values())


class Terminal(pyte.Screen):
    """A terminal with all rows that ever left its top."""

    def __init__(self, columns: int, height: int) -> None:
        self.past: list[list[Cell]] = []
        self.last = ""  # the character that was drawn last
        super().__init__(columns, height)

    def index(self) -> None:
        top, bottom = self._region()
        if self.cursor.y == bottom and top == 0:
            self.past.append(self._row(0))
        super().index()

    def erase_in_display(self, how: int = 0, *args: Any, **kwargs: Any) -> None:
        if how == 2:
            self.past += self._screen()
        if how != 3:
            super().erase_in_display(how, *args, **kwargs)

    def restore_cursor(self) -> None:
        saved = [
            pyte.screens.Savepoint(copy.copy(each.cursor), *each[1:])
            for each in self.savepoints[-1:]
        ]
        super().restore_cursor()
        self.savepoints += saved
        if saved:  # behind the last cell, and below the region, too
            self.cursor.x, self.cursor.y = saved[0].cursor.x, saved[0].cursor.y

    def draw(self, data: str) -> None:
        self.last = data[-1:]
        super().draw(data)

    def repeat(self, count: int | None = None) -> None:
        if self.last:
            super().draw(self.last * min(count or 1, self.columns))

    def save(self, *_: int) -> None:
        self.save_cursor()

    def restore(self, *_: int) -> None:
        self.restore_cursor()

    def scroll_up(self, count: int | None = None) -> None:
        self._at(self._region().bottom, self.index, count)

    def scroll_down(self, count: int | None = None) -> None:
        self._at(self._region().top, self.reverse_index, count)

    def _region(self) -> Any:
        return self.margins or pyte.screens.Margins(0, self.lines - 1)

    def _at(self, y: int, move: Callable[[], None], count: int | None) -> None:
        before, self.cursor.y = self.cursor.y, y
        for _ in range(min(count or 1, self.lines)):
            move()
        self.cursor.y = before

    def insert_lines(self, count: int | None = None) -> None:
        self._reach()
        super().insert_lines(count)

    def delete_lines(self, count: int | None = None) -> None:
        self._reach()
        super().delete_lines(count)

    def reverse_index(self) -> None:
        self._reach()
        super().reverse_index()

    def _reach(self) -> None:
        for y in range(self.lines):  # of rows that it has not made it would move none
            _ = self.buffer[y]

    def _row(self, y: int) -> list[Cell]:
        row = self.buffer[y]
        cells = []
        for x in range(min(max(row, default=-1) + 1, self.columns)):
            char = row[x]
            if char.data == "":
                continue
            blank = char.data == " "
            style = ("", "", False, False, False) if blank else (
                char.fg, char.bg, char.bold, char.underscore, char.reverse
            )  # fmt: skip
            cells.append((unicodedata.normalize("NFC", char.data), *style))
        while cells and cells[-1][0] == " ":
            cells.pop()
        return cells

    def _screen(self) -> list[list[Cell]]:
        rows = [self._row(y) for y in range(self.lines)]
        while rows and not rows[-1]:
            rows.pop()
        return rows

    @property
    def rows(self) -> list[list[Cell]]:
        rows = self.past + self._screen()
        while rows and not rows[-1]:
            rows.pop()
        return rows


def terminal_rows(data: bytes, columns: int | None, height: int = 24) -> list[list[Cell]]:
    """Return the rows that a terminal shows of output in the end; columns None for a pipe."""
    if columns is None:
        data = data.replace(b"\n", b"\r\n")
    terminal = Terminal(columns or WIDE, height)
    stream = Stream(terminal)
    stream.use_utf8 = False  # otherwise it has no line drawing
    stream.feed(data.decode("utf-8", "replace"))
    return terminal.rows


class Viewer:
    """Shows texts of the wire by their lines, as a page does."""

    def __init__(self) -> None:
        self.lines: dict[int, str] = {}
        self.status = ""
        self._goes_on: int | None = None  # the line of the last piece, and the pieces so far
        self._pieces = ""

    def take(self, text: str, line: int) -> None:
        """Show a text."""
        if line == 0:
            self.status = text.removesuffix(REPLACED)
            return
        before = self._pieces if self._goes_on == line else ""
        if text.endswith(REPLACED):
            self.lines[line] = before + text[:-1]
            return
        self.lines[line] = self._pieces = before + text.removesuffix(GOES_ON)
        self._goes_on = line if text.endswith(GOES_ON) else None

    def rows(self, columns: int | None) -> list[list[Cell]]:
        """Return the rows that a terminal shows of the lines."""
        ordered = [text for _, text in sorted(self.lines.items())]
        return shown(ordered, columns)


def shown(lines: Sequence[str], columns: int | None) -> list[list[Cell]]:
    """Return the rows that a terminal shows of lines without cursor movements."""
    data = "".join(f"{line}\r\n" for line in lines).encode()
    return terminal_rows(data, columns or WIDE)


def reads(data: bytes, cuts: Iterable[int]) -> list[bytes]:
    """Return output in the parts in which it is read."""
    places = [0, *sorted({cut % (len(data) + 1) for cut in cuts}), len(data)]
    return [data[start:end] for start, end in zip(places, places[1:], strict=False)]


def texts_of(
    parts: Sequence[bytes], columns: int | None, looks: Sequence[bool] = ()
) -> list[tuple[str, int]]:
    """Return the texts of the wire and their lines; `looks` says after which parts time passes."""
    lines, found = Lines(columns=columns), list[tuple[str, int]]()
    for at, part in enumerate(parts):
        for texts in [
            lines.feed(part),
            *([lines.partial()] if at < len(looks) and looks[at] else []),
        ]:
            found += zip(texts, texts.numbers, strict=True)
    texts = lines.finish()
    return found + list(zip(texts, texts.numbers, strict=True))
