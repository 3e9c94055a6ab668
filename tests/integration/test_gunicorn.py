"""gunicorn with the hooks of `ws_hub.gunicorn`: the end of a worker is said at once."""

from __future__ import annotations

import contextlib
import logging
import os
import re
import signal
import socket
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from gunicorn.config import KNOWN_SETTINGS, Config

from tests.harness import Peer
from tests.integration.apps.launch import START, Running, client_context, server
from tests.support import TIMEOUT, RawPeer, wait_until
from ws_hub import Hub, gunicorn, threads
from ws_hub.backoff import wait_asked
from ws_hub.hub import exits

GRACE = 2 * START  # so that no exit can be taken for one that the graceful timeout has forced
ENDS = {signal.SIGTERM: 1001, signal.SIGINT: 1001, signal.SIGQUIT: 1001, signal.SIGHUP: 1012}


@contextlib.contextmanager
def hooked(
    kind: str, *options: str, tls: bool = False, config: str = "python:ws_hub.gunicorn"
) -> Iterator[Running]:
    options = ("--config", config, "--graceful-timeout", str(GRACE), *options)
    with server(kind, tls=tls, options=list(options)) as running:
        yield running


def peer(running: Running, stack: contextlib.ExitStack) -> RawPeer:
    tls = client_context() if running.scheme == "https" else None
    return stack.enter_context(RawPeer(running.host, running.port, ssl_context=tls))


def handles_signals(pid: int) -> bool:
    """Whether a worker has set its handlers: that of SIGABRT, which it alone has, comes last."""
    found = re.search(r"SigCgt:\s*(\w+)", Path(f"/proc/{pid}/status").read_text())
    return found is not None and bool(int(found[1], 16) >> (signal.SIGABRT - 1) & 1)


