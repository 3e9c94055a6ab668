"""Threads that are named, logged when they die, joined within bounds, forgotten after a fork."""

from __future__ import annotations

import ctypes
import gc
import logging
import os
import sys
import threading
import weakref
from collections.abc import Callable

import pytest

from tests.interventions import imported_anew
from tests.support import TIMEOUT
from ws_hub import threads

needs_fork = pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system")


@pytest.mark.parametrize("start", [threads.start, threads.begin])
def test_a_thread_is_named_daemonic_and_gets_its_arguments(
    start: Callable[..., threading.Thread],
) -> None:
    seen: list[object] = []

    def target(*args: object) -> None:
        thread = threading.current_thread()
        seen.extend((thread.name, thread.daemon, args))

    thread = start("ws-hub:test:1", target, 1, "two")

    assert threads.join(thread, TIMEOUT)
    assert seen == ["ws-hub:test:1", True, (1, "two")]


def test_a_thread_that_was_begun_is_alive_before_it_runs_and_can_be_joined() -> None:
    seen: list[str] = []
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1000.0)  # nothing runs until this thread waits
    try:
        thread = threads.begin("ws-hub:test:1", seen.append, "ran")
        assert seen == [] and thread.is_alive()
        assert thread in threading.enumerate()
        assert threads.join(thread, TIMEOUT) and seen == ["ran"]
        assert not thread.is_alive()
        thread.join()
    finally:
        sys.setswitchinterval(interval)


def test_a_wait_for_a_thread_that_does_not_run_is_bounded() -> None:
    gate = threading.Lock()
    with gate:
        thread = threads.begin("ws-hub:test:1", gate.acquire)
        assert not threads.join(thread, 0.0)
        assert not threads.join(thread, 0.01)
    assert threads.join(thread, TIMEOUT)


@pytest.mark.parametrize("kind", [ValueError, KeyboardInterrupt, SystemExit, MemoryError])
def test_an_exception_that_ends_a_thread_is_logged_with_its_traceback(
    caplog: pytest.LogCaptureFixture, kind: type[BaseException]
) -> None:
    def target() -> None:
        raise kind("the cause")

    with caplog.at_level(logging.ERROR, "ws_hub.threads"):
        assert threads.join(threads.start("ws-hub:doomed", target), TIMEOUT)

    (record,) = caplog.records
    assert record.getMessage() == "thread ws-hub:doomed died"
    assert record.exc_info is not None
    assert record.exc_info[0] is kind


def test_a_thread_that_ends_logs_nothing(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.DEBUG, "ws_hub"):
        assert threads.join(threads.start("ws-hub:quiet", lambda: None), TIMEOUT)

    assert caplog.records == []


def test_no_more_threads_is_a_runtime_error(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", refuse)

    with pytest.raises(RuntimeError, match="can't start new thread"):
        threads.start("ws-hub:never", lambda: None)


def test_joining_is_bounded() -> None:
    release = threading.Event()
    thread = threads.start("ws-hub:busy", release.wait)
    try:
        assert not threads.join(thread, 0)
        assert not threads.join(thread, -1)
        assert not threads.join(thread, 0.01)
    finally:
        release.set()
    assert threads.join(thread, TIMEOUT)
    assert threads.join(thread, 0)


def test_joining_none_or_the_calling_thread_returns_at_once() -> None:
    assert threads.join(None, TIMEOUT)
    assert threads.join(threading.current_thread(), TIMEOUT)


class Forgetful:
    def __init__(self) -> None:
        self.forgotten = 0

    def forget(self) -> None:
        self.forgotten += 1


def in_child(check: Callable[[], object]) -> int:
    """Fork; return the child's exit code: 0 when `check()` was true there."""
    pid = os.fork()
    if pid == 0:
        code = 2
        try:
            code = 0 if check() else 1
        finally:
            os._exit(code)
    _, status = os.waitpid(pid, 0)
    return os.waitstatus_to_exitcode(status)


@needs_fork
def test_fault_40_registered_objects_forget_in_the_child_only() -> None:
    thing, other = Forgetful(), Forgetful()
    threads.forget_after_fork(thing)
    threads.forget_after_fork(thing)
    threads.forget_after_fork(other)

    assert in_child(lambda: (thing.forgotten, other.forgotten) == (1, 1)) == 0
    assert (thing.forgotten, other.forgotten) == (0, 0)


@needs_fork
def test_a_failing_forget_does_not_stop_the_others() -> None:
    class Broken:
        def forget(self) -> None:
            raise RuntimeError("still here")

    broken = [Broken() for _ in range(8)]
    things = [Forgetful() for _ in range(8)]
    for each in (*broken, *things):
        threads.forget_after_fork(each)

    assert in_child(lambda: [thing.forgotten for thing in things] == [1] * 8) == 0


def test_the_registration_ends_with_the_object() -> None:
    thing = Forgetful()
    threads.forget_after_fork(thing)
    alive = weakref.ref(thing)

    del thing
    gc.collect()

    assert alive() is None


@needs_fork
def test_forgetting_logs_what_fails(caplog: pytest.LogCaptureFixture) -> None:
    class Broken:
        def forget(self) -> None:
            raise RuntimeError("still here")

    broken, thing = Broken(), Forgetful()
    for each in (broken, thing):
        threads.forget_after_fork(each)

    def forgotten_and_logged() -> bool:
        (record,) = caplog.records
        return thing.forgotten == 1 and record.getMessage() == "Broken.forget() failed after a fork"

    assert in_child(forgotten_and_logged) == 0


def test_a_module_without_fork_has_no_hook(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(os, "register_at_fork", raising=False)

    assert imported_anew(threads).join(None, 0)


class Owner:
    """One whose thread somebody else starts."""

    def __init__(self) -> None:
        self.ran = False
        self.steps = 0
        self.thread = threads.DeferredThread("ws-hub:test", self.run, self.step)

    def run(self) -> None:
        self.ran = True

    def step(self) -> bool:
        self.steps += 1
        if self.steps == 3:
            raise ValueError("what would have killed the thread")
        return True


def test_joining_a_deferred_thread_waits_for_its_start() -> None:
    owner = Owner()
    assert not owner.thread.join(0)
    assert owner.thread.start()
    assert owner.thread.join(TIMEOUT)
    assert owner.ran and not owner.steps


def test_a_deferred_thread_that_cannot_be_started_is_stepped(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refuse(*_: object) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threads, "start", refuse)
    owner = Owner()
    assert not owner.thread.start()
    assert owner.thread.join(0)
    assert [owner.thread.step() for _ in range(3)] == [True, True, False]
    assert not owner.ran and "what would have killed the thread" in caplog.text


def test_the_owner_of_a_deferred_thread_is_freed_without_the_collector() -> None:
    owner = Owner()
    owner.thread.start()
    assert owner.thread.join(TIMEOUT)
    watch = weakref.ref(owner)
    gc.disable()
    try:
        del owner
        assert watch() is None
    finally:
        gc.enable()


def test_yield_gil_without_sched_yield_does_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    assert threads.yield_gil() == 0
    monkeypatch.delattr(os, "register_at_fork", raising=False)  # not by a copy as well
    monkeypatch.delattr(ctypes, "CDLL")
    assert imported_anew(threads).yield_gil() is None


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
        visit.thread = threading.get_ident()
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
