"""A crew: one thread waits and handles, another takes over from it, each thing is handled once."""

from __future__ import annotations

import contextlib
import gc
import queue
import random
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import pytest

from tests.interventions import no_threads, patched, pauses_of_crews
from tests.support import TIMEOUT, wait_until
from ws_hub import crew, threads
from ws_hub.crew import Crew

Job = Callable[[], object]


class Jobs:
    """Work that is put by a test: functions, each of which is handled by calling it.

    Attributes:
        crew: its threads.
        by: the numbers of the threads that handled a job, in order.
        parted: the jobs that another thread went on without.
        kept: those that their thread has told so of.
        ended: set by the last thread.
    """

    def __init__(self) -> None:
        self._jobs: queue.SimpleQueue[Job | None] = queue.SimpleQueue()
        self.by: list[int] = []
        self.parted: list[Job] = []
        self.kept: list[Job] = []
        self.ended = threading.Event()
        self.crew: Crew[Job] = Crew("ws-hub:crew", self)

    def put(self, *jobs: Job) -> None:
        for job in jobs:
            self._jobs.put(job)

    def wait(self) -> list[Job]:
        found = [self._jobs.get()]
        with contextlib.suppress(queue.Empty):
            while True:
                found.append(self._jobs.get_nowait())
        return [job for job in found if job is not None]

    def handle(self, item: Job) -> None:
        self.by.append(threading.get_ident())
        item()

    def part(self, item: Job) -> None:
        assert self.crew.lock.locked()
        self.parted.append(item)

    def keep(self, item: Job) -> None:
        self.kept.append(item)

    def is_over(self) -> bool:
        return True

    def end(self) -> None:
        self.ended.set()

    def shut(self) -> None:
        """Close the crew, and wake the thread that waits."""
        if self.crew.close():
            self._jobs.put(None)

    def close(self) -> None:
        self.shut()
        assert self.crew.join(time.monotonic() + TIMEOUT)


@pytest.fixture
def jobs() -> Iterator[Jobs]:
    made = Jobs()
    made.crew.begin()
    yield made
    made.close()
    assert made.ended.is_set()


class Gate:
    """A job that waits until it is opened."""

    def __init__(self, begin: Callable[[], object] = lambda: None) -> None:
        self.begin = begin
        self.entered, self.opened = threading.Event(), threading.Event()

    def __call__(self) -> None:
        self.begin()
        self.entered.set()
        assert self.opened.wait(TIMEOUT)


def done(jobs: Jobs) -> None:
    """Return when all that was put before is handled."""
    over = threading.Event()
    jobs.put(over.set)
    assert over.wait(TIMEOUT)


def test_jobs_that_do_not_wait_are_handled_in_order_by_one_thread(jobs: Jobs) -> None:
    seen: list[int] = []
    jobs.put(*[lambda number=number: seen.append(number) for number in range(100)])
    done(jobs)
    assert seen == list(range(100))
    assert len(set(jobs.by)) == 1 and not jobs.parted and not jobs.crew.is_cautious


def test_what_waits_keeps_its_thread_and_the_others_go_on(jobs: Jobs) -> None:
    gates = [Gate() for _ in range(10)]
    jobs.put(*gates)
    for gate in gates:
        assert gate.entered.wait(TIMEOUT)
    done(jobs)
    assert jobs.parted == gates and not jobs.kept
    assert jobs.crew.is_cautious
    for gate in gates:
        gate.opened.set()
    wait_until(lambda: len(jobs.kept) == 10)
    done(jobs)


def test_threads_that_are_not_needed_any_more_end(jobs: Jobs) -> None:
    gates = [Gate() for _ in range(20)]
    jobs.put(*gates)
    for gate in gates:
        assert gate.entered.wait(TIMEOUT)
    assert len([each for each in threading.enumerate() if each.name == "ws-hub:crew"]) > 20
    for gate in gates:
        gate.opened.set()
    wait_until(
        lambda: len([each for each in threading.enumerate() if each.name == "ws-hub:crew"]) <= 5
    )
    done(jobs)


def test_a_thread_that_will_wait_hands_over_without_being_waited_for(jobs: Jobs) -> None:
    handed: list[bool] = []
    gate = Gate(lambda: handed.append(jobs.crew.hand_over()))
    jobs.put(gate)
    assert gate.entered.wait(TIMEOUT)
    done(jobs)
    assert handed == [True] and jobs.parted == [gate]
    assert not jobs.crew.is_cautious  # nobody was held up
    gate.opened.set()
    wait_until(lambda: jobs.kept == [gate])


def test_a_thread_that_does_not_lead_has_nothing_to_hand_over(jobs: Jobs) -> None:
    assert jobs.crew.hand_over()
    assert not jobs.parted


def test_a_thread_that_has_handed_over_stands_by(jobs: Jobs) -> None:
    """The one that it has handed over to leads then, and watches no more."""

    def hands_over() -> bool:
        told: list[bool] = []
        jobs.put(lambda: told.append(jobs.crew.hand_over()))
        done(jobs)
        return told[0]

    done(jobs)
    with no_threads("ws-hub:crew"):
        for _ in range(50):
            wait_until(hands_over)  # the last one may not be back yet


def test_without_a_thread_to_hand_over_to_it_leads_on(
    jobs: Jobs, caplog: pytest.LogCaptureFixture
) -> None:
    handed: list[bool] = []
    first, last = (Gate(lambda: handed.append(jobs.crew.hand_over())) for _ in range(2))
    with no_threads("ws-hub:crew"):
        jobs.put(first)  # to the one that watched
        assert first.entered.wait(TIMEOUT)
        jobs.put(*[lambda: handed.append(jobs.crew.hand_over())] * 3)
        done(jobs)
    assert handed == [True, False, False, False] and jobs.parted == [first]
    assert caplog.text.count("no thread is free for ws-hub:crew") == 1
    jobs.put(last)
    assert last.entered.wait(TIMEOUT)
    assert handed[4]
    done(jobs)
    first.opened.set()
    last.opened.set()


