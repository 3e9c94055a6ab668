"""The processes of the server: started, killed, stopped, with a clock that is moved."""

from __future__ import annotations

import itertools
import json
import os
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tests.chaos.bus import Bus
from tests.chaos.judge import Accepted
from tests.chaos.plan import parts_of, value_of
from tests.support import free_port

__all__ = ["Servers"]


class Servers:
    """The processes of a server, which share a file; faults meet one after the other.

    One thread at a time.

    Args:
        folder: where their file, their records and their logs are.
        program: their module, and arguments of its own.
        count: how many there are. Several are connected by a directory.
        bus: connects them in its place.
    """

    def __init__(self, folder: Path, *program: str, count: int = 1, bus: Bus | None = None) -> None:
        self.bus = bus
        self._file = folder / "hub.db"
        addresses = [f"local://{folder}/bus" if count > 1 else ""] * count
        if bus is not None:
            addresses = [bus.address(place) for place in range(count)]
        self._each = [
            _Process(folder, program, place, count, address)
            for place, address in enumerate(addresses)
        ]
        self._turns, self._targets = itertools.cycle(self._each), itertools.cycle(self._each)
        self._victim = self._each[0]
        self._lock: sqlite3.Connection | None = None

    def start(self) -> None:
        """Start all, and wait until they take connections."""
        for each in self._each:
            each.start()

    def target(self) -> tuple[str, int]:
        """Return where the next client is to connect to: to all in turn, if they are there."""
        found = next(self._targets)
        if not found.is_up:
            found = next(self._targets)
        return "127.0.0.1", found.port

    def ask(self, *command: object) -> Any:
        """Have the first one do something; return what it answers."""
        return self._each[0].ask(*command)

    def ask_all(self, *command: object) -> list[Any]:
        """Have all do something; return what they answer."""
        return [each.ask(*command) for each in self._each]

    def kill(self) -> None:
        """End one as the system does that is out of memory."""
        self._victim = next(self._turns)
        self._victim.kill()

    def stop(self) -> None:
        """End one as a deploy does."""
        self._victim = next(self._turns)
        self._victim.close()
        if self.bus is not None:  # which may be away: then it cannot keep what it has accepted
            self._victim.note_end()

    def begin_again(self) -> None:
        """Start the one that has ended, and have it publish."""
        self._victim.start()
        self._victim.ask("go")

    def pause(self) -> None:
        """Have one stand still."""
        self._victim = next(self._turns)
        self._victim.pause()

    def go_on(self) -> None:
        """Have it run again."""
        self._victim.go_on()

    def move_clock(self, offset: float) -> None:
        """Have the wall clock of one, and that of its later lives, be wrong by so many seconds."""
        next(self._turns).move_clock(offset)

    def lock_file(self) -> None:
        """Have nothing be written to the file, as on a disk that stands still."""
        self._lock = sqlite3.connect(self._file, timeout=30.0, isolation_level=None)
        self._lock.execute("BEGIN IMMEDIATE")

    def unlock_file(self) -> None:
        """Let it be written to again. Idempotent."""
        if self._lock is not None:
            self._lock.close()
            self._lock = None

    def accepted(self) -> list[Accepted]:
        """Return what their own publishers had accepted, in all their lives."""
        return [found for each in self._each for found in each.accepted()]

    def kills(self) -> dict[int, float]:
        """Return when each life ended that may have lost what it had accepted."""
        return {life: at for each in self._each for life, at in each.kills.items()}

    def failures(self) -> list[str]:
        """Return what their logs say of exceptions."""
        return [line for each in self._each for line in each.failures()]

    def log(self) -> str:
        """Return the ends of their logs."""
        return "\n".join(each.log() for each in self._each)

    def close(self) -> None:
        """End all as a deploy does, whatever state they are in. Idempotent."""
        self.unlock_file()
        for each in self._each:
            each.close()


class _Process:
    """One process on one port, however often it is killed; its lives have numbers of their own."""

    def __init__(
        self, folder: Path, program: Sequence[str], place: int, count: int, backplane: str
    ) -> None:
        self._folder = folder
        self._program = program
        self._record, self._log = folder / f"accepted-{place}", folder / f"log-{place}"
        self._record.touch()
        self._log.touch()
        self._life, self._count = place, count
        self._environment = dict(os.environ)
        if backplane:
            self._environment["WS_HUB_BACKPLANE"] = backplane
        self._clock = 0.0
        self._paused = False
        self._process: subprocess.Popen[str] | None = None
        self.is_up = False
        self.kills: dict[int, float] = {}
        self.port = free_port()

    def start(self) -> None:
        """Start it, and wait until it takes connections."""
        self._life += self._count
        command = [sys.executable, "-m", *self._program, str(self.port)]
        command += [str(self._folder / "hub.db"), str(self._record), str(self._life)]
        with self._log.open("a") as log:
            self._process = subprocess.Popen(
                [*command, str(self._clock)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                env=self._environment,
                start_new_session=True,  # Ctrl-C is for the run, which ends it
            )
        self.port = self._answer()
        self.is_up = True

    def ask(self, *command: object) -> Any:
        """Have it do something; return what it answers."""
        assert self._process is not None and self._process.stdin is not None
        self._process.stdin.write(" ".join(map(str, command)) + "\n")
        self._process.stdin.flush()
        return self._answer()

    def _answer(self) -> Any:
        assert self._process is not None and self._process.stdout is not None
        line = self._process.stdout.readline()
        assert line, f"the server has ended:\n{self._log.read_text(encoding='utf-8')[-4000:]}"
        return json.loads(line)

    def kill(self) -> None:
        """End it as the system does that is out of memory."""
        assert self._process is not None
        self._process.kill()
        self._process.wait()
        self.note_end()
        self._process.communicate()

    def note_end(self) -> None:
        """Note that it has accepted nothing after this, and may have lost something."""
        self.is_up = False
        self.kills[self._life] = time.monotonic()

    def pause(self) -> None:
        """Have it stand still."""
        assert self._process is not None
        self._paused = True
        self._process.send_signal(signal.SIGSTOP)

    def go_on(self) -> None:
        """Have it run again."""
        assert self._process is not None
        self._paused = False
        self._process.send_signal(signal.SIGCONT)

    def move_clock(self, offset: float) -> None:
        """Have its wall clock, and that of its later lives, be wrong by so many seconds."""
        self._clock = offset
        self.ask("clock", offset)

    def accepted(self) -> list[Accepted]:
        """Return what its own publishers had accepted, in all its lives."""
        found = []
        for line in self._record.read_text(encoding="ascii").splitlines():
            publisher, number, channel, at, sure = line.split()
            value = value_of({"publisher": publisher, "number": number})
            assert parts_of(value) == (int(publisher), int(number))
            found.append(Accepted(value, channel, float(at), sure == "sure"))
        return found

    def failures(self) -> list[str]:
        """Return what its log says of exceptions."""
        lines = self._log.read_text(encoding="utf-8").splitlines()
        return [line for line in lines if "Traceback" in line or " ERROR " in line]

    def log(self) -> str:
        """Return the end of its log."""
        return self._log.read_text(encoding="utf-8")[-4000:]

    def close(self) -> None:
        """End it as a deploy does, whatever state it is in. Idempotent."""
        process, self._process = self._process, None
        self.is_up = False
        if process is None:
            return
        if self._paused:
            process.send_signal(signal.SIGCONT)
        try:
            process.communicate(timeout=60)  # its input ends
        finally:
            process.kill()
            process.wait()
