"""Screen and describe: the texts of processes and other messages in a terminal and in a file."""

from __future__ import annotations

import datetime
import io
import os

import pytest

from ws_hub.cli.margin import Margin, Origin
from ws_hub.cli.terminal import Screen, describe
from ws_hub.protocol.message import Message


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


class Broken(io.StringIO):
    def write(self, text: str) -> int:
        raise BrokenPipeError


def test_a_file_gets_each_line_once_in_its_last_state() -> None:
    out = io.StringIO()
    screen = Screen(out)
    for text in ("begin", "10%\r", "20%\r", "100%", "a\x17", "b\x17", "c"):
        screen.text("p", text)
    assert out.getvalue() == "begin\n100%\nabc\n"


def test_fault_100_a_line_that_ends_in_a_newline_is_one_line() -> None:
    out = io.StringIO()
    screen = Screen(out)
    for text in ("one\n", "two\r\n", "\n", "a\x17", "b\n", "last"):
        screen.text("p", text)
    assert out.getvalue() == "one\ntwo\n\nab\nlast\n"


def test_a_terminal_shows_an_unfinished_line() -> None:
    out = Terminal()
    screen = Screen(out)
    for text in ("10%\r", "100%"):
        screen.text("p", text)
    assert out.getvalue() == "10%\x1b[K\r100%\x1b[K\n"


def test_lines_of_several_sources_begin_with_their_name() -> None:
    out = io.StringIO()
    screen = Screen(out, named=True)
    for text in ("one", "a\x17", "b"):
        screen.text("p", text)
    screen.line("news")
    assert out.getvalue() == "p: one\np: ab\nnews\n"


def test_a_line_that_is_interrupted_begins_again_with_its_name() -> None:
    out = io.StringIO()
    screen = Screen(out, named=True)
    for source, text in (("p", "a\x17"), ("q", "x"), ("p", "b")):
        screen.text(source, text)
    assert out.getvalue() == "p: a\nq: x\np: b\n"


def test_another_line_does_not_continue_an_unfinished_one() -> None:
    out = Terminal()
    screen = Screen(out)
    screen.text("p", "10%\r")
    screen.line("news")
    assert out.getvalue() == "10%\x1b[K\r\nnews\x1b[K\n"


def test_a_closed_output_raises_nothing() -> None:
    screen = Screen(Broken())
    screen.text("p", "one")
    assert screen.gone
    screen.text("p", "two")


def test_the_buffer_of_a_closed_output_is_discarded() -> None:
    reading, writing = os.pipe()
    os.close(reading)
    with open(writing, "w", encoding="utf-8") as out:
        screen = Screen(out)
        screen.text("p", "one")
        assert screen.gone
        out.write("more")
        out.flush()  # would raise BrokenPipeError


TIME = "2026-02-20T01:17:56.123456Z"


@pytest.mark.parametrize(
    ("message", "line"),
    [
        (
            Message("process_status", "process:b", data={"status": "running"}),
            "process:b is running",
        ),
        (
            Message("process_status", "process:b", data={"status": "exited", "exitCode": 0}),
            "process:b exited 0",
        ),
        (
            Message(
                "process_status",
                "process:b",
                data={"status": "exited", "exitCode": -9, "signal": "SIGKILL"},
            ),
            "process:b was killed by SIGKILL",
        ),
        (
            Message("process_status", "process:b", data={"status": "failed", "error": "no"}),
            "process:b failed: no",
        ),
        (Message("process_status", "process:b", data="odd"), 'process:b "odd"'),
        (Message("event", "news", data={"event": "x", "data": {"a": 1}}), 'news x {"a": 1}'),
        (Message("event", "news", data={"event": "x", "data": None}), "news x"),
        (Message("event", "news", data=3), "news event 3"),
        (Message("error", data="limit"), "error limit"),
        (Message("own", "c", data=["é"]), 'c own ["é"]'),
        (
            Message(
                "event",
                "logs",
                data={"event": "log", "data": {"level": "ERROR", "name": "s", "message": "m"}},
            ),
            "logs ERROR s: m",
        ),
        (Message("error", data="a\x1b[2Jb\x9b\r\nc"), "error a\\x1b[2Jb\\x9b\\r\\nc"),
        (Message("error", data="a\u202eb\u2066c\u2028d"), "error a\\u202eb\\u2066c\\u2028d"),
        (
            Message(
                "process_status", "process:b", data={"status": "failed", "error": "a\nb\u202e"}
            ),
            "process:b failed: a\\nb\\u202e",
        ),
        (Message("own", "c", data="a\nb\u202e"), "c own a\nb\\u202e"),
        (Message("error", data="x", timestamp="no time"), "error x"),
    ],
)
def test_a_message_is_one_readable_line(message: Message, line: str) -> None:
    assert describe(message) == line


