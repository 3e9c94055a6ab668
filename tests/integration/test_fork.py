"""A process that forks: the child starts clean, the parent goes on (FAULTS 26, 40)."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from tests.harness import long_grace
from tests.integration.apps.fork import in_child, life_of_its_own, said
from tests.integration.apps.launch import START, hub_threads, server
from tests.integration.apps.live import live, subscribe
from tests.support import TIMEOUT, RawPeer, wait_until
from ws_hub import Hub, Server, serve

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")


def test_fault_40_a_hub_works_in_a_forked_child_and_goes_on_in_the_parent() -> None:
    with live() as hub, hub.subscribed("a") as peer:
        hub.hub.listen("a", print)
        in_child(lambda: life_of_its_own(hub.hub))
        hub.hub.send_to_channel("a", said("still here"))
        assert peer.recv_json()["data"] == "still here"
        assert peer.close() == (1000, "")


def test_fault_40_a_child_of_a_busy_parent_finds_no_lock_taken() -> None:
    # In a process that is not measured: the tracer of coverage takes a lock of its own in
    # every thread, and a child that was forked meanwhile waits for that one for ever.
    run = subprocess.run(
        # Python 3.12 warns of any fork that has threads beside it.
        [sys.executable, "-W", "ignore::DeprecationWarning", "-m", "tests.integration.apps.fork"],
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        timeout=START,
    )
    assert (run.returncode, run.stdout) == (0, "8 children lived\n"), run.stderr
    # Of publishing before the start each child is warned.
    assert [line for line in run.stderr.splitlines() if "is a fork: start() it" not in line] == []


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


def test_a_child_that_was_forked_in_a_request_ends_with_it(caplog: Any) -> None:
    """The thread of the request is its only one, and accepts no more requests."""
    children: list[int] = []

    def app(environ: Any, start_response: Any) -> list[bytes]:
        pid = os.fork()
        if pid:
            children.append(pid)
        start_response("200 OK", [])
        return []

    with Hub() as hub, serve(hub, app=app) as site:
        with socket.create_connection((site.host, site.port), TIMEOUT) as sock:
            sock.sendall(b"GET / HTTP/1.0\r\nHost: localhost\r\n\r\n")
            assert sock.recv(100).startswith(b"HTTP/1")
        (child,) = wait_until(lambda: children)  # the child may have answered before
        try:
            wait_until(lambda: os.waitpid(child, os.WNOHANG)[0])
        except AssertionError:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
            raise
    assert not caplog.records


def test_a_server_object_is_over_in_the_child() -> None:
    def end(site: Server) -> None:
        began = time.monotonic()
        site.close()
        assert time.monotonic() - began < TIMEOUT  # it waits for no thread of the parent

    with long_grace(), Hub() as hub, serve(hub) as site:
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
        complaints = [each for each in running.complaints() if "several processes" not in each]
        assert len(complaints) == bool(eager), complaints
        assert all("run in gunicorn's master" in each for each in complaints)
