"""Which threads publish in a loop, and which clients are crowded."""

from __future__ import annotations

import threading
from types import SimpleNamespace

import pytest

from tests.support import TIMEOUT
from ws_hub.hub.pacing import Pacing


def test_a_message_that_comes_alone_is_no_loop_however_large() -> None:
    pacing = Pacing()
    assert not pacing.is_loop(1, 1 << 30, 10.0)
    assert not pacing.is_loop(1, 1 << 30, 11.0)


@pytest.mark.parametrize(("messages", "size"), [(128, 1), (1, 64 * 1024)])
def test_a_thread_that_has_just_published_much_is_in_a_loop(messages: int, size: int) -> None:
    pacing = Pacing()
    assert not pacing.is_loop(messages - 1, size - 1, 10.0)
    assert not pacing.is_loop(1, 1, 10.5)
    assert pacing.is_loop(1, 1, 10.9)
    assert not pacing.is_loop(1, 1, 11.0)


def test_each_thread_is_judged_by_what_it_publishes_itself() -> None:
    pacing = Pacing()
    assert not pacing.is_loop(1000, 1, 10.0)
    found: list[bool] = []
    thread = threading.Thread(target=lambda: found.append(pacing.is_loop(1, 1, 10.0)))
    thread.start()
    thread.join(TIMEOUT)
    assert found == [False]
    assert pacing.is_loop(1, 1, 10.0)


def test_each_client_is_judged_by_what_it_publishes_whatever_thread_that_is_on() -> None:
    pacing, one, other = Pacing(), SimpleNamespace(), SimpleNamespace()
    assert not pacing.is_loop(1000, 1, 10.0, one)
    assert not pacing.is_loop(1, 1, 10.0, other)
    assert not pacing.is_loop(1, 1, 10.0)
    assert pacing.is_loop(1, 1, 10.0, one)


def test_a_thread_can_be_exempt() -> None:
    pacing = Pacing()
    pacing.is_loop(1000, 1, 10.0)
    with pacing.exempt(), pacing.exempt():
        assert not pacing.is_loop(1, 1, 10.0)
    assert pacing.is_loop(1, 1, 10.0)


def test_clients_are_crowded_until_they_are_no_more() -> None:
    pacing = Pacing()
    pacing.mark(1, True)
    pacing.mark(2, True)
    pacing.mark(1, True)
    assert pacing.crowded == {1, 2}
    pacing.mark(1, False)
    pacing.mark(3, False)
    assert pacing.crowded == {2}