def test_a_thread_that_stands_by_holds_nothing_that_it_has_kept(jobs: Jobs) -> None:
    gate = Gate()
    alive = weakref.ref(gate)
    with no_threads("ws-hub:crew"):  # else another one stands by, and this one ends
        jobs.put(gate)
        assert gate.entered.wait(TIMEOUT)
        done(jobs)
        gate.opened.set()
        wait_until(lambda: jobs.kept)
        del gate
        jobs.parted.clear()
        jobs.kept.clear()
        wait_until(lambda: alive() is None)


def test_beginning_without_a_thread_raises() -> None:
    made = Jobs()
    with no_threads(), pytest.raises(RuntimeError):
        made.crew.begin()
    assert made.crew.is_empty
    made.crew.begin()
    made.crew.begin()  # there is one
    made.put(lambda: None)
    done(made)
    made.close()


def test_a_crew_that_is_closed_ends_when_its_late_thread_does() -> None:
    made, gate = Jobs(), Gate()
    made.crew.begin()
    made.put(gate)
    assert gate.entered.wait(TIMEOUT)
    made.shut()
    assert not made.crew.join(time.monotonic() + 0.05)
    assert not made.ended.is_set()
    gate.opened.set()
    assert made.crew.join(time.monotonic() + TIMEOUT)
    assert made.ended.wait(TIMEOUT)
    made.crew.begin()  # nothing begins any more
    assert made.crew.is_empty


def test_threads_that_have_ended_are_waited_for_to_their_last_instruction() -> None:
    """What a test starts next must not see them, and a fork not copy them."""
    over = threading.Event()

    def begin(name: str, target: Callable[[], None], **how: Any) -> threading.Thread:
        def run() -> None:
            target()
            assert over.wait(TIMEOUT)  # as where it has the processor late

        return threads.begin(name, run, **how)

    made = Jobs()
    with patched(crew, "threads", SimpleNamespace(begin=begin, join=threads.join)):
        made.crew.begin()
        done(made)
        made.shut()
        assert made.ended.wait(TIMEOUT)
        late = threading.Timer(0.05, over.set)
        late.start()
        assert made.crew.join(time.monotonic() + TIMEOUT)
        assert over.is_set()
    late.join(TIMEOUT)


def test_threads_that_have_ended_are_not_kept(jobs: Jobs) -> None:
    for _ in range(100):
        jobs.put(jobs.crew.hand_over)
        done(jobs)
    assert len([each for each in gc.get_objects() if is_of(each, jobs.crew)]) < 20


def is_of(thing: object, crew: Crew[Job]) -> bool:
    return isinstance(thing, threading.Thread) and getattr(thing, "crew", None) is crew


def test_a_late_thread_of_a_closed_crew_hands_nothing_over() -> None:
    made, handed = Jobs(), list[bool]()
    gate = Gate()

    def late() -> None:
        gate()
        handed.append(made.crew.hand_over())

    made.crew.begin()
    made.put(late)
    assert gate.entered.wait(TIMEOUT)
    made.shut()
    gate.opened.set()
    assert made.crew.join(time.monotonic() + TIMEOUT)
    assert handed == [True] and made.parted in ([], [late])  # by one that watched


def test_a_thread_whose_wait_fails_waits_again(caplog: pytest.LogCaptureFixture) -> None:
    class Faulty(Jobs):
        def wait(self) -> list[Job]:
            found = super().wait()
            if fail in found:
                fail()
            return found

    def fail() -> None:
        raise ZeroDivisionError

    made = Faulty()
    made.crew.begin()
    with pauses_of_crews(0.0):
        for faults in (1, 2, 3):  # nothing is handled between two
            made.put(fail)
            wait_until(lambda n=faults: caplog.text.count("thread ws-hub:crew cannot wait") == n)
        done(made)
    made.close()


@pytest.mark.parametrize("seed", range(3))
def test_each_job_is_handled_once_whoever_waits(seed: int, hasty_threads: None) -> None:
    """And each that was gone on without is kept by its own thread, once."""
    chance, made = random.Random(seed), Jobs()
    handled: list[int] = []
    made.crew.begin()

    def job(number: int, kind: float) -> Job:
        def run() -> None:
            handled.append(number)
            if kind < 0.02:
                assert behind[number].wait(TIMEOUT)  # held up until the next one is handled
            elif kind < 0.1:
                assert made.crew.hand_over()
            elif kind < 0.12:
                made.crew.begin()
            behind[number - 1].set()

        return run

    behind = [threading.Event() for _ in range(601)]
    for number in range(600):
        made.put(job(number, chance.random()))
        if not number % 50:
            done(made)
    made.put(behind[599].set)
    done(made)
    wait_until(lambda: len(made.kept) == len(made.parted))
    assert sorted(handled) == list(range(600))
    assert {id(each) for each in made.kept} == {id(each) for each in made.parted}
    assert len(made.kept) == len(set(map(id, made.kept))) > 5
    made.close()


def test_what_was_found_when_the_crew_was_closed_is_handled() -> None:
    class Closing(Jobs):
        def wait(self) -> list[Job]:
            found = super().wait()
            self.crew.close()
            return found

    made, seen = Closing(), list[int]()
    made.put(*[lambda number=number: seen.append(number) for number in range(3)])
    made.crew.begin()
    assert made.ended.wait(TIMEOUT)
    assert seen == [0, 1, 2]
