"""The end of a hub and of a server: bounded, once, and said to everybody."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
from typing import Any

import pytest

from tests.integration.apps.launch import ROOT, START, command, server
from tests.integration.apps.live import at_once, live, subscribe
from tests.support import TIMEOUT, RawPeer, wait_until
from ws_hub import (
    Client,
    Hub,
    HubConfig,
    HubFull,
    HubNotRunning,
    Message,
    ReconnectingClient,
    WsHubError,
    serve,
)
from ws_hub.backoff import wait_asked
from ws_hub.testing import assert_no_leaks


def said(data: Any) -> Message:
    return Message("event", data=data)


def test_clients_are_told_1001_after_all_that_was_published() -> None:
    with live() as hub, contextlib.ExitStack() as stack:
        peers = [stack.enter_context(hub.subscribed("a")) for _ in range(10)]
        for number in range(100):
            hub.hub.send_to_channel("a", said(number))
        with at_once(hub.hub.stop):
            for peer in peers:
                assert [peer.recv_json()["data"] for _ in range(100)] == list(range(100))
                assert peer.recv_close() == (1001, "server going away")
                peer.send_close(1001)
                assert peer.recv_eof() == b""
        assert [hub.notes.end()[0] for _ in peers] == [1001] * 10
        assert hub.hub.client_count() == 0 and not hub.hub.running


def test_after_stop_the_threads_are_those_of_before() -> None:
    hub = Hub(HubConfig(on_first_subscriber=print))
    with assert_no_leaks(TIMEOUT), hub, serve(hub) as site, RawPeer(site.host, site.port) as peer:
        hub.listen("a", print)
        subscribe(peer, "a")
        with at_once(hub.stop):
            assert peer.recv_close()[0] == 1001
            peer.send_close(1001)


def test_disconnected_client_that_does_not_answer_ends_with_the_hub() -> None:
    # It is no client any more, but its reader thread waits for the peer's Close frame.
    before = set(threading.enumerate())
    with live(outbox_messages=1, close_timeout=0.3) as site, site.peer(rcvbuf=4096):
        site.client()
        while not site.hub.stats().slow_disconnects:
            site.hub.broadcast(said("x" * 10_000))
        site.hub.stop()
        left = set(threading.enumerate()) - before
        assert not [thread for thread in left if thread.name.startswith("ws-hub:reader")]


def test_fault_39_stop_from_many_threads_at_once_is_one_stop() -> None:
    with live(close_timeout=0.2) as hub, hub.peer():
        began = time.monotonic()
        with at_once(*[hub.hub.stop] * 8):
            pass
        assert time.monotonic() - began < TIMEOUT
        hub.hub.stop()
        assert not hub.hub.running


def test_fault_39_stop_while_all_threads_publish() -> None:
    ended: list[str] = []

    def publish() -> None:
        try:
            while True:
                hub.hub.broadcast(said("x" * 100))
                hub.hub.send_process_output("p", "line")
        except (HubNotRunning, HubFull) as error:
            ended.append(type(error).__name__)

    def read(peer: RawPeer) -> None:
        assert peer.recv_close()[0] == 1001
        peer.send_close(1001)

    with live() as hub, hub.peer() as one, hub.subscribed("process:p") as two:
        with at_once(publish, publish, publish, lambda: read(one), lambda: read(two)):
            wait_until(lambda: hub.hub.stats().published > 100)
            hub.hub.stop()
    assert ended == ["HubNotRunning"] * 3


def test_a_peer_that_never_answers_the_close_delays_stop_by_the_closing_time_only() -> None:
    with live(close_timeout=0.3) as hub, hub.peer() as silent:
        began = time.monotonic()
        hub.hub.stop()
        assert 0.2 < time.monotonic() - began < TIMEOUT
        assert silent.recv_close()[0] == 1001
        with contextlib.suppress(ConnectionError):
            silent.recv_eof()


def test_fault_36_a_callback_that_blocks_delays_stop_by_a_bound(
    caplog: pytest.LogCaptureFixture,
) -> None:
    entered, release = threading.Event(), threading.Event()

    def on_message(client: Client, message: Message) -> None:
        entered.set()
        release.wait(2 * TIMEOUT)

    with live(on_message=on_message, close_timeout=0.1) as hub, hub.peer() as peer:
        try:
            peer.send_json({"type": "work"})
            assert entered.wait(TIMEOUT)
            began = time.monotonic()
            hub.hub.stop()
            assert time.monotonic() - began < TIMEOUT
            assert "still runs" in caplog.text
        finally:
            release.set()


def test_stop_ends_within_the_time_that_it_is_given() -> None:
    with live(close_timeout=TIMEOUT) as hub, hub.peer():
        began = time.monotonic()
        hub.hub.stop(timeout=0.05)
        assert time.monotonic() - began < TIMEOUT / 2


def test_a_stopped_hub_refuses_and_can_be_started_again() -> None:
    hub = Hub()
    with serve(hub) as site:
        for _ in range(3):
            with RawPeer(site.host, site.port) as peer:
                hub.broadcast(said("hello"))
                assert peer.recv_json()["data"] == "hello"
                with at_once(hub.stop):
                    assert peer.recv_close()[0] == 1001
                    peer.send_close(1001)
            with RawPeer(site.host, site.port, handshake=False) as late:
                late.send_raw(late.request())
                response = late.read_response()
                assert response.status == 503 and b"not running" in response.body
                assert "retry-after" in response.headers
            with pytest.raises(HubNotRunning):
                hub.broadcast(said("into the void"))
            hub.start()


def test_a_channel_starts_again_with_another_epoch_in_the_hubs_next_life() -> None:
    hub = Hub()
    with serve(hub) as site:
        epochs = set()
        for _ in range(2):
            hub.send_process_output("p", "one")
            with RawPeer(site.host, site.port) as peer:
                data = subscribe(peer, "process:p", since=0)
                assert (data["seq"], data["replayed"]) == (1, 1)
                epochs.add(data["epoch"])
            hub.stop()
            hub.start()
        assert len(epochs) == 2


def test_run_blocks_until_stop_and_is_one_at_a_time() -> None:
    hub = Hub()
    thread = threading.Thread(target=hub.run)
    thread.start()
    wait_until(lambda: hub.running)
    with pytest.raises(WsHubError, match="running"):
        hub.run()
    assert hub.start() is hub
    hub.stop()
    thread.join(TIMEOUT)
    assert not thread.is_alive()


def test_what_at_stop_publishes_is_still_delivered() -> None:
    with live() as hub, hub.peer() as peer:
        hub.hub.at_stop(lambda: hub.hub.broadcast(said("last words")))
        cancel = hub.hub.at_stop(lambda: hub.hub.broadcast(said("taken back")))
        cancel()
        with at_once(hub.hub.stop):
            assert peer.recv_json()["data"] == "last words"
            assert peer.recv_close()[0] == 1001
            peer.send_close(1001)


def test_fault_50_three_hundred_clients_are_drained_in_batches_and_asked_back_spread() -> None:
    with live() as hub, contextlib.ExitStack() as stack:
        peers = [stack.enter_context(hub.peer()) for _ in range(300)]
        heard: list[float] = []

        def read() -> None:
            for peer in peers:
                code, reason = peer.recv_close()
                seconds = wait_asked(reason)
                assert code == 1012 and seconds is not None
                heard.append(seconds)
                peer.send_close(1012)

        with at_once(read):
            hub.hub.drain(0.4, spread=10.0)
        fullest = max(sum(start <= each < start + 1 for each in heard) for start in range(10))
        assert len(heard) == 300 and fullest < 300 / 5
        with hub.peer(handshake=False) as late:
            late.send_raw(late.request())
            refused = late.read_response()
            assert refused.status == 503 and "retry-after" in refused.headers
        hub.empty()
        assert [hub.notes.end()[0] for _ in peers] == [1012] * 300


def test_a_client_that_was_drained_is_back_when_it_was_told_and_not_before() -> None:
    back, asked = threading.Event(), list[float]()
    settings: dict[str, Any] = {"initial_backoff": 0.01, "on_reconnect": lambda n: back.set()}
    settings["on_disconnect"] = lambda code, reason, retry: asked.append(wait_asked(reason) or -1)
    with live() as hub, ReconnectingClient(hub.server.url, **settings):
        hub.client()
        began = time.monotonic()
        hub.hub.drain(0, spread=0.5)
        hub.hub.stop()
        hub.hub.start()
        assert back.wait(TIMEOUT)
        assert 0 <= asked[0] <= time.monotonic() - began
        assert len(asked) == 1


# --- in a process of its own ---------------------------------------------------------------

SCRIPT = """
import signal, sys, threading
import ws_hub
from ws_hub import Hub, serve

