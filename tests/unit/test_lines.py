"""Texts for the wire out of a program's bytes."""

from __future__ import annotations

import functools
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ws_hub.lines import MAX_PIECE, Lines, Texts, join


def feed(lines: Lines, *chunks: bytes) -> list[str]:
    return [text for chunk in chunks for text in lines.feed(chunk)]


def whole(*chunks: bytes, max_piece: int = MAX_PIECE) -> list[str]:
    lines = Lines(max_piece)
    return feed(lines, *chunks) + lines.finish()


# --- whole lines ---------------------------------------------------------------------------


def test_each_line_is_one_text_without_its_newline() -> None:
    assert Lines().feed(b"one\ntwo\n\nfour\n") == ["one", "two", "", "four"]


def test_a_line_waits_for_its_end_across_chunks() -> None:
    lines = Lines()
    assert feed(lines, b"Comp", b"iling") == []
    assert lines.feed(b"...\nnext") == ["Compiling..."]


def test_the_last_line_needs_no_newline() -> None:
    assert whole(b"one\ntwo") == ["one", "two"]


def test_nothing_is_left_after_a_last_newline() -> None:
    assert whole(b"one\n") == ["one"]
    assert whole() == []


def test_the_newline_of_a_terminal_ends_a_line() -> None:
    assert whole(b"one\r\ntwo\r", b"\nthree\r\r\nfour\r", b"\r\n") == [
        "one",
        "two",
        "three",
        "four",
    ]


def test_only_newlines_end_a_line() -> None:
    text = "a\x1cd\x85e\u2028f\x00g\x1b[31mh\x1b[0m"
    assert whole(text.encode() + b"\n") == [text]


def test_form_feeds_and_vertical_tabs_move_down_as_in_a_terminal() -> None:
    assert whole(b"a\x0cb\x0bc\n") == ["a", " b", "  c"]


def test_each_line_begins_and_ends_without_colours() -> None:
    texts = whole(b"\x1b[31mred\nalso\x1b[m none\n")
    assert texts == ["\x1b[0;31mred\x1b[0m", "\x1b[0;31malso\x1b[0m none"]


# --- characters ----------------------------------------------------------------------------


def test_a_character_may_come_in_parts() -> None:
    assert whole(*(bytes([byte]) for byte in "äß€😀\n".encode())) == ["äß€😀"]


def test_undecodable_bytes_are_replaced() -> None:
    assert whole(b"a\xff\xfeb\n\xc3", b"(\n") == ["a\ufffd\ufffdb", "\ufffd("]


def test_half_a_character_at_the_end_is_replaced() -> None:
    assert whole(b"a\xe2\x82") == ["a\ufffd"]


# --- a line that is written over -----------------------------------------------------------


def test_each_state_of_a_progress_line_is_a_text_and_the_last_one_is_the_line() -> None:
    assert whole(b"10%\r20%\r30%\n") == ["10%\r", "20%\r", "30%"]


def test_a_line_that_ends_in_returns_stays_as_it_is() -> None:
    assert whole(b"100%\r\r", b"\r", b"\nnext") == ["100%", "next"]
    assert whole(b"100%\r") == ["100%"]


def test_a_return_before_the_text_writes_over_what_was_there() -> None:
    assert whole(b"\r10%", b"\r20%", b"\r30%\n") == ["10%\r", "20%\r", "30%"]


def test_a_newline_after_a_shown_state_repeats_it_as_the_line() -> None:
    lines = Lines()
    assert lines.feed(b"100%\r") == []
    assert lines.partial() == ["100%\r"]
    assert lines.feed(b"\n") == ["100%"]


def test_a_state_that_was_shown_is_not_shown_again() -> None:
    lines = Lines()
    lines.feed(b"10%\r")
    assert lines.partial() == ["10%\r"]
    assert not lines.waiting
    assert lines.partial() == []
    assert lines.feed(b"20%\r30%") == ["20%\r"]


# --- a line that is not finished -----------------------------------------------------------


def test_a_prompt_can_be_shown_and_is_repeated_in_full() -> None:
    lines = Lines()
    lines.feed(b"Password: ")
    assert lines.waiting
    assert lines.partial() == ["Password: \r"]
    assert lines.feed(b"granted\n") == ["Password: granted"]
    assert lines.empty


