"""A server in a process of its own whose history is in a file."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

__all__ = ["Served"]


class Served:
    """A server in a process of its own that publishes numbers, until it is killed."""

    def __init__(self, file: Path, port: int = 0, channel: str = "kept:a") -> None:
        command = [sys.executable, "-m", "tests.integration.apps.kept"]
        self.process = subprocess.Popen(
            [*command, str(port), str(file), channel],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self.port = int(self.said().split()[1])
        self.url = f"ws://127.0.0.1:{self.port}/ws"

    def __enter__(self) -> Served:
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()

    def said(self) -> str:
        """Return the next line that it prints."""
        assert self.process.stdout is not None
        return self.process.stdout.readline()

    def tell(self, *numbers: int) -> None:
        """Have it publish numbers."""
        assert self.process.stdin is not None
        self.process.stdin.writelines(f"{number}\n" for number in numbers)
        self.process.stdin.flush()

    def await_accepted(self, numbers: Iterable[int]) -> None:
        """Wait until it was told that its next numbers are accepted."""
        for number in numbers:
            assert self.said() == f"{number}\n"

    def publish(self, *numbers: int) -> None:
        """Have it publish numbers, and wait until it was told that they are accepted."""
        self.tell(*numbers)
        self.await_accepted(numbers)

    def kill(self) -> None:
        """End it as the system does that is out of memory."""
        self.process.kill()
        self.process.communicate()
