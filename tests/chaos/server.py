"""The process of the server: started, killed, stopped, with a clock that is moved."""

from __future__ import annotations

import json
import signal
import sqlite3
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from tests.chaos.judge import Accepted
from tests.chaos.plan import parts_of, value_of

__all__ = ["ServerProcess"]


class ServerProcess:
    """A server on one port and one file, however often it is killed.

    One thread at a time.

    Args:
        folder: where its file, its record and its log are.
        program: its module, and arguments of its own.
    """

    def __init__(self, folder: Path, *program: str) -> None:
        self._folder = folder
        self._program = program
        self._record, self._log = folder / "accepted", folder / "log"
        self._record.touch()
        self._life = 0
        self._clock = 0.0
        self._paused = False
        self._process: subprocess.Popen[str] | None = None
        self._lock: sqlite3.Connection | None = None
        self.kills: list[float] = []
        self.port = 0

    def start(self) -> None:
        """Start it, and wait until it takes connections."""
        self._life += 1
        command = [sys.executable, "-m", *self._program, str(self.port)]
        command += [str(self._folder / "hub.db"), str(self._record), str(self._life)]
        with self._log.open("a") as log:
            self._process = subprocess.Popen(
                [*command, str(self._clock)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                start_new_session=True,  # Ctrl-C is for the run, which ends it
            )
        self.port = self._answer()

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
        self.kills.append(time.monotonic())  # it has accepted nothing after this
        self._process.communicate()

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

    def lock_file(self) -> None:
        """Have nothing be written to its file, as on a disk that stands still."""
        self._lock = sqlite3.connect(self._folder / "hub.db", timeout=30.0, isolation_level=None)
        self._lock.execute("BEGIN IMMEDIATE")

    def unlock_file(self) -> None:
        """Let it be written to again. Idempotent."""
        if self._lock is not None:
            self._lock.close()
            self._lock = None

    def move_clock(self, offset: float) -> None:
        """Have its wall clock, and that of its later lives, be wrong by so many seconds."""
        self._clock = offset
        self.ask("clock", offset)

    def accepted(self) -> list[Accepted]:
        """Return what its own publishers had accepted, in all its lives."""
        found = []
        for line in self._record.read_text(encoding="ascii").splitlines():
            publisher, number, channel, at = line.split()
            value = value_of({"publisher": publisher, "number": number})
            assert parts_of(value) == (int(publisher), int(number))
            found.append(Accepted(value, channel, float(at)))
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
        if process is None:
            return
        if self._paused:
            process.send_signal(signal.SIGCONT)
        try:
            process.communicate(timeout=15)  # its input ends
        finally:
            process.kill()
            process.wait()
