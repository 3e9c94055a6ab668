"""Several real programs: restarts, their ends, and how they are ended; with a clock of ours."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Callable, Iterator
from functools import partial

import pytest

from tests.programs import is_alive
from tests.recorder import Recorder
from tests.support import wait_until
from ws_hub.cli.programs import wait_for_signal
from ws_hub.cli.restarts import Policy, Restarts
from ws_hub.cli.supervisor import Program, Running, Supervisor
from ws_hub.process.process import run_process
from ws_hub.signals import Signals

BOUND = 20.0


# --- when a program is started again ---------------------------------------------------------


def waits(restarts: Restarts, *runs: float, failed: bool = True) -> list[float | None]:
    return [restarts.after(failed=failed, ran=ran) for ran in runs]


def test_the_wait_before_a_restart_doubles_up_to_its_bound() -> None:
    restarts = Restarts("always", random=lambda: 1.0)
    assert waits(restarts, *[0.0] * 9) == [0.5, 1.0, 2.0, 4.0, 8.0, 16.0, 30.0, 30.0, 30.0]
    assert restarts.count == 9


def test_half_of_the_wait_is_random() -> None:
    for chance, wait in ((0.0, 0.25), (0.5, 0.375), (1.0, 0.5)):
        assert waits(Restarts("always", random=lambda chance=chance: chance), 0.0) == [wait]


def test_a_program_that_ran_long_begins_anew() -> None:
    restarts = Restarts("on-failure", random=lambda: 1.0)
    assert waits(restarts, 0.0, 9.9, 10.0, 0.0, 3600.0) == [0.5, 1.0, 0.5, 1.0, 0.5]
    assert restarts.count == 1


@pytest.mark.parametrize(
    ("policy", "failed", "restarts"),
    [
        ("no", True, False),
        ("no", False, False),
        ("on-failure", True, True),
        ("on-failure", False, False),
        ("always", True, True),
        ("always", False, True),
    ],
)
def test_the_policy_says_which_ends_are_followed_by_a_restart(
    policy: Policy, failed: bool, restarts: bool
) -> None:
    assert (Restarts(policy).after(failed=failed, ran=1.0) is not None) == restarts


# --- several programs ------------------------------------------------------------------------


class Bench:
    """Programs of /bin/sh under a supervisor that is driven by steps, with a clock of its own."""

    def __init__(self, policy: Policy = "no", *, keep_going: bool = False) -> None:
        self.hub = Recorder()
        self.now = 1000.0
        self.notes: list[str] = []
        self.started: list[str] = []
        self.running: dict[str, Running] = {}
        self._policy = policy
        self._keep_going = keep_going
        self.supervisor: Supervisor

    def __call__(self, **commands: str) -> Supervisor:
        programs = [
            Program(name, partial(self._start, name, command), self._restarts())
            for name, command in commands.items()
        ]
        self.supervisor = Supervisor(
            programs, self._note, keep_going=self._keep_going, grace=5.0, clock=lambda: self.now
        )
        return self.supervisor

    def _restarts(self) -> Restarts:
        return Restarts(self._policy, random=lambda: 1.0)

    def _start(self, name: str, command: str) -> Running:
        self.started.append(name)
        running = run_process(self.hub, ["/bin/sh", "-c", command], name)
        self.running[name] = running
        return running

    def _note(self, name: str, text: str) -> None:
        self.notes.append(f"{name} {text}" if name else text)

    def until(self, condition: Callable[[], object]) -> None:
        """Take turns, without a step of the clock, until something is so."""

        def turn() -> object:
            self.supervisor.turn()
            return condition()

        wait_until(turn, BOUND, repr(self.notes))

    def noted(self, text: str) -> None:
        self.until(lambda: any(text in each for each in self.notes))

    def printed(self, text: str) -> None:
        self.until(lambda: text in self.hub.texts())


@pytest.fixture
def bench() -> Iterator[type[Bench]]:
    made: list[Bench] = []

    class Made(Bench):
        def __init__(self, policy: Policy = "no", *, keep_going: bool = False) -> None:
            super().__init__(policy, keep_going=keep_going)
            made.append(self)

    yield Made
    for each in made:
        for running in each.running.values():
            running.kill_session()
        with contextlib.suppress(AttributeError):
            each.supervisor.end("the test is over")
            each.until(lambda each=each: each.supervisor.over)


WAIT = "while :; do sleep 0.02; done"


def test_programs_start_in_their_order(bench: type[Bench]) -> None:
    it = bench(keep_going=True)
    it(c="exit 0", a="exit 0", b="exit 0").turn()
    assert it.started == ["c", "a", "b"]
    it.until(lambda: it.supervisor.over)
    assert it.supervisor.code == 0


def test_one_end_ends_all_and_gives_the_exit_code(bench: type[Bench]) -> None:
    it = bench()
    it(a=WAIT, b="exit 3", c=WAIT)
    it.until(lambda: it.supervisor.over)
    assert it.supervisor.code == 3  # not that of those that were ended
    assert it.notes[3:5] == ["b exited 3", "b exited 3: sending SIGTERM to all"]
    assert sorted(it.notes[5:]) == ["a killed by SIGTERM", "c killed by SIGTERM"]


def test_keep_going_waits_for_all_and_gives_the_first_failure(bench: type[Bench]) -> None:
    it = bench(keep_going=True)
    it(a="read x; kill -9 $$", b="exit 0", c=WAIT)
    it.noted("a ")
    it.noted("b exited 0")
    assert not it.supervisor.over
    it.running["c"].ask_to_end(signal.SIGTERM)
    it.until(lambda: it.supervisor.over)
    assert it.supervisor.code == 128 + signal.SIGKILL


def test_a_restart_waits_for_its_time(bench: type[Bench]) -> None:
    it = bench("on-failure")
    supervisor = it(a="exit 1")
    it.noted("a exited 1; starts again in 0.5 s")
    it.now += 0.49
    assert supervisor.turn() == pytest.approx(0.01)
    assert it.started == ["a"]
    it.now += 0.02
    supervisor.turn()
    assert it.started == ["a", "a"]
    it.noted(", restart 1")
    it.noted("a exited 1; starts again in 1.0 s")
    statuses = [each["status"] for each in it.hub.statuses()]
    assert statuses == ["running", "exited"] * 2


def test_a_storm_of_restarts_gets_slower(bench: type[Bench]) -> None:
    it = bench("always")
    supervisor = it(a="exit 0")
    for wait in (0.5, 1.0, 2.0, 4.0, 8.0, 16.0, 30.0, 30.0):
        it.noted(f"starts again in {wait} s")
        assert supervisor.turn() == wait
        it.notes.clear()
        it.now += wait
    assert len(it.started) == 8


def test_with_on_failure_a_success_is_the_end(bench: type[Bench]) -> None:
    it = bench("on-failure")
    it(a="exit 0", b=WAIT)
    it.until(lambda: it.supervisor.over)
    assert (it.supervisor.code, it.started) == (0, ["a", "b"])


def test_the_end_of_all_cancels_restarts_that_are_due(bench: type[Bench]) -> None:
    it = bench("always")
    supervisor = it(a="exit 1", b=WAIT)
    it.noted("a exited 1; starts again")
    supervisor.end("SIGINT received")
    it.now += 1.0
    it.until(lambda: supervisor.over)
    assert it.started == ["a", "b"]


IGNORES = "trap '' TERM; echo ready; " + WAIT


def test_a_program_that_ignores_sigterm_is_killed_after_the_grace(bench: type[Bench]) -> None:
    it = bench()
    supervisor = it(a=IGNORES, b=WAIT)
    it.printed("ready")
    supervisor.end("SIGINT received")
    it.noted("b killed by SIGTERM")
    it.now += 4.9
    supervisor.turn()
    assert not any("SIGKILL" in each for each in it.notes)
    it.now += 0.2
    it.until(lambda: supervisor.over)
    assert it.notes[-2:] == ["sending SIGKILL to a", "a killed by SIGKILL"]


def test_a_second_request_kills_at_once(bench: type[Bench]) -> None:
    it = bench()
    supervisor = it(a=IGNORES)
    it.printed("ready")
    supervisor.end("SIGINT received")
    supervisor.end("SIGINT received")
    it.until(lambda: supervisor.over)
    assert it.notes[-3:] == [
        "SIGINT received: sending SIGTERM to all", "sending SIGKILL to a", "a killed by SIGKILL",
    ]  # fmt: skip


def test_grandchildren_end_with_their_program(bench: type[Bench]) -> None:
    it = bench()
    supervisor = it(a=f"{{ trap '' TERM; sh -c 'echo pid $$; {WAIT}'; }} & {WAIT}")
    it.until(lambda: any(str(each).startswith("pid ") for each in it.hub.texts()))
    pid = next(int(each[4:]) for each in it.hub.texts() if each.startswith("pid "))
    supervisor.end("SIGINT received")
    supervisor.end("SIGINT received")
    it.until(lambda: supervisor.over)
    wait_until(lambda: not is_alive(pid), BOUND)


def test_a_program_that_cannot_start_has_failed(bench: type[Bench]) -> None:
    it = bench()
    nowhere = partial(run_process, it.hub, ["/bin/sh"], "a", cwd="/no/such")
    programs = [
        Program("a", nowhere, Restarts("no")),
        Program("b", partial(it._start, "b", WAIT), Restarts("no")),
    ]
    supervisor = Supervisor(programs, it._note, grace=5.0, clock=lambda: it.now)
    it.supervisor = supervisor
    it.until(lambda: supervisor.over)
    assert supervisor.code == 126
    assert it.notes[1] == "a not started"
    assert it.started == []  # what follows in the order was not begun


def test_run_ends_with_the_threads_that_watch(bench: type[Bench]) -> None:
    it = bench(keep_going=True)
    it(a="exit 0", b="exit 0").turn()
    it.until(lambda: it.supervisor.over)
    assert not [each for each in threading.enumerate() if each.name.startswith("ws-hub:up")]


def test_what_programs_leave_in_the_queue_of_signals_is_no_signal(bench: type[Bench]) -> None:
    it = bench(keep_going=True)
    supervisor = it(a="exit 0", b="exit 0", c="exit 0")
    signals = Signals()
    signals.put(None)  # as when the ends of two programs are seen at once
    assert supervisor.run(signals) == 0
    signals.put(None)
    signals.put(signal.SIGTERM)
    assert wait_for_signal(signals) == signal.SIGTERM