hub = Hub()
{body}
"""


def run(body: str) -> Any:
    return command([sys.executable, "-c", SCRIPT.format(body=body)])


def test_an_interpreter_that_exits_says_1001_without_being_asked() -> None:
    body = "hub.start(); s = serve(hub); print(s.port, flush=True); sys.stdin.read()"
    with run(body) as running:
        peer = RawPeer(running.host, running.port)
        running.process.stdin.close()
        assert peer.recv_close()[0] == 1001
        peer.send_close(1001)
        assert peer.recv_eof() == b""
        peer.sock.close()
        assert running.process.wait(START) == 0
        assert running.complaints() == []


def test_fault_39_a_signal_handler_may_stop_the_hub_that_runs_below_it() -> None:
    body = (
        "signal.signal(signal.SIGTERM, lambda *_: hub.stop());"
        "s = serve(hub.start()); hub.stop();"
        "print(s.port, flush=True); hub.run(); s.close(); print('done', flush=True)"
    )
    with run(body) as running:

        def connect() -> Any:
            peer = RawPeer(running.host, running.port, handshake=False)
            peer.send_raw(peer.request())
            if peer.read_response().status == 101:
                return peer
            return peer.sock.close()

        peer = wait_until(connect)
        running.process.send_signal(signal.SIGTERM)
        assert peer.recv_close()[0] == 1001
        peer.send_close(1001)
        peer.sock.close()
        assert running.process.wait(START) == 0
        assert "done" in running.log() and running.complaints() == []


SERVED = {
    "script": "s = serve(hub); print(s.port, flush=True); threading.Event().wait()",
    "with": "with serve(hub) as s: print(s.port, flush=True); signal.pause()",
    "werkzeug": "from werkzeug.serving import make_server; app = hub.start().handler();"
    "s = make_server('127.0.0.1', 0, app, threaded=True); print(s.port, flush=True);"
    "s.serve_forever()",
}


@pytest.mark.parametrize(
    ("how", "number"),
    [
        ("script", signal.SIGTERM),
        ("with", signal.SIGHUP),
        ("werkzeug", signal.SIGTERM),
        ("werkzeug", signal.SIGINT),
    ],
)
def test_fault_41_a_program_that_was_told_to_exit_on_signals_says_1001(
    how: str, number: int
) -> None:
    with run("ws_hub.exit_on_signals()\n" + SERVED[how]) as running:
        with RawPeer(running.host, running.port) as peer:
            if how != "werkzeug":
                # A signal that comes just before such a wait does not end it: that is Python's.
                await_rest(running.process.pid)
            running.process.send_signal(number)
            assert peer.recv_close()[0] == 1001
            peer.send_close(1001)
        assert running.process.wait(START) == 0
        assert running.complaints() == []


def test_ctrl_c_in_run_ends_the_hub_and_is_raised() -> None:
    body = (
        "s = serve(hub.start()); hub.stop(); print(s.port, flush=True)\n"
        "try: hub.run()\n"
        "except KeyboardInterrupt: print('interrupted', hub.running, flush=True)\n"
        "s.close()"
    )
    with run(body) as running:
        await_rest(running.process.pid)
        running.process.send_signal(signal.SIGINT)
        assert running.process.wait(START) == 0
        assert "interrupted False" in running.log()


def await_rest(pid: int) -> None:
    """Wait until the main thread of a program waits, and has done nothing else for a while."""
    seen: list[str] = []

    def is_resting() -> bool:
        """Say whether it has waited since six looks ago without a switch to it."""
        with open(f"/proc/{pid}/wchan", encoding="ascii") as file:
            where = file.read()
        with open(f"/proc/{pid}/task/{pid}/status", encoding="ascii") as file:
            switches = [line for line in file if "ctxt_switches" in line]
        seen.append(f"{where} {switches}")
        waits = "futex" in where or "pause" in where
        return waits and len(seen) > 5 and len({*seen[-6:]}) == 1

    wait_until(is_resting)


# --- gunicorn ------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["gthread", "sync", "preload"])
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_fault_41_a_gunicorn_worker_that_is_ended_says_1001(kind: str, number: int) -> None:
    with server(kind) as running, contextlib.ExitStack() as stack:
        peers = [stack.enter_context(RawPeer(running.host, running.port)) for _ in range(5)]
        running.await_accepted()
        began = time.monotonic()
        running.process.send_signal(number)
        for peer in peers:
            assert peer.recv_close()[0] == 1001
            peer.send_close(1001)
        assert running.process.wait(START) == 0
        assert time.monotonic() - began < TIMEOUT
        if number == signal.SIGTERM:  # at SIGINT gunicorn logs the request that it breaks off
            assert running.complaints() == []


def test_a_gunicorn_worker_that_is_replaced_says_1001() -> None:
    with server("gthread") as running, RawPeer(running.host, running.port) as peer:
        pid = running.state()["pid"]
        running.process.send_signal(signal.SIGHUP)
        assert peer.recv_close()[0] == 1001
        peer.send_close(1001)
        wait_until(lambda: running.state()["pid"] != pid)
        with RawPeer(running.host, running.port) as again:
            assert again.close() == (1000, "")


def test_the_scripts_of_these_tests_run_where_the_project_is() -> None:
    assert subprocess.check_output([sys.executable, "-c", "import ws_hub"], cwd=ROOT) == b""
    assert os.path.exists(ROOT / "pyproject.toml")
