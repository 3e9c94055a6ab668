"""Where publishers and the hubs of an application meet in tests: a directory, or a server."""

from __future__ import annotations

import abc
import contextlib
import os
import signal
import sqlite3
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

from tests.redis_servers import SERVERS, RedisProcess, running
from ws_hub import LocalBackplane, RedisBackplane
from ws_hub.backplane.bus import Backplane

__all__ = ["PLACES", "Place", "place_of"]

PLACES = ("local", *SERVERS)


class Place(abc.ABC):
    """One place.

    Args:
        folder: for the test's own files.
        address: the address.

    Attributes:
        unsent: what is logged where something is not passed on.
    """

    unsent = ""

    def __init__(self, folder: Path, address: str) -> None:
        self.folder = folder
        self.address = address

    @abc.abstractmethod
    def backplane(self) -> Backplane:
        """Return a backplane of its own there."""

    @abc.abstractmethod
    def rules(self) -> str | None:
        """Return the rules that are there."""

    @abc.abstractmethod
    def set_rules(self, rules: str) -> None:
        """Replace them."""

    @abc.abstractmethod
    def is_empty(self) -> bool:
        """Return whether nothing is there."""

    @abc.abstractmethod
    def has_history(self) -> bool:
        """Return whether a history is there."""

    @abc.abstractmethod
    def held_up(self) -> contextlib.AbstractContextManager[None]:
        """Have the history take nothing, meanwhile."""

    @abc.abstractmethod
    def standing(self) -> contextlib.AbstractContextManager[Callable[[], None]]:
        """Run another process with a hub; yield what has those that are told stand still."""


class _Directory(Place):
    unsent = "before others had read"

    def __init__(self, folder: Path) -> None:
        self.path = folder / "hub"
        super().__init__(folder, f"local://{self.path}")

    def backplane(self) -> Backplane:
        return LocalBackplane(self.path)

    def rules(self) -> str | None:
        file = self.path / "rules.json"
        return file.read_text() if file.exists() else None

    def set_rules(self, rules: str) -> None:
        (self.path / "rules.json").write_text(rules)

    def is_empty(self) -> bool:
        return not self.path.exists()

    def has_history(self) -> bool:
        return (self.path / "history.db").exists()

    @contextlib.contextmanager
    def held_up(self) -> Iterator[None]:
        file = sqlite3.connect(self.path / "history.db", isolation_level=None)
        with contextlib.closing(file):
            file.execute("BEGIN IMMEDIATE")
            yield
            file.execute("ROLLBACK")

    @contextlib.contextmanager
    def standing(self) -> Iterator[Callable[[], None]]:
        with _hub_process(self.address) as process:
            yield lambda: os.kill(process.pid, signal.SIGSTOP)


class _Server(Place):
    unsent = "before 20 notices were told"

    def __init__(self, folder: Path, server: RedisProcess) -> None:
        self.server = server
        super().__init__(folder, server.url("?prefix=app"))

    def backplane(self) -> Backplane:
        return RedisBackplane(self.address)

    def rules(self) -> str | None:
        answer: bytes = self.server.ask("GET", "app:rules")
        return None if answer.startswith(b"$-1") else answer.split(b"\r\n")[1].decode()

    def set_rules(self, rules: str) -> None:
        assert self.server.ask("SET", "app:rules", rules) == b"+OK\r\n"

    def is_empty(self) -> bool:
        return bool(self.server.ask("DBSIZE") == b":0\r\n")

    def has_history(self) -> bool:
        return bool(self.server.ask("EXISTS", "app:changes") == b":1\r\n")

    @contextlib.contextmanager
    def held_up(self) -> Iterator[None]:
        self.server.stop()
        try:
            yield
        finally:
            self.server.go_on()

    @contextlib.contextmanager
    def standing(self) -> Iterator[Callable[[], None]]:
        with _hub_process(self.address):
            try:
                yield self.server.stop
            finally:
                self.server.go_on()


_HUB = """
import sys
from ws_hub import Hub
hub = Hub(backplane=sys.argv[1]).start()
print(flush=True)
sys.stdin.read()
"""


@contextlib.contextmanager
def _hub_process(address: str) -> Iterator[subprocess.Popen[bytes]]:
    command, pipe = [sys.executable, "-c", _HUB, address], subprocess.PIPE
    with subprocess.Popen(command, stdin=pipe, stdout=pipe) as process:
        try:
            assert process.stdout is not None
            process.stdout.readline()
            yield process
        finally:
            process.kill()


@contextlib.contextmanager
def place_of(kind: str) -> Iterator[Place]:
    """Yield a new place of one of PLACES; the path of a socket must be short."""
    with tempfile.TemporaryDirectory(prefix="wsh-", dir="/tmp") as folder:
        if kind == "local":
            yield _Directory(Path(folder))
            return
        with running(kind) as server:
            yield _Server(Path(folder), server)
