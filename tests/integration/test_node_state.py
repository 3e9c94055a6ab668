"""Keyed channels in ws_hub.js, and ws_hub_state.js, under Node against a real hub."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

from tests import node
from ws_hub import ChannelRule, Client, Hub, HubConfig, Message, serve

pytestmark = [
    pytest.mark.timeout(180),
    pytest.mark.skipif(node.NODE is None, reason="no Node on this machine"),
]

# `settled` waits until the server has told of the key "end", with a value of its own.
PROGRAM = """
import {HubClient} from "./ws_hub.js";
import {KeyedState} from "./ws_hub_state.js";
import {WebSocket} from "ws";
const hub = new HubClient(process.argv[2], {WebSocket, initialBackoff: 10, maxBackoff: 20});
const told = [];
let ended = () => {};
const gaps = [];
const state = new KeyedState(hub, "board", (values, key) => {
  told.push(key ?? null);
  ended(values.get("end")?.data);
}, {onGap: (count) => gaps.push(count)});
const settled = (number) => new Promise((done) => {
  ended = (value) => value === number && done();
  hub.request("do", ["end", number]);
});
const shown = () => Object.fromEntries([...state.values].map(([key, {data}]) => [key, data]));
const script = async () => { %s };
hub.connect();
const result = await script();
hub.close();
console.log(JSON.stringify(result));
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return node.prepare(tmp_path_factory.mktemp("node"))


class Served:
    """A hub that changes keys as a program under Node asks it to."""

    def __init__(self) -> None:
        rules = (
            ChannelRule(pattern="board", keyed=True, max_keys=4),
            ChannelRule(pattern="open", keyed=True, publish=True),
        )
        self.hub = Hub(HubConfig(rules=rules, on_message=self.do))

    def do(self, client: Client, message: Message) -> None:
        if message.type == "hang up":
            client.close()
            return
        if message.type == "plain":
            self.hub.send_event("saved", 1, channel="plain")
            return
        key, value = message.data
        self.hub.send_to_channel("board", Message("value", key=key, data=value))

    def run(self, folder: Path, text: str) -> Any:
        shutil.copy(node.STATIC / "ws_hub_state.js", folder)
        with self.hub, serve(self.hub) as server:
            return node.run(folder, PROGRAM % text, server.url)


def test_state_has_the_newest_of_each_key(folder: Path) -> None:
    shown = Served().run(
        folder,
        """
        for (const change of [["a", 1], ["b", 2], ["a", 3], ["b"]]) {
          await hub.request("do", [change[0], change[1] ?? null]);
        }
        await settled(1);
        return [shown(), told];
        """,
    )
    assert shown == [{"a": 3, "end": 1}, ["a", "b", "a", "b", "end"]]


def test_state_survives_a_reconnect_with_what_was_deleted_meanwhile(folder: Path) -> None:
    shown = Served().run(
        folder,
        """
        await hub.request("do", ["a", 1]);
        await hub.request("do", ["b", 2]);
        await settled(1);
        const other = new HubClient(process.argv[2], {WebSocket});
        other.connect();
        const gone = new Promise((done) => {
          hub.on("state", ({state}) => state === "waiting" && done());
        });
        hub.send({type: "hang up"});
        await gone;
        await other.request("do", ["a", null]);
        other.close();
        await settled(2);
        return [shown(), gaps];
        """,
    )
    assert shown == [{"b": 2, "end": 2}, []]


def test_state_begins_anew_when_the_server_does_not_know_its_position(folder: Path) -> None:
    shown = Served().run(
        folder,
        """
        await hub.request("do", ["a", 1]);
        await hub.request("do", ["b", 2]);
        await settled(1);
        state.subscription.epoch = "of another life of the server";
        const again = new Promise((done) => {
          hub.on("state", ({state}) => state === "connected" && done());
        });
        hub.send({type: "hang up"});
        await again;
        await settled(2);
        return [shown(), told.includes(null), gaps];
        """,
    )
    assert shown == [{"a": 1, "b": 2, "end": 2}, True, []]


def test_page_publishes_with_a_key(folder: Path) -> None:
    refused = Served().run(
        folder,
        """
        await hub.publish("open", {x: 1}, {key: "me"});
        const got = [];
        const open = new KeyedState(hub, "open", (values, key) => got.push(key));
        await open.subscription.ready;
        const marker = hub.publish("open", 1, {key: "marker"});
        await new Promise((done) => {
          const look = () => (open.values.has("marker") ? done() : setTimeout(look, 5));
          look();
        });
        await marker;
        const without = await hub.publish("open", 1).catch(({code}) => code);
        return [open.values.get("me").data, got, without];
        """,
    )
    assert refused == [{"x": 1}, ["me", "marker"], "bad_message"]


def test_a_page_is_warned_once_of_a_channel_that_keeps_no_keys(folder: Path) -> None:
    said = Served().run(
        folder,
        """
        const warned = [];
        console.warn = (text) => warned.push(text);
        const none = new KeyedState(hub, "plain");
        await none.subscription.ready;
        await hub.request("plain");
        await hub.request("plain");
        await settled(1);
        return [none.values.size, warned];
        """,
    )
    assert said == [0, ["ws_hub: plain keeps no keys: its ChannelRule needs keyed=True"]]
