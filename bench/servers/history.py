"""ws_hub with channels that keep history: in memory, or in a file."""

from __future__ import annotations

import shutil
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

from ws_hub import ChannelRule, SqliteHistory
from ws_hub.process.process import Process

from ..control import Answer
from ..wire import padding
from .hub import LONG, PRINTER, HubServer

__all__ = ["FileHubServer", "KeepingHubServer"]


class KeepingHubServer(HubServer):
    """The same as `HubServer`; the channel beside-0 keeps history, beside-1 does not."""

    settings: ClassVar[dict[str, Any]] = {
        **HubServer.settings,
        "rules": [ChannelRule(pattern="beside-0", history_messages=10_000)],
    }

    def __init__(self) -> None:
        super().__init__()
        self._program: Process | None = None

    def requests(self) -> dict[str, Callable[..., Answer | None]]:
        own = {"begin_lines": self.begin_lines, "end_lines": self.end_lines}
        return {**super().requests(), **own}

    def begin_lines(self, *, count: int, width: int, process: str) -> None:
        """Start a program that prints so many lines, at the pace of its slowest viewer."""
        argv = [sys.executable, "-S", "-c", PRINTER, padding(width), str(count)]
        self._program = self.hub.run_process(argv, process, backpressure=True)

    def end_lines(self) -> None:
        """Wait for its end."""
        assert self._program is not None
        self._program.wait(LONG)


class FileHubServer(KeepingHubServer):
    """The same with the history in a file, as `ws-hub serve --history` has it."""

    def __init__(self) -> None:
        self._directory = tempfile.mkdtemp(prefix="ws_hub-bench-")
        store = SqliteHistory(Path(self._directory, "hub.db"))
        self.settings = {**self.settings, "history": store}  # type: ignore[misc]
        super().__init__()

    def end(self) -> None:
        shutil.rmtree(self._directory, ignore_errors=True)
        super().end()
