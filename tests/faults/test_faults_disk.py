"""What a disk that fails must not hide. Row 133 of the list of faults."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from tests import node
from tests.harness import full_disk
from tests.integration.clients import Seen
from tests.support import TIMEOUT, wait_until
from ws_hub import ChannelRule, Hub, HubConfig, Message, MessagesLost, SqliteHistory, serve
from ws_hub.testing import FaultProxy

RULES = [ChannelRule(pattern="*", history_messages=100)]
TOO_MUCH = "x" * 100_000

# The numbers that a client is to receive, and what it is to report between them.
TOLD = [1, 2, ["lost", 2], 5, 6, ["lost", 1], 8, 9]

PROGRAM = """
import {HubClient} from "./ws_hub.js";
import {WebSocket} from "ws";
const client = new HubClient(process.argv[2], {WebSocket, initialBackoff: 10, maxBackoff: 20});
const told = [];
const lost = (count) => told.push(["lost", count]);
const ended = new Promise((end) => client.subscribe("kept", ({seq, data}) => {
  told.push(seq);
  if (seq === 1) client.send({type: "begun"});
  if (data === "the end") end();
}, {since: 0, onGap: lost, onSync: ({missed}) => missed && lost(missed)}));
client.connect();
await ended;
client.close();
console.log(JSON.stringify(told));
"""


@pytest.mark.timeout(120)
@pytest.mark.skipif(node.NODE is None, reason="no Node on this machine")
def test_fault_133_what_could_not_be_kept_is_told_where_it_is_missing(
    tmp_path: Path,
) -> None:
    file, begun = tmp_path / "hub.db", list[Any]()
    with (
        Hub(HubConfig(history=SqliteHistory(file), rules=RULES)) as hub,
        serve(hub) as server,
        FaultProxy("127.0.0.1", server.port) as proxy,
        Seen(proxy.through(server.url)) as seen,
        ThreadPoolExecutor(1) as pool,
    ):
        hub.on("begun")(lambda client, data: begun.append(client))
        seen.client.subscribe("kept", since=0)
        seen.start()
        script = pool.submit(node.run, node.prepare(tmp_path), PROGRAM, seen.config.url)
        publish(hub, "first")
        wait_until(lambda: begun and seen.data(), what="the first message at both")
        proxy.refuse()
        proxy.reset()
        publish(hub, "second")
        publish_in_vain(hub, file, 2)
        publish(hub, "third")
        publish(hub, "fourth")
        publish_in_vain(hub, file, 1)
        publish(hub, "fifth")
        publish(hub, "the end")
        proxy.accept()
        assert script.result(TIMEOUT) == TOLD
        wait_until(lambda: "the end" in seen.data(), what="the end")
        assert told(seen) == TOLD


def publish(hub: Hub, data: Any, channel: str = "kept") -> int | None:
    """Publish a message; return its number, None where it could not be kept."""
    return hub.send_to_channel(channel, Message("event", data=data), wait=TIMEOUT).seq


def publish_in_vain(hub: Hub, file: Path, count: int) -> None:
    """Publish messages that the disk has no room for, and have it have room again."""
    with full_disk(file):
        assert [publish(hub, TOO_MUCH) for _ in range(count)] == [None] * count
    wait_until(lambda: publish(hub, "is there room?", "other") is not None, what="room")


def told(seen: Seen) -> list[Any]:
    """Return the numbers that a client received, and what it reported between them."""
    found = list[Any]()
    for event in seen.events:
        if event[0] == "message":
            found.append(event[1].seq)
        elif event[0] == "error" and isinstance(event[1], MessagesLost):
            found.append(["lost", event[1].count])
    return found
