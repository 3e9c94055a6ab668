"""What a forked child does with the hub of its parent; as a program: while that is busy."""

from __future__ import annotations

import os
import signal
import threading
import traceback
from collections.abc import Callable
from typing import Any

import pytest

from tests.integration.apps.live import at_once, live, subscribe
from tests.support import TIMEOUT, RawPeer
from ws_hub import Hub, HubNotRunning, Message, serve


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


def fork_while_busy(children: int) -> None:
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
                for _ in range(children):
                    in_child(lambda: life_of_its_own(hub.hub))
            finally:
                over.set()
                hub.hub.broadcast(said("the end"))  # the reader may be waiting already


if __name__ == "__main__":
    fork_while_busy(8)
    print("8 children lived")
