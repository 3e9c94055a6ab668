"""A reconnecting client whose callbacks write down what happened."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any

from tests.support import TIMEOUT, wait_until
from ws_hub import ConnectionState, Message, ReconnectConfig, ReconnectingClient, threads

__all__ = ["Seen", "await_inside", "is_inside"]


def is_inside(role: str, *functions: Callable[..., Any]) -> bool:
    """Say whether a thread whose name begins so is in all of these calls at this moment."""
    wanted = {function.__code__ for function in functions}
    stacks = threads.stacks()
    for thread in threading.enumerate():
        frame = stacks.get(thread.ident or 0) if thread.name.startswith(role) else None
        running = set()
        while frame is not None:
            running.add(frame.f_code)
            frame = frame.f_back
        if wanted <= running:
            return True
    return False


def await_inside(role: str, *functions: Callable[..., Any]) -> None:
    """Wait until a thread whose name begins so is in all of these calls."""
    wait_until(lambda: is_inside(role, *functions), what=f"{role} in {functions}")


class Seen:
    """What a client's callbacks were called with, in order; `with` closes the client.

    `events` holds tuples: ("connect",), ("disconnect", code, reason, will_retry),
    ("reconnect", attempt), ("message", message), ("error", exception). `hook`, when set,
    is called with each of them on the client's thread.
    """

    def __init__(self, url: str, *, messages: bool = True, **settings: Any) -> None:
        self.events: list[tuple[Any, ...]] = []
        self.hook: Callable[[tuple[Any, ...]], None] | None = None
        settings = {"initial_backoff": 0.02, "max_backoff": 0.05, "jitter": False, **settings}
        self.config = ReconnectConfig(
            url=url,
            on_connect=lambda: self._saw("connect"),
            on_disconnect=lambda *arguments: self._saw("disconnect", *arguments),
            on_reconnect=lambda attempt: self._saw("reconnect", attempt),
            on_message=(lambda message: self._saw("message", message)) if messages else None,
            on_error=lambda error: self._saw("error", error),
            **settings,
        )
        self.client = ReconnectingClient(self.config)
        self.result: list[BaseException | None] = []
        self._thread: threading.Thread | None = None

    def __enter__(self) -> Seen:
        return self

    def __exit__(self, *_: object) -> None:
        self.client.close()
        if self._thread is not None:
            self._thread.join(TIMEOUT)

    def _saw(self, *event: Any) -> None:
        self.events.append(event)
        if self.hook is not None:
            self.hook(event)

    def start(self) -> Seen:
        self.client.start()
        return self

    def connect(self) -> Seen:
        """Call `connect()` on a thread of the test's; what it raised is in `result`."""
        self._thread = threading.Thread(target=self._connect, name="connector")
        self._thread.start()
        return self

    def _connect(self) -> None:
        try:
            self.client.connect()
        except BaseException as error:  # noqa: BLE001 - the test's to look at
            self.result.append(error)
        else:
            self.result.append(None)

    def outcome(self) -> BaseException | None:
        """Wait for the end of `connect()`; return what it raised."""
        assert self._thread is not None
        self._thread.join(TIMEOUT)
        return self.result[0]

    def connected(self) -> Seen:
        wait_until(lambda: self.client.state is ConnectionState.CONNECTED, what="connected")
        return self

    def of(self, kind: str) -> list[tuple[Any, ...]]:
        return [event for event in self.events if event[0] == kind]

    def wait(self, kind: str, count: int = 1) -> tuple[Any, ...]:
        """Wait for the `count`th event of a kind; return it without its name."""
        wait_until(
            lambda: len(self.of(kind)) >= count, what=f"{count} x {kind}; got {self.events[-5:]}"
        )
        return self.of(kind)[count - 1][1:]

    def messages(self, kind: str = "") -> list[Message]:
        return [event[1] for event in self.of("message") if not kind or event[1].type == kind]

    def data(self, kind: str = "") -> list[Any]:
        return [message.data for message in self.messages(kind)]

    def wait_data(self, *data: Any, kind: str = "") -> None:
        """Wait until the messages' data is exactly this."""
        wait_until(lambda: len(self.data(kind)) >= len(data), what=f"{data}; got {self.data(kind)}")
        assert self.data(kind) == list(data)

    def close_at_once(self) -> None:
        """Close the client, which waits for no server, callback or lookup.

        They may take ten seconds or more; that a close takes one is a matter of a quiet machine.
        """
        begin = time.monotonic()
        self.client.close()
        assert time.monotonic() - begin < 10.0
