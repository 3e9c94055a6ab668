"""Runs several programs: starts them in order, starts them again, and ends all of them.

Everything but waiting for a program's end is done by one thread, in `run` or step by step by
`turn`; time is a parameter.
"""

from __future__ import annotations

import collections
import contextlib
import functools
import queue
import signal
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from .. import threads
from ..process.process import ExitCodeUnknown, ProcessStartError
from ..process.spawn import signal_name
from ..signals import Signals
from .common import FAILED, NOT_EXECUTABLE
from .readiness import Readiness
from .restarts import Restarts

__all__ = ["PATIENCE", "Program", "Running", "Supervisor"]

PATIENCE = 60.0  # seconds
_LOOK_AGAIN = 0.2  # seconds between two looks at whether a program is ready
_JOIN = 5.0


class Running(Protocol):
    """A program that was started; `Process` is one."""

    @property
    def pid(self) -> int:
        """Its process id."""

    def wait(self) -> int:
        """Wait for its end; return its exit code, minus N after signal N."""

    def ask_to_end(self, number: int) -> None:
        """Send a signal, and end what it leaves running."""

    def kill_session(self) -> None:
        """Send SIGKILL to it and to all that it has started."""


@dataclass(eq=False)
class Program:
    """One program, and what is known of it. Owned by the thread that runs the supervisor.

    Args:
        name: its name.
        start: starts it; raises ProcessStartError.
        restarts: decides whether it is started again.
        readiness: what says that it is ready; None for nothing that others wait for.
        after: those that have to be ready before it is started.

    Attributes:
        tell: called once it is ready, by those that see it in its output. Any thread.
    """

    name: str
    start: Callable[[], Running]
    restarts: Restarts
    readiness: Readiness | None = None
    after: Sequence[Program] = ()
    tell: Callable[[], object] = field(default=lambda: None, init=False)
    ready: bool = field(default=False, init=False)
    ready_by: float | None = field(default=None, init=False)  # when it must be
    told: bool = field(default=False, init=False)  # that it waits was noted
    running: Running | None = field(default=None, init=False)
    since: float = field(default=0.0, init=False)  # when it was started last
    due: float | None = field(default=None, init=False)  # when to start it, again


