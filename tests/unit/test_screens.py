"""Recorded outputs and random ones, against a terminal emulator (`tests.screens`).

The recordings are of real programs, with and without a terminal of 80 and 200 columns, and of
scripts that draw as docker and apt do; `tests/recordings/record.py` makes them.
"""

from __future__ import annotations

import io
import random

import pytest

pytest.importorskip("pyte")

from tests.recordings.record import load
from tests.screens import Viewer, reads, shown, terminal_rows, texts_of
from ws_hub.cli.terminal import Screen, plain_text

SEEDS = 150


RECORDINGS = {
    f"{name}-{columns or 'pipe'}": (columns, data) for (name, columns), data in load().items()
}


def show(texts: list[tuple[str, int]]) -> Viewer:
    viewer = Viewer()
    for text, line in texts:
        viewer.take(text, line)
    return viewer


def kept(texts: list[tuple[str, int]]) -> list[tuple[str, int]]:
    return [each for each in texts if not each[0].endswith("\r")]


@pytest.mark.parametrize("name", RECORDINGS)
def test_rows_of_a_recording_are_those_of_a_terminal_live_late_and_in_a_file(name: str) -> None:
    columns, data = RECORDINGS[name]
    wanted = terminal_rows(data, columns)
    chance = random.Random(name)
    for cuts in (0, 3, 40):
        parts = reads(data, [chance.randrange(len(data)) for _ in range(cuts)])
        texts = texts_of(parts, columns, [chance.random() < 0.5 for _ in parts])
        assert show(texts).rows(columns) == wanted
        assert show(kept(texts)).rows(columns) == wanted  # what a history keeps
    out = io.StringIO()
    screen = Screen(out, colours=False)
    for text, line in texts:
        screen.text("p", text, line)
    screen.settle("p")
    plain = [[cell[:1] for cell in row] for row in wanted]
    lines = out.getvalue().split("\n")
    assert [[cell[:1] for cell in row] for row in shown(lines, columns)] == plain
    assert plain_text(out.getvalue()) == out.getvalue()


def token(chance: random.Random, newline: str) -> str:
    """Return some text, or a sequence that colours, moves or erases."""
    number = chance.choice(["", 1, 2, 3, 5])
    colour = chance.choice(["", 0, 1, 31, "1;32", 7, 39, "38;5;123", "48;2;1;2;3", 4, 24, 22, 27])
    words = ["a", "bc", "done", "100%", "\u00e9", "=====>", "x" * 30, " ", "\t"]
    kinds = [
        (30, chance.choice(words)),
        (12, newline),
        (8, "\r"),
        (4, "\b"),
        (8, f"\x1b[{colour}m"),
        (13, f"\x1b[{number}{chance.choice('ABCDEFG')}"),
        (7, f"\x1b[{chance.choice(['', 0, 1, 2])}K"),
        (4, f"\x1b[{chance.choice(['', 0, 1])}J"),
        (4, chance.choice(["\x1b7", "\x1b8"])),
        (3, f"\x1b[{chance.choice([1, 2])}{chance.choice('PX@')}"),
        (2, f"\x1b[{chance.choice([1, 2])}{chance.choice('LM')}"),
        (1, f"\x1b[{chance.randint(1, 5)};{chance.randint(1, 20)}H"),
        (1, chance.choice(["\x1bM", "\x1bD"])),
        (1, "\x1b(0lqk\x1b(B"),
        (1, chance.choice(["\x1b]0;a title\x07", "\x1b[?25l", "\x1b[6n"])),
        (2, f"\x1b[0Ksection_{chance.choice(['start', 'end'])}:1:a\r\x1b[0K"),
        (1, chance.choice(["\x1b]8;;http://a/b\x07", "\x1b]8;;\x1b\\"])),
        (1, chance.choice("\f\v")),
    ]
    return chance.choices([each for _, each in kinds], [weight for weight, _ in kinds])[0]


@pytest.mark.parametrize("columns", [None, 20, 80])
def test_random_sequences_leave_the_rows_of_a_terminal(columns: int | None) -> None:
    for seed in range(SEEDS):
        chance = random.Random(f"{columns} {seed}")
        newline = "\n" if columns is None else "\r\n"
        count = chance.choice([5, 10, 30, 100, 300])
        data = "".join(token(chance, newline) for _ in range(count)).encode()
        cuts = [chance.randrange(len(data) + 1) for _ in range(chance.choice([0, 1, 5, 20]))]
        parts = reads(data, cuts)
        texts = texts_of(parts, columns, [chance.random() < 0.5 for _ in parts])
        assert show(texts).rows(columns) == terminal_rows(data, columns), (seed, data)


@pytest.mark.parametrize("down", ["\x1b[1E", "\r\x1b[B"])
def test_a_line_that_is_left_without_a_newline_comes_before_the_next(down: str) -> None:
    parts = [f"done{down}".encode(), b"next\r\n"]
    assert texts_of(parts, 80) == [("done", 1), ("next", 2)]


def test_a_file_gets_the_text_of_links_and_sections_alone() -> None:
    data = (
        b"\x1b[0Ksection_start:1:a\r\x1b[0K\x1b[1mBuild\x1b[0m\n"
        b"see \x1b]8;id=1;https://a.example/\x1b\\the \x1b[31mreport\x1b]8;;\x07\x1b[0m.\n"
        b"\x1b[0Ksection_end:2:a\r\x1b[0K\n"
    )
    out = io.StringIO()
    screen = Screen(out, colours=False)
    for text, line in texts_of([data], None):
        screen.text("p", text, line)
    screen.settle("p")
    assert out.getvalue() == "Build\nsee the report.\n\n"