def children(running: Running) -> list[int]:
    pid = running.process.pid
    return [int(each) for each in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def hear(peers: list[RawPeer], code: int) -> None:
    """Read the goodbyes, which come while gunicorn still waits for its requests."""
    for each in peers:
        heard, reason = each.recv_close()
        assert heard == code
        assert (wait_asked(reason) is not None) is (code == 1012)
        each.send_close(code)


@pytest.mark.parametrize(
    ("kind", "number"),
    [
        *(("gthread", number) for number in ENDS),
        ("sync", signal.SIGTERM),
        ("sync", signal.SIGHUP),
        ("preload", signal.SIGHUP),
    ],
)
def test_fault_41_with_the_hooks_a_worker_says_it_before_its_last_request_ends(
    kind: str, number: int
) -> None:
    # The others break requests off; in a sync worker a request is what its signals wait for.
    waits = number in (signal.SIGTERM, signal.SIGHUP) and kind != "sync"
    with hooked(kind) as running, contextlib.ExitStack() as stack:
        peers = [peer(running, stack) for _ in range(3)]
        running.await_accepted()
        held = stack.enter_context(running.held()) if waits else None
        worker = children(running)[0]
        began = time.monotonic()
        running.process.send_signal(number)
        hear(peers, ENDS[number])
        if held is not None:
            held.sendall(b"x")
            assert held.recv(12, socket.MSG_WAITALL) == b"HTTP/1.1 200"
            held.close()  # gunicorn waits two seconds for that
        if number == signal.SIGHUP:
            wait_until(lambda: running.state()["pid"] != worker)
            running.process.send_signal(signal.SIGTERM)
        assert running.process.wait(START) == 0
        assert time.monotonic() - began < GRACE
        assert not os.path.exists(f"/proc/{worker}")
        if number in (signal.SIGTERM, signal.SIGHUP):
            assert running.complaints() == [], running.log()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_fault_41_under_tls_of_its_own_a_worker_does_not_wait_for_its_websockets(
    number: int, tmp_path: Path
) -> None:
    config = tmp_path / "gunicorn.conf.py"
    config.write_text("from ws_hub.gunicorn import *\n", encoding="utf-8")
    with contextlib.ExitStack() as stack:
        running = stack.enter_context(
            hooked("gthread", "--threads", "4", tls=True, config=str(config))
        )
        peers = [peer(running, stack) for _ in range(3)]
        pid = running.state()["pid"]
        running.await_accepted()
        running.process.send_signal(number)
        hear(peers, ENDS[number])
        if number == signal.SIGHUP:
            wait_until(lambda: running.state()["pid"] != pid)
            running.process.send_signal(signal.SIGTERM)
        assert running.process.wait(START) == 0


def test_every_worker_says_it_for_itself() -> None:
    with hooked("gthread", "--workers", "3") as running, contextlib.ExitStack() as stack:
        # A worker that gets the signal before it has handlers of its own never hears of it.
        wait_until(lambda: sum(map(handles_signals, children(running))) == 3, START)
        peers = [peer(running, stack) for _ in range(12)]
        running.process.send_signal(signal.SIGTERM)
        hear(peers, 1001)
        assert running.process.wait(START) == 0
        (line,) = running.complaints()
        assert "gunicorn has 3 workers" in line


@pytest.mark.parametrize("options", [("--max-requests", "4"), ("--reload",)])
def test_a_worker_that_is_replaced_says_1012(options: tuple[str, ...]) -> None:
    with hooked("gthread", *options) as running, contextlib.ExitStack() as stack:
        peers = [peer(running, stack) for _ in range(2)]
        held = stack.enter_context(running.held())
        pid = running.state()["pid"]
        if options == ("--reload",):
            os.kill(pid, signal.SIGTERM)  # what a changed file comes to
        hear(peers, 1012)
        held.close()
        wait_until(lambda: running.state()["pid"] != pid)
        again = peer(running, stack)
        assert again.close() == (1000, "")


@pytest.mark.parametrize("hooks", [True, False])
def test_fault_77_a_hub_in_the_master_is_warned_of_once_without_logging_set_up(
    hooks: bool,
) -> None:
    options = ["--workers", "2", *(["--config", "python:ws_hub.gunicorn"] if hooks else [])]
    with server("preload", app="quiet", options=options) as running:
        assert running.get("/").status == 200
        first = wait_until(lambda: len(now := children(running)) == 2 and now)
        os.kill(first[0], signal.SIGKILL)  # for one more fork
        wait_until(lambda: len(now := children(running)) == 2 and now != first)
        assert running.get("/").status == 200
        assert running.stop() == 0
        warnings = [line for line in running.log().splitlines() if "before the fork" in line]
    assert len(warnings) == 1, running.log()
    assert f"process {running.process.pid}, before the fork" in warnings[0]
    assert "start() the hub in each worker" in warnings[0]
    assert ("[WARNING]" in warnings[0]) is hooks  # in gunicorn's own log


def test_fault_103_what_a_callback_raises_is_shown_without_logging_set_up() -> None:
    with server("gthread", app="quiet") as running:
        with RawPeer(running.host, running.port) as peer:
            peer.send_json({"type": "say", "data": 1, "id": 1})
            assert peer.recv_json()["type"] == "error"
        wait_until(lambda: "\nLookupError: on_message of the quiet" in running.log())
        assert "callback " in running.log() and "Traceback (most recent" in running.log()
        assert "before the fork" not in running.log()  # each worker has a hub of its own


# --- without a server ----------------------------------------------------------------------


def test_gunicorn_takes_the_hooks_for_settings_and_nothing_else() -> None:
    names = {setting.name for setting in KNOWN_SETTINGS}
    assert names & vars(gunicorn).keys() == set(gunicorn.__all__)
    config = Config()
    for name in gunicorn.__all__:
        config.set(name, getattr(gunicorn, name))  # it checks how many arguments they take


def a_worker(**changes: Any) -> Any:
    config = SimpleNamespace(graceful_timeout=10.0, reload=False, workers=1)
    log = logging.getLogger("gunicorn.error")
    facts = {"alive": False, "nr": 0, "max_requests": 10, "cfg": config, "log": log}
    return SimpleNamespace(**{**facts, **changes})


def test_a_worker_without_a_thread_to_watch_ends_its_hubs_at_its_exit(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refuse(*_: object) -> None:
        raise RuntimeError("can't start new thread")

    worker = a_worker()
    with monkeypatch.context() as patch, Hub() as hub:
        patch.setattr(gunicorn, "start", refuse)
        gunicorn.post_worker_init(worker)
        assert "late" in caplog.text
        assert hub in exits.running()
        gunicorn.worker_exit(None, worker)
        assert not hub.running and not hub.draining
        assert exits.running() == []


def test_fault_42_a_worker_whose_threads_cannot_all_be_had_says_so_and_frees_those_that_wait(
    caplog: pytest.LogCaptureFixture,
) -> None:
    class Pool(ThreadPoolExecutor):
        def submit(self, *args: Any, **kwargs: Any) -> Any:
            if len(self._threads) == 2:
                raise RuntimeError("can't start new thread")
            return super().submit(*args, **kwargs)

    config = SimpleNamespace(threads=3, graceful_timeout=1.0, reload=False, workers=1)
    with Pool(3) as pool:  # whose end waits for both
        gunicorn.post_worker_init(a_worker(tpool=pool, cfg=config))
    assert "cannot start all 3 threads" in caplog.text


def test_a_worker_that_never_came_up_has_nothing_to_end() -> None:
    gunicorn.worker_exit(None, a_worker())


def test_a_hub_that_does_not_end_is_waited_for_half_the_graceful_timeout_and_no_more() -> None:
    release, worker = threading.Event(), a_worker()
    worker.cfg.graceful_timeout = 0.1
    with Hub() as hub:
        hub.at_stop(lambda: release.wait(TIMEOUT))
        try:
            gunicorn.worker_exit(None, worker)
            assert exits.running() == []  # and the interpreter's exit does not wait for it
        finally:
            release.set()


@pytest.mark.parametrize("cause", ["reload", "requests", "none"])
def test_hooks_know_which_ends_let_clients_return(cause: str) -> None:
    worker = a_worker(alive=True, nr=10 if cause == "requests" else 9)
    with Hub() as hub, Peer(hub) as client, ThreadPoolExecutor(1) as beside:
        gunicorn.post_worker_init(worker)
        if cause == "reload":
            gunicorn.on_reload(None)
        worker.alive = False  # which the worker's own thread sees, sooner or later
        closed = beside.submit(client.closed)
        gunicorn.worker_exit(None, worker)
        assert not hub.running
        code, reason = closed.result(TIMEOUT) or (0, "")
        assert code == (1001 if cause == "none" else 1012)
        assert (wait_asked(reason) is None) is (cause == "none")
    assert threads.longest_wait() < 1  # the main thread, where gunicorn calls the hooks
