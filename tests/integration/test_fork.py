"""A process that forks: the child starts clean, the parent goes on (FAULTS 26, 40)."""

from __future__ import annotations

import os
import signal
import socket
import sys
import threading
import time
import traceback
from collections.abc import Callable
from typing import Any

import pytest

from tests.integration.apps.launch import START, hub_threads, server
from tests.integration.apps.live import at_once, live, subscribe
from tests.support import TIMEOUT, RawPeer
from ws_hub import Hub, HubNotRunning, Message, Server, serve

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")


def said(data: Any) -> Message:
    return Message("event", data=data)


def in_child(function: Callable[[], object]) -> None:
    """Run a function in a forked child; fail with what it raised there."""
    read, write = os.pipe()
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            signal.alarm(int(4 * TIMEOUT))  # a deadlocked child ends by itself
            function()
            status = 0
        except BaseException:  # noqa: BLE001 - told to the parent
            os.write(write, traceback.format_exc().encode())
        finally:
            os._exit(status)
    os.close(write)
    with open(read, encoding="utf-8") as told:
        text = told.read()
    _, status = os.waitpid(pid, 0)
    assert status == 0, text or f"the child ended with status {status}"


def life_of_its_own(hub: Hub) -> None:
    """What a child does with the hub that it inherited."""
    assert not hub.running
    assert (hub.client_count(), hub.channel_count()) == (0, 0)
    with pytest.raises(HubNotRunning):
        hub.broadcast(said("to nobody"))
    hub.stop()  # of a hub that does not run here: nothing
    with serve(hub) as site, RawPeer(site.host, site.port) as peer:
        subscribe(peer, "a")
        hub.send_to_channel("a", said("from the child"))
        assert peer.recv_json()["data"] == "from the child"
        assert hub.stats().connected == 1
        with at_once(hub.stop):
            assert peer.recv_close()[0] == 1001
            peer.send_close(1001)
    assert [t.name for t in threading.enumerate() if t.name.startswith("ws-hub:")] == []


def test_fault_40_a_hub_works_in_a_forked_child_and_goes_on_in_the_parent() -> None:
    with live() as hub, hub.subscribed("a") as peer:
        hub.hub.listen("a", print)
        in_child(lambda: life_of_its_own(hub.hub))
        hub.hub.send_to_channel("a", said("still here"))
        assert peer.recv_json()["data"] == "still here"
        assert peer.close() == (1000, "")


@pytest.mark.skipif(
    "coverage" in sys.modules,
    reason="the tracer has locks of its own, which a busy parent may hold when it forks",
)
def test_fault_40_a_child_of_a_busy_parent_finds_no_lock_taken() -> None:
    """Forked while every lock is in use by threads that the child does not have."""
    over = threading.Event()

    def publish() -> None:
        while not over.is_set():
            hub.hub.broadcast(said("x"))
            hub.hub.send_process_output("p", "line")
            hub.hub.stats()

    def churn() -> None:
        while not over.is_set():
            with hub.peer() as peer:
                peer.send_json({"type": "subscribe", "channel": "a"})
                peer.close()

    def read() -> None:
        while not over.is_set():
            reader.recv_frame()

    with live() as hub, hub.subscribed("process:p") as reader:
        with at_once(publish, publish, churn, read):
            try:
                for _ in range(8):
                    in_child(lambda: life_of_its_own(hub.hub))
            finally:
                over.set()


def test_a_child_does_not_keep_the_parents_connections_or_its_port() -> None:
    with Hub() as hub:
        site = serve(hub)
        peer = RawPeer(site.host, site.port)
        subscribe(peer, "a")
        here, there = socket.socketpair()
        pid = os.fork()
        if pid == 0:
            try:
                here.close()
                there.send(b"!")
                there.recv(1)  # lives until the parent is done
            finally:
                os._exit(0)
        try:
            there.close()
            assert here.recv(1) == b"!"  # it has forgotten what it had to
            site.close()
            with pytest.raises(ConnectionRefusedError):
                RawPeer(site.host, site.port)
            hub.all_clients()[0].close(4000, "bye")
            assert peer.recv_close() == (4000, "bye")
            peer.send_close(4000)
            assert peer.recv_eof() == b""  # would not come while the child held the socket
        finally:
            peer.sock.close()
            here.close()
            os.waitpid(pid, 0)


def test_a_server_object_is_over_in_the_child() -> None:
    def end(site: Server) -> None:
        began = time.monotonic()
        site.close()
        assert time.monotonic() - began < 1

    with Hub() as hub, serve(hub) as site:
        in_child(lambda: end(site))
        with RawPeer(site.host, site.port) as peer:
            assert peer.close() == (1000, "")


@pytest.mark.parametrize("eager", ["", "1"])
def test_fault_40_under_gunicorn_preload_the_worker_has_a_hub_of_its_own(eager: str) -> None:
    """With `hub.start()` at import time it runs in the master, and starts anew in a worker."""
    with server("preload", options=["--workers", "2"], WS_HUB_EAGER=eager) as running:
        with RawPeer(running.host, running.port) as peer:
            peer.send_json({"type": "shout", "data": "hello", "id": 1})
            assert peer.recv_json()["data"] == "HELLO"
            assert peer.close() == (1000, "")
        pids = {running.settled()["pid"] for _ in range(6)}
        assert running.process.pid not in pids
        assert hub_threads(running.state()) == []
        assert running.stop() == 0
        assert running.process.wait(START) == 0
        assert running.complaints() == []