def test_nothing_is_shown_of_an_empty_line() -> None:
    lines = Lines()
    lines.feed(b"one\n\r")
    assert not lines.waiting
    assert lines.partial() == []
    assert lines.finish() == []


def test_a_line_that_was_shown_counts_as_a_line_at_the_end() -> None:
    lines = Lines()
    lines.feed(b"bye")
    assert lines.partial() == ["bye\r"]
    assert lines.finish() == ["bye"]


# --- a very long line ----------------------------------------------------------------------


def test_a_long_line_is_cut_into_pieces_that_say_they_go_on() -> None:
    assert whole(b"abcdefgh\nx\n", max_piece=3) == ["abc\x17", "def\x17", "gh", "x"]


def test_a_line_of_just_the_limit_is_not_cut() -> None:
    assert whole(b"abc\ndef", b"ghi\n", max_piece=3) == ["abc", "def\x17", "ghi"]
    assert whole(b"abcdef\n", max_piece=3) == ["abc\x17", "def"]


def test_a_long_line_in_the_middle_of_a_chunk_is_cut() -> None:
    assert whole(b"a\nbbbbbb\nc\n", max_piece=4) == ["a", "bbbb\x17", "bb", "c"]


def test_pieces_are_given_out_before_the_line_is_over() -> None:
    lines = Lines(3)
    assert lines.feed(b"abcdefg") == ["abc\x17", "def\x17"]
    assert lines.cut
    assert lines.partial() == ["g\r"]
    assert lines.feed(b"\n") == ["g"]
    assert not lines.cut


def test_a_cut_line_can_be_broken_off_once() -> None:
    lines = Lines(3)
    assert lines.break_off() == []
    ready = lines.feed(b"abcd")
    ready += lines.break_off() + lines.break_off()
    ready += lines.feed(b"e\n")
    assert ready == ["abc\x17", "", "de"]
    assert list(join(ready)) == ["abc", "de"]


def test_pieces_end_between_characters() -> None:
    assert whole("€😀äé\n".encode(), max_piece=2) == ["€😀\x17", "äé"]


