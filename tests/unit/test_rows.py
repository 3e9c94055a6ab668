"""The screen of a terminal, sequence by sequence, beside a terminal emulator that knows them."""

from __future__ import annotations

import random

import pytest

pytest.importorskip("pyte")

from tests.screens import Viewer, reads, shown, terminal_rows, texts_of
from ws_hub.lines import Lines
from ws_hub.rows import FULL_SCREEN

THREE = "a\r\nbb\r\nccc\r\n"
SEQUENCES = {
    "a reverse index at the top moves all down": f"{THREE}\x1b[H\x1bMtop",
    "scroll down": f"{THREE}\x1b[Tx",
    "scroll down by more rows than there are": f"{THREE}\x1b[99Tx",
    "scroll up": f"{THREE}d\x1b[2Se",
    "repeat the last character": "ab\x1b[3bc",
    "repeat nothing": "\x1b[3bc",
    "save and restore": "ab\x1b[scd\x1b[uX",
    "restore what was not saved": "ab\r\ncd\x1b8X",
    "insert mode": "abc\r\x1b[4hXY\x1b[4lZ",
    "insert mode pushes over the edge": "x" * 79 + "\r\x1b[4habc",
    "insert cells over the edge": "x" * 79 + "\r\x1b[9@ab",
    "edits where no row is": "\x1b[5B\x1b[P\x1b[2@\x1b[X\x1b[Kz",
    "no wrapping": "\x1b[?7l" + "x" * 90 + "yz\x1b[?7h",
    "no wrapping of a wide character": "\x1b[?7l" + "x" * 79 + "\u4e2d\u6587",
    "wrapping": "x" * 80 + "\r\n" + "y" * 81 + "\r\n",
    "wrapping over a row that is there": f"{THREE}\x1b[H\x1b[78Cabcdef",
    "wide characters at the edge": "x" * 79 + "\u4e2d\u6587",
    "accents": "e\u0301 \u4e2d\u0301",
    "an accent without a character": "\u0301x",
    "line drawing in both sets": "\x1b(0lqk\x1b(B \x1b)0\x0eqq\x0fq",
    "erase to here": f"{THREE}xyz\x1b[2D\x1b[1Kw\x1b[1J",
    "erase from here": f"{THREE}\x1b[2;2H\x1b[J",
    "insert and delete rows": f"{THREE}\x1b[2;1H\x1b[Lnew\x1b[3;1H\x1b[M",
    "by columns and rows": "\x1b[3dx\x1b[5Gy\x1b[2az\x1b[2ew\x1b[2Fv\x1b[2Eu\x1b[99Gt\x1b[99;99Hs",
    "tabs to the edge": "a\tb" + "\t" * 12 + "c",
    "backspace behind the last cell": "x" * 80 + "\by",
    "what is no sequence we act on": "a\x1b[1 qb\x1b[?2004hc\x1b]0;title\x07d\x1b=e",
    "a region of one row is none": "\x1b[5;5ra\r\nb",
    "index in a region": f"{THREE}\x1b[1;2r\x1b[2;1Hx\x1bD\x1b[r\x1b[2;1H",
    "rows inserted in a region": f"{THREE}\x1b[1;23r\x1b[1;1H\x1b[2Lx\x1b[r\x1b[5;1Hy",
    "the cursor stays above the region's end": f"{THREE}\x1b[1;3r\x1b[1;1H\x1b[9Bx\x1b[r",
    "a status row that is erased": "a\r\nb\r\n\x1b7\x1b[1;23r\x1b[24;1H10%\x1b8\x1b[Ac\r\n"
    "\x1b7\x1b[24;1H\x1b[K\x1b[r\x1b8d",
    "status rows that stay as they are": "a\r\n\x1b7\x1b[1;21r\x1b[23;1H\x1b[32mone\x1b[m"
    "\x1b[24;1Htwo\x1b8b\r\n\x1b[1;24r\x1b[24;1H\r\n",
    "a region that grows by a row": "a\r\n\x1b7\x1b[1;21r\x1b[22;1Hone\x1b[24;1Htwo\x1b8"
    "\x1b7\x1b[1;22r\x1b8b\x1b[24;1H\x1b[K\x1b[r",
    "a status row that the cursor reaches later": "a\r\n\x1b7\x1b[1;21r\x1b[23;1Hone\x1b[24;1Htwo"
    "\x1b8b\r\n\x1b7\x1b[r\x1b8c\x1b[23;5Hx\x1b[3;1H",
    "a status row that is one again": "a\r\n\x1b7\x1b[1;22r\x1b[24;1Htwo\x1b8\x1b7\x1b[r"
    "\x1b[1;22r\x1b[24;1H\x1b[K\x1b[r\x1b8b",
    "status rows that scroll": "a\r\n\x1b7\x1b[1;22r\x1b[24;1Htwo\x1b8\x1b7\x1b[r\x1b8\x1b[2Sb",
    "more rows than the screen has, in a region": "".join(
        ["\x1b[1;20r", *[f"line {n}\r\n" for n in range(60)], "\x1b[r\x1b[21;1Hend"]
    ),
    "the reverse index stays below the top": "\x1b[5;1Hx\x1bMy\x1b[1;1H\x1b[9Az",
    "a region below the top": f"{THREE}\x1b[2;9r\x1b[2;1H\x1bMx\x1b[1;1H\x1b[9Aa"
    "\x1b[3;1H\x1b[9Ay\x1b[r",
    "a line longer than the screen": "x" * 20_000 + "\r\nend",
}