def test_a_line_begins_with_the_local_time() -> None:
    line = describe(Message("error", data="x", timestamp=TIME))
    assert line.endswith(":56 error x")
    assert len(line) == len("01:17:56 error x")


# --- times and streams -----------------------------------------------------------------------

START = datetime.datetime(2026, 2, 20, 1, 17, 56, tzinfo=datetime.UTC)


def origin(seconds: float, *, is_error: bool = False) -> Origin:
    return Origin(START + datetime.timedelta(seconds=seconds), is_error)


def lines_with(margin: Margin, *, terminal: bool = False, named: bool = False) -> list[str]:
    """What a screen shows of three lines, of which the second is of stderr."""
    out = Terminal() if terminal else io.StringIO()
    screen = Screen(out, margin=margin, named=named)
    screen.begin("p", START)
    screen.text("p", "one", 1, origin(0.5))
    screen.text("p", "two\x17", 2, origin(1.25, is_error=True))
    screen.text("p", " and more", 2, origin(1.25, is_error=True))
    screen.text("p", "three", 3, origin(3723.25))
    screen.settle("p")
    return out.getvalue().replace("\x1b[K", "").splitlines()


@pytest.mark.parametrize("terminal", [False, True])
def test_lines_begin_with_the_time_and_the_mark_of_their_stream(terminal: bool) -> None:
    assert lines_with(Margin("elapsed", marks=True), terminal=terminal) == [
        "0:00:00.500   one",
        "0:00:01.250 ! two and more",
        "1:02:03.250   three",
    ]
    assert lines_with(Margin("delta"), terminal=terminal) == [
        "   +0.500 one",
        "   +0.750 two and more",
        "+3722.000 three",
    ]


def test_the_clock_is_the_local_one_and_comes_before_the_name() -> None:
    first, *_ = lines_with(Margin("clock", marks=True), named=True)
    local = (START + datetime.timedelta(seconds=0.5)).astimezone()
    assert first == f"{local:%H:%M:%S}.500 p:   one"


def test_without_a_margin_lines_are_as_they_were_printed() -> None:
    assert lines_with(Margin()) == ["one", "two and more", "three"]


def test_a_program_that_is_started_again_counts_its_time_anew() -> None:
    out = io.StringIO()
    screen = Screen(out, margin=Margin("elapsed"))
    screen.text("p", "no start is known", origin=origin(7))
    screen.begin("p", START)
    screen.text("p", "one", origin=origin(8))
    screen.text("p", "no time is known")
    screen.begin("p", None)
    screen.text("p", "two", origin=origin(9))
    assert out.getvalue().splitlines() == [
        "0:00:00.000 no start is known",
        "0:00:08.000 one",
        "            no time is known",
        "0:00:00.000 two",
    ]


def test_a_row_that_is_drawn_anew_has_its_time_in_its_place(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("shutil.get_terminal_size", lambda: os.terminal_size((80, 24)))
    out = Terminal()
    screen = Screen(out, margin=Margin("delta", marks=True))
    screen.begin("p", START)
    screen.text("p", "a: 0", 1, origin(1))
    screen.text("p", "b: 0", 2, origin(2))
    out.seek(0)
    out.truncate()
    screen.text("p", "b: 1\r", 2, origin(4.5, is_error=True))
    screen.text("p", "a: 1\r", 1, origin(5))
    assert out.getvalue() == (
        "\x1b[1A\r   +3.500 ! b: 1\x1b[K\x1b[1B\r"
        "\x1b[2A\r   +5.000   a: 1\x1b[K\x1b[2B\r"
    )  # fmt: skip