@pytest.mark.parametrize("character", ["x", "\x01", "😀", '"', "é"])
def test_a_line_of_ten_megabytes_comes_whole_in_pieces_below_64_kib(character: str) -> None:
    line = character * (10_000_000 // len(character.encode()))
    data = line.encode()
    texts = whole(*(data[at : at + 65536] for at in range(0, len(data), 65536)))
    assert len(texts) == -(-len(line) // MAX_PIECE)
    assert max(len(json.dumps(text, ensure_ascii=False).encode()) for text in texts) < 60_000
    assert list(join(texts)) == [line]


def test_a_line_that_ends_in_the_mark_of_a_piece_stays_distinct() -> None:
    texts = whole(b"odd\x17\n", b"a\nb\x17\nc\n")
    assert list(join(texts)) == ["odd\x17", "a", "b\x17", "c"]


# --- join ----------------------------------------------------------------------------------


def test_join_leaves_out_what_was_replaced_and_puts_pieces_together() -> None:
    assert list(join(["10%\r", "done", "ab\x17", "cd\r", "cd\x17", "e", ""])) == [
        "done",
        "abcde",
        "",
    ]


def test_join_yields_a_line_whose_pieces_stop() -> None:
    assert list(join(["ab\x17", "cd\x17"])) == ["abcd"]


# --- any bytes, cut anywhere ---------------------------------------------------------------

CHUNKS = st.lists(
    st.one_of(
        st.binary(max_size=12).map(lambda data: bytes(c for c in data if 32 <= c < 127 or c > 247)),
        st.lists(
            st.sampled_from([b"\n", b"\r", b"\r\n", b"a", b"bc", b"\x17", "é€".encode(), b"\xff"]),
            max_size=12,
        ).map(b"".join),
    ),
    max_size=8,
)
LOOKS = st.lists(st.booleans(), min_size=8, max_size=8)


def said(chunks: list[bytes], looks: list[bool], max_piece: int) -> list[str]:
    lines, texts = Lines(max_piece), []
    for chunk, look in zip(chunks, looks, strict=False):
        texts += lines.feed(chunk)
        if look:
            texts += lines.partial()
    return texts + lines.finish()


def expected(data: bytes) -> list[str]:
    """The lines of a terminal: what is written over stays where nothing new is."""
    lines = data.decode("utf-8", "replace").split("\n")
    if not lines[-1].strip("\r"):
        lines.pop()
    return [
        functools.reduce(lambda old, new: new + old[len(new) :], line.split("\r")) for line in lines
    ]


@given(CHUNKS, LOOKS)
def test_any_bytes_come_out_as_their_lines_however_they_are_cut(
    chunks: list[bytes], looks: list[bool]
) -> None:
    chunks = [chunk.replace(b"\x17", b"") for chunk in chunks]  # beside a "\r" it shows nothing
    texts = said(chunks, looks, MAX_PIECE)
    assert list(join(texts)) == expected(b"".join(chunks))
    assert not any("\n" in text or "\r" in text[:-1] for text in texts)


@given(CHUNKS, LOOKS, st.integers(1, 5))
def test_pieces_lose_nothing_and_keep_the_limit(
    chunks: list[bytes], looks: list[bool], max_piece: int
) -> None:
    chunks = [chunk.replace(b"\r", b"") for chunk in chunks]
    texts = said(chunks, looks, max_piece)
    assert list(join(texts)) == expected(b"".join(chunks))
    assert all(len(text) <= max_piece + 1 for text in texts)


# --- times -----------------------------------------------------------------------------------


def timed(texts: Texts) -> list[tuple[str, float]]:
    """The texts, and when each was read."""
    return [(text, texts.times.get(at, texts.time)) for at, text in enumerate(texts)]


def test_a_line_has_the_time_at_which_its_end_was_read() -> None:
    lines = Lines()
    assert timed(lines.feed(b"one\ntwo\nthr", 1.0)) == [("one", 1.0), ("two", 1.0)]
    assert timed(lines.partial()) == [("thr\r", 1.0)]
    assert timed(lines.feed(b"ee\nfour", 2.0)) == [("three", 2.0)]
    assert timed(lines.finish()) == [("four", 2.0)]


def test_a_row_has_the_time_at_which_it_changed_last() -> None:
    lines = Lines()
    lines.feed(b"a: 0\nb: 0\n", 1.0)
    assert timed(lines.feed(b"\x1b[2Aa: 1\n\n", 2.0)) == []
    assert timed(lines.partial()) == [("a: 1\r", 2.0)]
    lines.feed(b"\x1b[2Aa: 1\nb: 0\n", 3.0)  # the same once more
    assert timed(lines.partial()) == []
    lines.feed(b"\x1b[1Ab: 1\n", 4.0)
    lines.feed(b"c\n", 5.0)
    assert timed(lines.finish()) == [("a: 1", 2.0), ("b: 1", 4.0)]


def test_rows_that_leave_the_screen_have_times_of_their_own() -> None:
    lines = Lines(height=3)
    lines.feed(b"a\nb\n", 1.0)
    lines.feed(b"\x1b[2AA\nB\n", 2.0)
    texts = lines.feed(b"c\n\x1b[Kd\ne\nf\n", 3.0)
    assert timed(texts) == [(text, 2.0 if text in "AB" else 3.0) for text in texts]
    assert sorted(texts) == ["A", "B", "c", "d", "e", "f"]


def test_a_part_of_texts_keeps_their_numbers_and_times() -> None:
    texts = Texts()
    for number, text in enumerate("abcd"):
        texts.put(text, number)
    texts.time, texts.times = 5.0, {1: 1.0, 3: 3.0}
    part = texts.part(1, 3)
    assert (part, part.numbers, part.time, part.times) == (["b", "c"], [1, 2], 5.0, {0: 1.0})


def test_texts_that_are_published_later_keep_the_time_of_their_reading() -> None:
    texts = Texts(["a", "b"])
    texts.time, texts.times = 5.0, {1: 1.0}
    texts.not_before(4.0)
    assert (texts.time, texts.times) == (5.0, {1: 1.0})
    texts.not_before(9.0)
    assert (texts.time, texts.times) == (9.0, {0: 5.0, 1: 1.0})
    unknown = Texts(["a"])
    unknown.not_before(9.0)
    assert (unknown.time, unknown.times) == (0.0, {})


# --- sections ------------------------------------------------------------------------------

START = "section_start:1764331200:build[collapsed=true]"
END = "section_end:1764331260:build"


def mark(section: str) -> str:
    return f"\x1b]7300;{section}\x1b\\"


def gitlab(section: str) -> str:
    return f"\x1b[0K{section}\r\x1b[0K"


@pytest.mark.parametrize("columns", [None, 80])
@pytest.mark.parametrize("size", [1, 2, 7, 1000])
def test_a_section_that_a_terminal_does_not_show_is_a_mark(columns: int | None, size: int) -> None:
    newline = "\n" if columns is None else "\r\n"
    text = f"{gitlab(START)}Build{newline}make{newline}{gitlab(END)}"
    data = f"{text}{gitlab('section_start:1764331261:b')}{newline}last{newline}".encode()
    lines = Lines(columns=columns)
    chunks = [data[at : at + size] for at in range(0, len(data), size)]
    assert feed(lines, *chunks) + lines.finish() == [
        f"{mark(START)}Build",
        "make",
        mark(END) + mark("section_start:1764331261:b"),
        "last",
    ]


def test_a_section_that_ends_with_the_output_is_a_line() -> None:
    assert whole(f"make\n{gitlab(END)}".encode()) == ["make", mark(END)]


def test_the_text_of_a_section_that_is_not_erased_is_text() -> None:
    for text in (f"{START}\n", f"{START}\r\n", f"{START}\x1b[K\n", f"x\r{START}\n"):
        assert whole(text.encode())[-1] == START


@pytest.mark.parametrize("section", ["section_start:x:a", "section_mid:1:a", "section_end:1:", "a"])
def test_what_is_no_section_leaves_no_mark(section: str) -> None:
    assert whole(f"{gitlab(section)}text\n".encode())[-1] == "text"


def test_a_mark_that_a_program_writes_itself_is_kept_and_another_sequence_is_not() -> None:
    data = f"{mark(START)}Build{mark('x')}{mark(END)}\n\x1b]7301;{END}\x07\n"
    assert whole(data.encode()) == [f"{mark(START)}{mark(END)}Build", ""]


def test_marks_of_a_long_line_are_in_its_first_piece_only() -> None:
    for columns in (None, 50):
        lines = Lines(100, columns=columns, height=2)
        end = "\n" if columns is None else "\r\n"
        texts = feed(lines, (gitlab(END) + 400 * "a" + end).encode()) + lines.finish()
        assert list(join(texts)) == [mark(END) + 400 * "a"]


def test_a_line_has_few_marks() -> None:
    [text] = whole((1000 * gitlab(END)).encode())
    assert text.count(END) * len(mark(END)) == len(text) <= 2048


# --- another size of the terminal ----------------------------------------------------------


def resized(before: str, size: tuple[int, int], after: str) -> list[str]:
    lines = Lines(columns=10, height=4)
    texts = [*lines.feed(before.encode()), *lines.resize(*size), *lines.feed(after.encode())]
    return [each for each in [*texts, *lines.finish()] if not each.endswith("\r")]


def test_after_a_change_of_size_rows_can_still_be_drawn_anew() -> None:
    assert resized("a\r\nb\r\n", (20, 6), "\x1b[2AA\r\n") == ["a", "b", "A"]
    assert resized("a\r\nb\r\n", (5, 6), "\x1b[1AB\r\n") == ["a", "b", "B"]


def test_after_a_change_of_size_lines_wrap_at_the_new_one() -> None:
    # A return behind a wrapped row goes back to the beginning of that row.
    assert resized("", (20, 4), "a" * 15 + "\rb\r\n") == ["b" + "a" * 14]
    assert resized("\x1b[1mx\r\n", (5, 4), "a" * 7 + "\rb\r\n")[1:] == ["\x1b[0;1maaaaaba\x1b[0m"]


def test_a_wrapped_line_is_what_it_was_before_the_change_of_size() -> None:
    assert resized("\x1b[A" + "a" * 15, (20, 4), "\rb\r\n") == ["a" * 15, "b"]
    assert resized("c\r\n" + "a" * 15 + "\r\n", (20, 4), "\x1b[3AX\r\n") == ["c", "a" * 15, "X"]


def test_rows_that_have_no_room_any_more_are_kept_as_they_are() -> None:
    assert resized("\x1b[Aa\r\nb\r\nc\r\n", (10, 2), "\x1b[9AX\r\n") == ["a", "b", "c", "X"]


def test_an_unfinished_line_goes_on_after_a_change_of_size() -> None:
    assert resized("\x1b[1m50%", (20, 6), "\r99%\r\n") == ["\x1b[0;1m99%\x1b[0m"]
    assert resized("50%", (20, 6), "\r99%\r\n") == ["99%"]
