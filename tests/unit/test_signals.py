"""Signals: news in a queue, and no wait of the main thread that one could come too early for."""

from __future__ import annotations

import contextlib
import queue
import signal
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from tests.support import wait_until
from ws_hub import Hub, ReconnectConfig, ReconnectingClient, serve, threads
from ws_hub.signals import Signals, exit_on_signals


def test_signals_are_queued_and_the_old_handlers_are_restored() -> None:
    before = signal.getsignal(signal.SIGTERM)
    with Signals() as signals:
        signal.raise_signal(signal.SIGTERM)
        signal.raise_signal(signal.SIGINT)
        signals.put(None)
        assert [signals.wait(5) for _ in range(3)] == [signal.SIGTERM, signal.SIGINT, None]
    assert signal.getsignal(signal.SIGTERM) is before


@pytest.mark.parametrize("timeout", [0, 0.01, 0.7])
def test_a_wait_for_a_signal_times_out(timeout: float) -> None:
    with pytest.raises(queue.Empty):
        Signals().wait(timeout)


def test_a_hangup_that_is_ignored_stays_so() -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with Signals():
            assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)


def test_outside_the_main_thread_no_handler_is_set() -> None:
    before = signal.getsignal(signal.SIGTERM)
    seen: list[object] = []

    def look() -> None:
        with Signals():
            seen.append(signal.getsignal(signal.SIGTERM))

    thread = threading.Thread(target=look)
    thread.start()
    thread.join(5)
    assert seen == [before]


# --- a signal that comes just before a wait ------------------------------------------------


def where() -> tuple[Any, int]:
    frame = threads.stacks()[threading.main_thread().ident or 0]
    return frame, frame.f_lasti


@contextlib.contextmanager
def signal_that_wakes_nobody(number: int) -> Iterator[None]:
    """Send a signal once the main thread waits, without the interruption of its wait.

    As one has it that came between the interpreter's last look for signals and the system
    call: it is taken by another thread here, so that the window is not one of nanoseconds.
    """
    assert threading.current_thread() is threading.main_thread()
    masked = threading.Event()

    def send() -> None:
        masked.wait()
        seen: list[Any] = []

        def waits() -> bool:
            seen.append(where())
            return len(seen) > 3 and len(set(seen[-4:])) == 1

        wait_until(waits)
        seen.clear()
        signal.pthread_kill(threading.get_ident(), number)

    thread = threading.Thread(target=send)
    thread.start()
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {number})
    masked.set()
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
        thread.join()


@pytest.mark.timeout(10)
def test_a_hub_in_the_main_thread_handles_a_signal() -> None:
    hub = Hub()
    before = signal.signal(signal.SIGTERM, lambda *_: hub.stop())
    try:
        with signal_that_wakes_nobody(signal.SIGTERM):
            hub.run()
    finally:
        signal.signal(signal.SIGTERM, before)
    assert not hub.running


@pytest.mark.timeout(10)
def test_the_commands_handle_a_signal() -> None:
    with Signals() as signals, signal_that_wakes_nobody(signal.SIGTERM):
        assert signals.wait() == signal.SIGTERM


@pytest.mark.timeout(10)
def test_a_client_in_the_main_thread_handles_a_signal() -> None:
    with Hub() as hub, serve(hub) as site:
        client = ReconnectingClient(ReconnectConfig(url=site.url))
        before = signal.signal(signal.SIGTERM, lambda *_: client.close())
        try:
            with signal_that_wakes_nobody(signal.SIGTERM):
                client.connect()
        finally:
            signal.signal(signal.SIGTERM, before)
    assert client.state.value == "disconnected"


@pytest.mark.parametrize("name", ["SIGTERM", "SIGHUP"])
def test_exit_on_signals_ends_a_program_like_sys_exit(name: str) -> None:
    before = {each: signal.getsignal(each) for each in (signal.SIGTERM, signal.SIGHUP)}
    try:
        exit_on_signals()
        with pytest.raises(SystemExit) as raised:
            signal.raise_signal(getattr(signal, name))
        assert raised.value.code == 0
        signal.signal(signal.SIGHUP, signal.SIG_IGN)  # nohup
        exit_on_signals()
        assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
