"""Reading the output of a child, with pipes in its place and a clock that the test sets."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator

import pytest

from ws_hub.lines import MAX_PIECE
from ws_hub.process.output import GRACE, QUIET, OutputReader


class FakeChild:
    """Two pipes, and an exit when the test says so."""

    def __init__(self) -> None:
        self.over = False
        self.exit_fd: int | None = None
        self.size: tuple[int, int] | None = None
        self.streams, self.ends = {}, {}
        for name in ("stdout", "stderr"):
            self.streams[name], self.ends[name] = os.pipe()

    def exited(self) -> bool:
        return self.over

    def close_stream(self, name: str) -> None:
        os.close(self.streams.pop(name))

    def write(self, text: str, name: str = "stdout") -> None:
        os.write(self.ends[name], text.encode())

    def end(self, name: str) -> None:
        os.close(self.ends.pop(name))

    def close(self) -> None:
        for fd in (*self.streams.values(), *self.ends.values()):
            os.close(fd)


class Bench:
    """A reader with a fake child, the texts that it delivered, and its clock."""

    def __init__(self) -> None:
        self.now = 100.0
        self.child = FakeChild()
        self.said: list[tuple[str, str]] = []
        self.reader = OutputReader(self.child, self.take, lambda: self.now)  # type: ignore[arg-type]

    def take(self, name: str, texts: list[str]) -> None:
        self.said += [(name, text) for text in texts]

    def turn(self) -> bool:
        return self.reader.turn(until=self.now)

    def close(self) -> None:
        self.reader.close()
        self.child.close()


@pytest.fixture
def bench() -> Iterator[Bench]:
    made = Bench()
    yield made
    made.close()


def test_lines_are_delivered_with_the_name_of_their_stream(bench: Bench) -> None:
    bench.child.write("one\n")
    assert bench.turn()
    bench.child.write("oops\n", "stderr")
    assert bench.turn()
    assert bench.said == [("stdout", "one"), ("stderr", "oops")]


def test_a_prompt_is_delivered_after_a_pause(bench: Bench) -> None:
    bench.child.write("Password: ")
    bench.turn()
    bench.now += QUIET * 0.9
    bench.turn()
    assert bench.said == []
    bench.now += QUIET * 0.2
    bench.turn()
    bench.turn()
    assert bench.said == [("stdout", "Password: \r")]


def test_a_line_that_grows_without_pause_is_delivered(bench: Bench) -> None:
    for _ in range(4):
        bench.child.write(".")
        bench.turn()
        bench.now += QUIET / 3
    bench.turn()
    assert bench.said == [("stdout", "....\r")]


def test_text_that_was_just_read_is_not_delivered_early(bench: Bench) -> None:
    bench.child.write("a")
    bench.turn()
    bench.now += QUIET * 2
    bench.child.write("b")
    bench.turn()
    assert bench.said == []
    bench.turn()
    assert bench.said == [("stdout", "ab\r")]


def test_each_line_has_its_own_pause(bench: Bench) -> None:
    bench.child.write("a")
    bench.turn()
    bench.now += QUIET * 0.9
    bench.child.write("b\nc")
    bench.turn()
    bench.now += QUIET * 0.9
    bench.turn()
    assert bench.said == [("stdout", "ab")]


def test_a_line_that_is_finished_in_time_is_delivered_once(bench: Bench) -> None:
    bench.child.write("a")
    bench.turn()
    bench.child.write("b\n")
    bench.turn()
    bench.now += QUIET * 2
    bench.turn()
    assert bench.said == [("stdout", "ab")]


def test_turn_is_false_after_both_streams_and_the_child_have_ended(bench: Bench) -> None:
    bench.child.write("bye")
    bench.child.end("stdout")
    bench.child.end("stderr")
    assert bench.turn()
    assert bench.turn()
    assert bench.said == [("stdout", "bye")]
    assert bench.turn()  # it may close its streams and live on
    bench.child.over = True
    assert not bench.turn()


def test_a_stream_held_by_another_process_is_read_for_a_bounded_time(bench: Bench) -> None:
    bench.child.write("last words")
    bench.child.over = True
    assert bench.turn()
    bench.now += GRACE * 0.9
    assert bench.turn()
    bench.now += GRACE * 0.2
    assert not bench.turn()
    assert bench.said == [("stdout", "last words\r")]
    bench.reader.finish()
    assert bench.said[1:] == [("stdout", "last words")]


def test_output_left_in_the_pipe_is_read_however_slow_the_delivery(bench: Bench) -> None:
    bench.child.write("x\n" * 30_000)
    bench.child.over = True
    bench.turn()
    bench.now += GRACE * 2  # the hub was full
    bench.child.write("y\n")
    assert bench.turn()
    assert not bench.turn()
    assert len(bench.said) == 30_001


def test_output_after_the_childs_exit_is_bounded(bench: Bench) -> None:
    bench.child.over = True
    bench.turn()
    bench.now += GRACE * 2
    held = sum(fcntl.fcntl(fd, fcntl.F_GETPIPE_SZ) for fd in bench.child.streams.values())
    turns = 0
    bench.child.write("y" * 4095 + "\n")
    while bench.turn():
        bench.child.write("y" * 4095 + "\n")
        turns += 1
    assert turns == held // 4096 - 1  # as much as may have been the child's own


def test_text_of_another_stream_ends_a_cut_line_first(bench: Bench) -> None:
    long = "x" * (MAX_PIECE + 1)
    bench.child.write(long)
    bench.turn()
    bench.child.write("oops\n", "stderr")
    bench.turn()
    bench.child.write("\n")
    bench.turn()
    assert bench.said == [
        ("stdout", long[:-1] + "\x17"),
        ("stdout", ""),
        ("stderr", "oops"),
        ("stdout", "x"),
    ]


def test_an_exit_is_noticed_by_its_descriptor(bench: Bench) -> None:
    bench.close()
    bench.child = FakeChild()
    bench.child.exit_fd, done = os.pipe()
    bench.reader = OutputReader(bench.child, bench.take, lambda: bench.now)  # type: ignore[arg-type]
    bench.child.end("stdout")
    bench.child.end("stderr")
    bench.turn()
    os.close(done)
    bench.child.over = True
    assert not bench.reader.turn()  # nothing but the descriptor wakes it
    os.close(bench.child.exit_fd)


def test_without_a_pidfd_the_child_is_polled(bench: Bench) -> None:
    bench.child.end("stdout")
    bench.child.end("stderr")
    bench.turn()
    bench.child.over = True
    assert not bench.reader.turn()
