"""The leak check: it fails for what is left, says what, and leaves everything else alone."""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from ws_hub.testing import assert_no_leaks


@contextlib.contextmanager
def parked(name: str = "stray") -> Iterator[threading.Thread]:
    """Have a thread that ends with the block."""
    release = threading.Event()
    thread = threading.Thread(target=release.wait, name=name)
    thread.start()
    try:
        yield thread
    finally:
        release.set()
        thread.join()


def test_a_thread_that_is_left_fails_with_its_name_and_its_stack() -> None:
    with contextlib.ExitStack() as kept:
        with pytest.raises(AssertionError) as caught, assert_no_leaks(timeout=0.05):
            kept.enter_context(parked())
    text = str(caught.value)
    assert text.startswith("left behind after 0.05 s:\nthread stray:\n")
    assert "threading.py" in text and "in wait" in text


def test_a_socket_that_is_left_fails_with_its_port() -> None:
    with contextlib.ExitStack() as kept:
        with pytest.raises(AssertionError) as caught, assert_no_leaks(timeout=0.05):
            listener = kept.enter_context(socket.create_server(("127.0.0.1", 0)))
        port = listener.getsockname()[1]
    assert f"listening on port {port}" in str(caught.value)


def test_a_file_that_is_left_fails_with_its_path(tmp_path: Path) -> None:
    path = tmp_path / "left.txt"
    with contextlib.ExitStack() as kept:
        with pytest.raises(AssertionError) as caught, assert_no_leaks(timeout=0.05):
            kept.enter_context(path.open("w"))
    assert str(path) in str(caught.value)


def test_a_descriptor_that_is_now_another_file_fails(tmp_path: Path) -> None:
    with (tmp_path / "first").open("w") as first:
        with pytest.raises(AssertionError, match="second"), assert_no_leaks(timeout=0.05):
            with (tmp_path / "second").open("w") as second:
                os.dup2(second.fileno(), first.fileno())


def test_a_child_process_that_is_left_fails() -> None:
    with contextlib.ExitStack() as kept:
        with pytest.raises(AssertionError) as caught, assert_no_leaks(timeout=0.05):
            command = [sys.executable, "-c", "input()"]
            child = subprocess.Popen(command, stdin=subprocess.PIPE)
            kept.callback(child.communicate, b"\n")
    assert f"child process {child.pid}: " in str(caught.value)


def test_everything_that_is_left_is_listed() -> None:
    with contextlib.ExitStack() as kept:
        with pytest.raises(AssertionError) as caught, assert_no_leaks(timeout=0.05):
            kept.enter_context(parked("first"))
            kept.enter_context(parked("second"))
            kept.enter_context(socket.create_server(("127.0.0.1", 0)))
    for each in ("thread first:", "thread second:", "listening on port"):
        assert each in str(caught.value)


def test_a_clean_block_passes_at_once() -> None:
    with assert_no_leaks(timeout=1000), parked(), socket.create_server(("127.0.0.1", 0)):
        pass


def test_what_was_there_before_may_stay() -> None:
    with parked(), socket.create_server(("127.0.0.1", 0)), assert_no_leaks(timeout=0):
        pass


def test_what_ends_by_itself_in_time_passes() -> None:
    release = threading.Event()
    with assert_no_leaks():
        thread = threading.Thread(target=release.wait, args=(0.1,))
        thread.start()
    assert thread not in threading.enumerate()  # it may yet be alive for its last instructions


def test_a_socket_in_a_cycle_is_collected_first() -> None:
    with pytest.warns(ResourceWarning), assert_no_leaks(timeout=0):
        cycle: list[object] = [socket.socket()]
        cycle.append(cycle)
        del cycle


def test_what_is_named_may_stay(tmp_path: Path) -> None:
    with contextlib.ExitStack() as kept:
        with assert_no_leaks(timeout=0, threads=["^pool-[0-9]+$"], files=[r"\.log$"]):
            kept.enter_context(parked("pool-1"))
            kept.enter_context((tmp_path / "app.log").open("w"))
        with pytest.raises(AssertionError, match="thread my-pool-1:"):
            with assert_no_leaks(timeout=0.05, threads=["^pool-[0-9]+$"]):
                kept.enter_context(parked("my-pool-1"))


def test_an_exception_of_the_block_is_not_hidden() -> None:
    with contextlib.ExitStack() as kept:
        with pytest.raises(ZeroDivisionError), assert_no_leaks(timeout=0):
            kept.enter_context(parked())
            1 / 0  # noqa: B018


def test_it_is_a_decorator_too() -> None:
    @assert_no_leaks(timeout=0.05)
    def leak() -> None:
        kept.enter_context(parked())

    with contextlib.ExitStack() as kept:
        for _ in range(2):
            with pytest.raises(AssertionError, match="thread stray:"):
                leak()
