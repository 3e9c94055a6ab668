"""Calls for one client: in order, and one at a time whichever thread makes them."""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable

import pytest

from tests.support import TIMEOUT
from ws_hub.connection.calls import Calls


def beside(function: Callable[[], object]) -> threading.Thread:
    thread = threading.Thread(target=function, daemon=True)
    thread.start()
    return thread


def test_calls_are_made_once_in_the_order_in_which_they_were_added() -> None:
    calls, made = Calls(), list[int]()
    for number in range(3):
        calls.add(functools.partial(made.append, number))
    calls.run(wait=False)
    calls.run(wait=True)
    assert made == [0, 1, 2]


def test_a_call_that_is_added_by_a_call_is_made_after_it() -> None:
    calls, made = Calls(), list[str]()

    def first() -> None:
        calls.add(lambda: made.append("second"))
        made.append("first")

    calls.add(first)
    calls.run(wait=False)
    assert made == ["first", "second"]


def test_the_thread_that_makes_calls_makes_those_of_others_too() -> None:
    calls, made = Calls(), list[tuple[str, int]]()
    began, go = threading.Event(), threading.Event()

    def note(name: str) -> None:
        made.append((name, threading.get_ident()))

    def slow() -> None:
        began.set()
        assert go.wait(TIMEOUT)
        note("slow")

    calls.add(slow)
    runner = beside(lambda: calls.run(wait=False))
    assert began.wait(TIMEOUT)
    calls.add(lambda: note("late"))
    calls.run(wait=False)  # returns: the other thread is at it
    assert not made
    go.set()
    runner.join(TIMEOUT)
    assert made == [("slow", runner.ident), ("late", runner.ident)]


def test_a_thread_that_waits_returns_when_the_last_call_has_returned() -> None:
    calls, over = Calls(), list[bool]()
    began, go = threading.Event(), threading.Event()

    def slow() -> None:
        began.set()
        assert go.wait(TIMEOUT)
        over.append(True)

    calls.add(slow)  # and it is the last one: nothing is left to wait for but itself
    runner = beside(lambda: calls.run(wait=False))
    assert began.wait(TIMEOUT)
    waiter = beside(lambda: (calls.run(wait=True), over.append(False)))
    waiter.join(0.05)
    assert waiter.is_alive()
    go.set()
    for thread in (runner, waiter):
        thread.join(TIMEOUT)
    assert over == [True, False]


@pytest.mark.usefixtures("hasty_threads")
@pytest.mark.parametrize("attempt", range(20))
def test_no_call_is_lost_doubled_or_overtaken_between_two_threads(attempt: int) -> None:
    calls, made = Calls(), list[int]()
    inside = list[bool]()

    def call(number: int) -> None:
        inside.append(True)
        assert len(inside) == 1
        made.append(number)
        inside.pop()

    def run(wait: bool) -> None:
        for _ in range(500):
            calls.run(wait=wait)

    threads = [beside(functools.partial(run, wait)) for wait in (False, True)]
    for number in range(1000):
        calls.add(functools.partial(call, number))
        if number % 7 == 0:
            calls.run(wait=False)
    for thread in threads:
        thread.join(TIMEOUT)
    calls.run(wait=True)
    assert made == list(range(1000))
