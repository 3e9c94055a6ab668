"""A hub that delivers to nobody and remembers: for what publishes, tested alone."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from tests.support import without_usage
from ws_hub.backplane.publisher import AbstractPublisher
from ws_hub.config import HubConfig
from ws_hub.errors import HubFull, HubNotRunning
from ws_hub.lines import join
from ws_hub.process.process import BeginningAttempts
from ws_hub.protocol.message import Message, decode

__all__ = ["Recorder"]


class Recorder(AbstractPublisher):
    """Keeps every message. `on_publish(message)` runs first and may raise."""

    def __init__(self) -> None:
        super().__init__()
        self.config = HubConfig(usage_interval=0)
        self.messages: list[Message] = []
        self.timeouts: list[float | None] = []
        self.stoppers: list[Callable[[], object]] = []
        self.claimed: list[str] = []  # ids of processes; changed by single calls
        self.running = True
        self.full = 0  # so many messages meet a full queue
        self.on_publish: Callable[[Message], object] = lambda message: None
        # guards: the lists and `full`.
        self._lock = threading.Lock()

    def _publish(
        self,
        texts: Sequence[bytes],
        channel: str,
        timeout: float | None,
        *,
        ends_channel: bool = False,
        exclude: frozenset[int] = frozenset(),
        wait: float | None = None,
        of: object = None,
    ) -> None:
        messages = [decode(text.decode()) for text in texts]
        for message in messages:
            self.on_publish(message)
        with self._lock:
            if not self.running:
                raise HubNotRunning("stopped")
            if self.full:
                self.full -= 1
                raise HubFull("full")
            self.messages += messages
            self.timeouts += [timeout] * len(messages)

    def at_stop(self, function: Callable[[], object]) -> Callable[[], None]:
        self.stoppers.append(function)

        def cancel() -> None:
            if function in self.stoppers:
                self.stoppers.remove(function)

        return cancel

    def claim_process(self, process_id: str) -> Callable[[], object]:
        self.claimed.append(process_id)
        return lambda: self.claimed.remove(process_id)

    def add_log(self, process_id: str, path: str | None) -> None:
        """Nothing is read here."""

    @property
    def attempts(self) -> BeginningAttempts:
        """Nothing is kept of earlier ones."""
        return _Attempts()

    @contextlib.contextmanager
    def unpaced(self) -> Iterator[None]:
        yield

    def stop(self) -> None:
        for function in list(self.stoppers):
            function()
        self.running = False

    def texts(self) -> list[Any]:
        return [m.data for m in self.messages if m.type == "process_output"]

    def lines(self) -> list[str]:
        return list(join(self.texts()))

    def statuses(self) -> Iterator[Any]:
        """Return the statuses without `usage`, which is never the same."""
        return (without_usage(m.data) for m in self.messages if m.type == "process_status")


class _Attempts:
    def begin(self, process_id: str, attempt: int | None) -> dict[str, object]:
        return {} if attempt is None else {"attempt": attempt}
