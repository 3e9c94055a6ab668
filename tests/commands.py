"""The command line as a subprocess, for tests: its output, its exit code and its viewers."""

from __future__ import annotations

import contextlib
import os
import re
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path

from tests.support import RawPeer, wait_until

__all__ = ["BOUND", "ROOT", "Command", "command", "run", "viewer"]

ROOT = Path(__file__).resolve().parents[1]
BOUND = 40.0  # a Python that starts on a busy machine, and a few seconds of grace inside


class Command:
    """One `python -m ws_hub ...` whose output is collected as it comes."""

    def __init__(
        self,
        *arguments: str,
        stdin: int = subprocess.DEVNULL,
        stdout: int = subprocess.PIPE,
        env: Mapping[str, str] | None = None,
    ) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-m", "ws_hub", *arguments],
            stdin=stdin,
            stdout=stdout,
            stderr=subprocess.PIPE,
            cwd=ROOT,
            # Not left out: readline, if somebody imports it, puts a size of its own into
            # the environment that children inherit, past os.environ.
            env={**os.environ, **(env or {})},
            text=True,
        )
        self.out: list[str] = []
        self.err: list[str] = []
        self._threads = [
            threading.Thread(target=self._collect, args=pair, daemon=True)
            for pair in ((self.process.stdout, self.out), (self.process.stderr, self.err))
            if pair[0] is not None
        ]
        for thread in self._threads:
            thread.start()

    @staticmethod
    def _collect(stream, lines) -> None:  # type: ignore[no-untyped-def]
        with stream:
            for line in stream:
                lines.append(line.rstrip("\n"))

    def saw(self, text: str, where: str = "out") -> str:
        """Wait for a line that holds a text; return it."""
        lines = getattr(self, where)
        return wait_until(
            lambda: next((line for line in lines if text in line), None),
            BOUND,
            f"{text!r} in {lines}, {self.err}",
        )

    @property
    def port(self) -> int:
        match = re.search(r"http://[^:]+:(\d+)/", self.saw("watch at", "err"))
        assert match is not None
        return int(match[1])

    def signal(self, number: int) -> None:
        self.process.send_signal(number)

    def end(self) -> int:
        code = self.process.wait(BOUND)
        for thread in self._threads:
            thread.join(BOUND)
        return code


@contextlib.contextmanager
def command(
    *arguments: str,
    stdin: int = subprocess.DEVNULL,
    stdout: int = subprocess.PIPE,
    env: Mapping[str, str] | None = None,
) -> Iterator[Command]:
    running = Command(*arguments, stdin=stdin, stdout=stdout, env=env)
    try:
        yield running
    finally:
        if running.process.poll() is None:
            running.process.kill()
        if running.process.stdin is not None:
            running.process.stdin.close()
        running.end()


def run(*arguments: str) -> tuple[int, list[str], list[str]]:
    with command(*arguments) as running:
        return running.end(), running.out, running.err


@contextlib.contextmanager
def viewer(running: Command, channel: str) -> Iterator[RawPeer]:
    peer = RawPeer("127.0.0.1", running.port, timeout=BOUND)
    with peer.sock:
        peer.send_json({"type": "subscribe", "channel": channel, "id": "viewer"})
        assert peer.recv_json()["type"] == "ack"
        yield peer
