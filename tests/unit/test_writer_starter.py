"""The thread that starts threads, and does their work where it cannot."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest

from tests.support import TIMEOUT
from ws_hub import threads
from ws_hub.connection.writer_starter import ThreadStarter


@pytest.fixture
def starter() -> Iterator[ThreadStarter]:
    found = ThreadStarter("ws-hub:starter")
    yield found
    found.close()
    assert found.join(TIMEOUT)


def test_a_posted_thread_is_started(starter: ThreadStarter) -> None:
    names: list[str] = []
    thread = threads.DeferredThread(
        "ws-hub:test", lambda: names.append(threading.current_thread().name), lambda: False
    )
    starter.post(thread)
    assert thread.join(TIMEOUT)
    assert names == ["ws-hub:test"]


def test_fault_76_threads_that_cannot_be_started_are_stepped_in_turn(
    starter: ThreadStarter, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise RuntimeError("can't create new thread at interpreter shutdown")

    monkeypatch.setattr(threads, "start", refuse)
    over, steps = threading.Semaphore(0), list[str]()

    def step(name: str) -> bool:
        steps.append(name)
        if steps.count(name) == 3:
            over.release()
        return steps.count(name) < 3

    for name in "ab":
        starter.post(threads.DeferredThread(name, lambda: None, lambda name=name: step(name)))
    for _ in range(2):
        assert over.acquire(timeout=TIMEOUT)
    assert sorted(steps) == ["a"] * 3 + ["b"] * 3
