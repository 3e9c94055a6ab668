"""Looking at threads, and waiting for a part of one's life."""

from __future__ import annotations

import gc
import sys
import threading

import pytest

from tests.support import TIMEOUT
from ws_hub import threads


@pytest.mark.parametrize("on", [True, False])
def test_the_collector_is_off_while_the_stacks_are_taken_and_then_as_it_was(
    on: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[bool] = []
    take = sys._current_frames

    def taken() -> object:
        seen.append(gc.isenabled())
        return take()

    monkeypatch.setattr(sys, "_current_frames", taken)
    was_on = gc.isenabled()
    try:
        (gc.enable if on else gc.disable)()
        found = threads.stacks()
        assert gc.isenabled() is on
    finally:
        (gc.enable if was_on else gc.disable)()
    assert seen == [False]
    assert threading.get_ident() in found


def test_a_visit_is_waited_for_by_others_and_not_by_its_own_thread() -> None:
    began, end = threading.Event(), threading.Event()
    visits: list[threads.Visit] = []

    def live() -> None:
        visit = threads.Visit()
        visits.append(visit)
        assert threads.join(visit, TIMEOUT)  # itself: no wait
        began.set()
        end.wait(TIMEOUT)
        visit.end()

    thread = threading.Thread(target=live)
    thread.start()
    assert began.wait(TIMEOUT)
    assert not threads.join(visits[0], 0)
    end.set()
    assert threads.join(visits[0], TIMEOUT)
    thread.join(TIMEOUT)