class Supervisor:
    """Runs programs until all of them have ended and none is to be started again.

    Args:
        programs: in the order in which they are started.
        note: called with the name of a program and what has become of it; the name "" is for
            all of them.
        keep_going: go on with the others when one has ended for good.
        grace: seconds from SIGTERM to SIGKILL when they are ended.
        patience: seconds in which a program must be ready that others wait for.
        waits: called with the name of a program that waits, and the text that says for which.
        clock: returns monotonic seconds.

    Attributes:
        code: the exit code so far: that of the first program that has failed for good before
            the others were ended, else 0.
        signal: the first signal that has ended them; None for none.
    """

    def __init__(
        self,
        programs: Sequence[Program],
        note: Callable[[str, str], object],
        *,
        keep_going: bool = False,
        grace: float,
        patience: float = PATIENCE,
        waits: Callable[[str, str], object] = lambda name, text: None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._programs = list(programs)
        self._note = note
        self._keep_going = keep_going
        self._grace = grace
        self._patience = patience
        self._waits = waits
        self._clock = clock
        self.code = 0
        self.signal: int | None = None
        self._kill_at: float | None = None  # they are being ended; when to send SIGKILL
        self._killed = False
        self._watchers: dict[Program, threading.Thread] = {}
        # guards: itself, by single calls. Filled by the watchers, emptied by `turn`.
        self._ended: collections.deque[tuple[Program, int | None]] = collections.deque()
        # guards: itself, likewise: the programs that are ready. Filled also by their own threads.
        self._readied: collections.deque[Program] = collections.deque()
        self._over = threading.Event()  # nobody looks any more whether a program is ready
        # What looks at a program until it is ready; one thread, however often it is started.
        self._lookers: dict[Program, threading.Thread] = {}
        self._wake: Callable[[], object] = lambda: None
        for program in self._programs:
            program.due = clock()
            program.tell = functools.partial(self._tell, program)

    @property
    def over(self) -> bool:
        """Whether none runs, and none is to be started."""
        return all(each.running is None and each.due is None for each in self._programs)

    def run(self, signals: Signals) -> int:
        """Run the programs until their end; return the exit code, 128 + N after signal N.

        The first signal ends them with SIGTERM, and after the grace with SIGKILL; the second
        one with SIGKILL at once.

        Threads: any; blocks, also while `note` does.
        """
        self._wake = lambda: signals.put(None)
        try:
            while True:
                wait = self.turn()
                if self.over:
                    break
                with contextlib.suppress(queue.Empty):
                    number = signals.wait(wait)
                    if number is not None:
                        self.signal = self.signal or number
                        self.end(f"{signal_name(number)} received")
        finally:
            for program in self._programs:
                if program.running is not None:
                    program.running.kill_session()
            self.close()
        return self.code if self.signal is None else 128 + self.signal

    def turn(self) -> float | None:
        """Do what is due; return the seconds until more is, None for an unknown time."""
        while self._readied:
            self._is_ready(self._readied.popleft())
        while self._ended:
            self._has_ended(*self._ended.popleft())
        for program in self._programs:
            if program.due is not None and program.due <= self._clock():
                if not self._must_wait(program):
                    self._start(program)
            self._check_patience(program)
        now = self._clock()
        if self._kill_at is not None and self._kill_at <= now:
            self._kill()
        due = [each.due for each in self._programs if each.due is not None and not each.told]
        due += [each.ready_by for each in self._programs if each.ready_by is not None]
        if self._kill_at is not None and not self._killed:
            due.append(self._kill_at)
        return max(min(due) - now, 0.0) if due else None

    def _tell(self, program: Program) -> None:
        self._readied.append(program)
        self._wake()

    def close(self) -> None:
        """End the looks at whether programs are ready."""
        self._over.set()
        for looker in self._lookers.values():
            threads.join(looker, _JOIN)

    def _is_ready(self, program: Program) -> None:
        program.ready_by = None
        if not program.ready:
            program.ready = True
            self._note(program.name, "is ready")

    def _must_wait(self, program: Program) -> bool:
        """Return whether a program that is due has to wait; it is given up when that is in vain."""
        missing = [each for each in program.after if not each.ready]
        gone = [each.name for each in missing if each.running is None and each.due is None]
        if gone:
            program.due = None
            self.code = self.code or FAILED
            self._note(program.name, f"not started: {gone[0]} has ended and was not ready")
            return True
        text = f"waiting for {', '.join(each.name for each in missing)}"
        if missing and not program.told:
            program.told = True
            self._note(program.name, text)
            self._waits(program.name, text)
        return bool(missing)

    def _check_patience(self, program: Program) -> None:
        if program.ready_by is None or program.ready_by > self._clock():
            return
        program.ready_by = None
        self.code = self.code or FAILED
        self._note(program.name, f"not ready within {self._patience:g} s")
        self.end(f"{program.name} is not ready")

    def _look(self, program: Program) -> None:
        assert program.readiness is not None
        while not program.ready and not self._over.is_set():
            if program.readiness.look():
                self._tell(program)
                return
            self._over.wait(_LOOK_AGAIN)

    def end(self, why: str) -> None:
        """End all of them; called again, at once."""
        self._over.set()
        running = [each for each in self._programs if each.running is not None]
        for program in self._programs:
            program.due = program.ready_by = None
        if self._kill_at is not None:
            self._kill()
            return
        self._kill_at = self._clock() + self._grace
        if running:
            self._note("", f"{why}: sending SIGTERM to all")
        for program in running:
            assert program.running is not None
            program.running.ask_to_end(signal.SIGTERM)

    def _kill(self) -> None:
        left = [each for each in self._programs if each.running is not None]
        if self._killed or not left:
            return
        self._killed = True
        self._note("", f"sending SIGKILL to {', '.join(each.name for each in left)}")
        for program in left:
            assert program.running is not None
            program.running.kill_session()

    def _start(self, program: Program) -> None:
        program.due, program.told = None, False
        program.since = self._clock()
        try:
            running = program.running = program.start()
        except ProcessStartError as error:
            self._note(program.name, str(error))
            self._decide(program, "not started", NOT_EXECUTABLE)
            return
        again = f", restart {program.restarts.count}" if program.restarts.count else ""
        self._note(program.name, f"started, pid {running.pid}{again}")
        if program.readiness is not None and not program.ready:
            self._await(program)
        self._watchers[program] = threads.start(f"ws-hub:up:{program.name}", self._watch, program)

    def _await(self, program: Program) -> None:
        """Have somebody look whether a program is ready that has been started."""
        assert program.readiness is not None
        program.ready_by = self._clock() + self._patience
        if not program.readiness.text and program not in self._lookers:
            name = f"ws-hub:ready:{program.name}"
            self._lookers[program] = threads.start(name, self._look, program)

    def _watch(self, program: Program) -> None:
        code = None
        assert program.running is not None
        with contextlib.suppress(ExitCodeUnknown):
            code = program.running.wait()
        self._ended.append((program, code))
        self._wake()

    def _has_ended(self, program: Program, code: int | None) -> None:
        threads.join(self._watchers.pop(program), _JOIN)  # it has nothing left to do
        program.running = program.ready_by = None
        if code is None:
            self._decide(program, "ended, code unknown", FAILED)
        elif code < 0:
            self._decide(program, f"killed by {signal_name(-code)}", 128 - code)
        else:
            self._decide(program, f"exited {code}", code)

    def _decide(self, program: Program, how: str, code: int) -> None:
        """Start a program again that has ended, or go on without it, or end all."""
        if self._kill_at is not None:
            self._note(program.name, how)
            return
        now = self._clock()
        delay = program.restarts.after(failed=code != 0, ran=now - program.since)
        if delay is not None:
            program.due = now + delay
            self._note(program.name, f"{how}; starts again in {delay:.1f} s")
            return
        self.code = self.code or code
        self._note(program.name, how)
        if not self._keep_going:
            self.end(f"{program.name} {how}")