def show(texts: list[tuple[str, int]]) -> Viewer:
    viewer = Viewer()
    for text, line in texts:
        viewer.take(text, line)
    return viewer


def lines(data: str, columns: int | None = 80, *, rests: bool = False) -> list[str]:
    texts = texts_of([data.encode()], columns, [rests])
    return [text for _, text in sorted(show(texts).lines.items())]


@pytest.mark.parametrize("name", SEQUENCES)
def test_a_sequence_leaves_the_rows_of_a_terminal(name: str) -> None:
    data = SEQUENCES[name].encode()
    wanted = terminal_rows(data, 80)
    for cuts in ([], [len(data) // 2], list(range(len(data)))):
        parts = reads(data, cuts[:500])
        for looks in ([False] * len(parts), [True] * len(parts)):
            texts = texts_of(parts, 80, looks)
            assert show(texts).rows(80) == wanted
            final = [each for each in texts if not each[0].endswith("\r")]
            assert show(final).rows(80) == wanted


@pytest.mark.parametrize(
    ("data", "wanted"),
    [
        ("a\r\nb\x1bcnew", ["a", "b", "new"]),  # a reset clears: what was there stays
        ("a\x1b[2J\x1b[Hb", ["a", "b"]),
        ("one\r\n\x1b[?1049hhidden\x1b[2J\x1b[mx\x1b[?1049ltwo", ["one", FULL_SCREEN, "two"]),
        ("one\x1b[?1049hhid\tden\x1b[?1049ltwo", ["one", FULL_SCREEN, "two"]),
        ("\x1b[?47hhidden\x1b7\x1bctwo", [FULL_SCREEN, "two"]),
        ("\x1b[?1047hhidden", [FULL_SCREEN]),
        ("a\x1b[?1049lb", ["ab"]),
        ("a\x1b[<1ub\x1b[>4;1mc\x1b[=1;1ud", ["abcd"]),
        ("a\x1b\x01b", ["ab"]),  # an ESC that begins nothing
        ("a\x1b[" + "1;" * 4000 + "mb", None),  # too long for a sequence
        ("a\x1b[5", ["a"]),  # one that does not end
        ("a\x1b[99999999999999Gb", None),
        ("a\x1bPq#0\x1b\\b\x1b_x\x1b\\c\x1b[9`d", ["abc     d"]),  # strings are no text
        ("a\r\n\x1b[2r\x1b[9;3rb", ["b"]),  # a region that ends where it begins is none
        # pyte has no half of a wide character, no ESC E, no other erasing, and scrolls emptiness.
        ("\u4e2d\u6587\u4e2d\r\x1b[Cx\x1b[2Cy", [" x\u6587y "]),
        ("a\x1bEb\x1bDc", ["a", "b", " c"]),
        (f"{THREE}xyz\r\x1b[7K\x1b[3J", ["a", "bb", "ccc", "xyz"]),
        (f"{THREE}d\x1b[999Se", ["a", "bb", "ccc", "d", "", "", "", " e"]),
        # In a region below the top a terminal loses what scrolls; here it stays.
        ("t\r\n\x1b[2;3r\x1b[3;1Ha\r\nb\r\nc\r\n\x1b[r", ["t", "", "a", "b", "c"]),
    ],
)
def test_what_a_terminal_emulator_is_no_judge_of(data: str, wanted: list[str] | None) -> None:
    for rests in (False, True):
        found = lines(data, rests=rests)
        if wanted is None:
            assert len(found) == 1 and found[0].startswith("a") and found[0].endswith("b")
        else:
            assert found == wanted


def test_the_status_row_is_shown_beside_the_lines_and_gone_at_the_end() -> None:
    made = Lines(columns=80)
    texts = made.feed(b"a\r\n\x1b7\x1b[1;22r\x1b[23;1H10%\x1b[24;1Htwo\x1b8b\r\n")
    states = made.partial()
    assert [*zip(texts, texts.numbers, strict=True)] == [("a", 1), ("b", 2)]
    assert ("10% two\r", 0) in zip(states, states.numbers, strict=True)
    assert made.waiting is False
    made.feed(b"\x1b7\x1b[23;1H20%\x1b8")
    assert made.waiting
    rest = made.finish()
    assert [*zip(rest, rest.numbers, strict=True)] == [("\r", 0)]


def test_status_rows_that_are_erased_leave_no_empty_lines() -> None:
    """As apt ends, whose lines are the ones that it has written."""
    made = Lines(columns=80)
    made.feed(b"a\r\n\x1b7\x1b[1;23r\x1b[24;1H10%\x1b8b\r\n")
    copies = [made.copy()]
    made.feed(b"\x1b7\x1b[r\x1b8")  # the row waits
    assert not made.empty
    copies.append(made.copy())
    texts = made.feed(b"\x1b[J")
    assert made.empty
    assert (texts, made.feed(b"c\r\n"), made.finish()) == ([], ["c"], [])
    assert copies[0].feed(b"\x1b7\x1b[r\x1b8\x1b[Jc\r\n") + copies[0].finish() == ["c"]
    assert copies[1].finish() == [""] * 21 + ["10%"]  # nobody has erased it


@pytest.mark.parametrize("columns", [None, 80])
def test_a_copy_goes_on_as_the_original_does(columns: int | None) -> None:
    for data in SEQUENCES.values():
        for at in (len(data) // 3, len(data) // 2, len(data) - 1):
            made = Lines(columns=columns)
            made.feed(data[:at].encode())
            copy, rest = made.copy(), data[at : at + 3000].encode()
            ends = [[*each.feed(rest), *each.partial(), *each.finish()] for each in (made, copy)]
            assert ends[0] == ends[1]


def test_a_long_line_is_given_in_pieces_while_it_is_drawn() -> None:
    for columns in (None, 80):
        made = Lines(columns=columns)
        texts = made.feed(b"\x1b[32m" + b"x" * 30_000)
        pieces = [each for each in texts if each.endswith("\x17")]
        assert pieces and max(map(len, texts)) <= 8192 + 32
        whole = "".join(each.removesuffix("\x17") for each in [*texts, *made.finish()])
        assert whole.count("x") == 30_000


def test_the_cursor_goes_up_in_a_line_that_is_longer_than_the_screen() -> None:
    data = b"x" * 20_000 + b"\x1b[3Ayy\r\nend"
    assert show(texts_of([data], 80)).rows(80) == terminal_rows(data, 80)


def test_a_long_line_of_a_pipe_that_is_drawn_over_keeps_its_pieces() -> None:
    data = b"ab\b" + b"x" * 9000 + b"\rend\n"
    assert "".join(lines(data.decode(), None)).count("x") > 8000


def test_random_regions_and_scrolls_leave_the_rows_of_a_terminal() -> None:
    """Regions that begin at the top, in which no text is drawn below their end."""
    tokens = ["x\r\n", "wide ", "\x1bM", "\x1bD", "\x1b[L", "\x1b[M"]
    for seed in range(150):
        chance = random.Random(f"{seed} regions")
        parts = [THREE]
        for _ in range(chance.choice([3, 10, 40])):
            bottom = chance.randint(2, 24)
            parts.append(f"\x1b[1;{bottom}r\x1b[{chance.randint(1, bottom)};1H")
            for _ in range(chance.randint(1, 6)):
                parts.append(chance.choice(tokens))
        data = "".join([*parts, "\x1b[r\x1b[24;1H"]).encode()
        cuts = [chance.randrange(len(data)) for _ in range(chance.choice([0, 2, 9]))]
        looks = [chance.random() < 0.5 for _ in range(len(cuts) + 1)]
        texts = texts_of(reads(data, cuts), 80, looks)
        assert show(texts).rows(80) == terminal_rows(data, 80), (seed, data)


def test_rows_are_those_of_lines_without_movements() -> None:
    data = "".join(f"{'y' * n}\r\n" for n in range(0, 200, 7))
    assert shown(lines(data), 80) == terminal_rows(data.encode(), 80)
