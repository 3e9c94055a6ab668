"""ws_hub.js outside of a browser: under Node, by itself and on npm's `ws`."""

from __future__ import annotations

import contextlib
import json
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests import node
from tests.integration.gohub import GoHub
from tests.support import free_port, wait_until
from tests.wire_model import Json, Outcome, Trial
from ws_hub import Hub, serve

CLIENT = node.STATIC / "ws_hub.js"
MODEL = Path(__file__).with_name("model_client.mjs")

# Where npm has not installed the packages yet, it does so in the first test.
pytestmark = [
    pytest.mark.timeout(180),
    pytest.mark.skipif(node.NODE is None, reason="no Node on this machine"),
]


class NodeClient:
    """ws_hub.js in a process of its own, without sockets."""

    def __init__(self) -> None:
        assert node.NODE is not None
        # Below a shell, which only waits: the check for what a test leaves behind sees a child
        # in another state as another child.
        self._process = subprocess.Popen(
            ["/bin/sh", "-c", '"$@"; exit', "sh", node.NODE, str(MODEL), str(CLIENT)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def reset(self) -> NodeClient:
        self._do("new")
        return self

    def subscribe(self, channel: str, position: Json) -> Outcome:
        return self._do("subscribe", channel=channel, position=position)

    def unsubscribe(self, channel: str) -> Outcome:
        return self._do("unsubscribe", channel=channel)

    def connect(self) -> Outcome:
        return self._do("connect")

    def receive(self, messages: list[Json]) -> Outcome:
        return self._do("receive", messages=messages)

    def relieve(self) -> Outcome:
        return self._do("relieve")

    def close(self) -> None:
        self._process.communicate()

    def _do(self, op: str, **details: Any) -> Outcome:
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.write(json.dumps({"op": op, **details}) + "\n")
        self._process.stdin.flush()
        answer = json.loads(self._process.stdout.readline())
        lost = [(channel, count) for channel, count in answer["lost"]]
        return Outcome(answer["sent"], answer["messages"], lost)


@pytest.fixture(scope="module")
def model() -> Iterator[NodeClient]:
    client = NodeClient().reset()
    yield client
    client.close()


@pytest.mark.parametrize("seed", range(100))
def test_fault_93_each_message_comes_once_in_order_and_for_the_newest_subscription(
    model: NodeClient, seed: int
) -> None:
    Trial(seed, model.reset()).run()


@pytest.mark.parametrize("seed", range(30))
def test_fault_93_a_go_hub_which_answers_nothing_is_followed_all_the_same(
    model: NodeClient, seed: int
) -> None:
    Trial(seed, model.reset(), go=True).run()


def test_a_number_that_is_skipped_is_neither_delivered_nor_missing(model: NodeClient) -> None:
    model.reset().subscribe("a", {"since": 0})
    request = next(each for each in model.connect().sent if each["type"] == "subscribe")
    data = {"channel": "a", "epoch": "e", "seq": 0, "replayed": 0, "recovered": True}
    model.receive([{"type": "ack", "id": request["id"], "data": data}])
    told = [
        {"type": kind, "channel": "a", "seq": seq, "data": seq}
        for seq, kind in ((1, "event"), (2, "skip"), (3, "event"), (4, "skip"))
    ]
    outcome = model.receive(told)
    assert [each["seq"] for each in outcome.messages] == [1, 3]
    assert (outcome.lost, outcome.sent) == ([], [])
    assert [each["seq"] for each in model.receive([{**told[0], "seq": 5}]).messages] == [5]


# --- on npm's `ws` ---------------------------------------------------------------------------


@pytest.fixture(scope="module")
def modules(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which `ws` can be imported."""
    return node.prepare(tmp_path_factory.mktemp("npm"))


PROGRAM = """
import {WebSocket} from "ws";
import {HubClient} from "./ws_hub.js";
const [url, options] = JSON.parse(process.argv[2]);
const hub = new HubClient(url, {WebSocket, initialBackoff: 20, maxBackoff: 40, ...options});
const say = (...what) => console.log(JSON.stringify(what));
hub.addEventListener("state", ({detail}) => say(detail.state, detail.reason ?? ""));
hub.addEventListener("error", ({detail}) => say("error", String(detail.error ?? detail.message)));
hub.subscribe("process:b", (message) => say("line", message.data), {since: 0});
hub.connect();
process.stdin.on("data", () => hub.close()).on("end", () => process.exit(0));
"""


class Program:
    """A Node program that follows `process:b`, and what it says."""

    def __init__(self, folder: Path, url: str, **options: Any) -> None:
        assert node.NODE is not None
        (folder / "program.mjs").write_text(PROGRAM, encoding="utf-8")
        self.process = subprocess.Popen(
            [node.NODE, "program.mjs", json.dumps([url, options])],
            cwd=folder,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self.said: list[list[str]] = []

    def read_until(self, *what: str) -> None:
        """Read what it says up to a line that begins like this."""
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.said.append(json.loads(line))
            if self.said[-1][: len(what)] == list(what):
                return
        raise AssertionError(f"it has ended with {self.process.wait()}: {self.said}")

    def close(self) -> None:
        self.process.communicate()


def test_fault_97_a_refused_connection_is_tried_again(modules: Path) -> None:
    with contextlib.ExitStack() as stack:
        port = free_port()
        program = Program(modules, f"ws://127.0.0.1:{port}/ws")
        stack.callback(program.close)
        program.read_until("waiting", f"connect ECONNREFUSED 127.0.0.1:{port}")
        program.read_until("waiting")
        hub = stack.enter_context(Hub())
        stack.enter_context(serve(hub, port=port))
        hub.send_process_output("b", "first")
        program.read_until("line", "first")
        wait_until(lambda: hub.has_subscribers("process:b"))


def test_fault_97_a_socket_that_is_given_up_while_it_connects_ends_nothing(modules: Path) -> None:
    with socket.socket() as silent, contextlib.ExitStack() as stack:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        url = f"ws://127.0.0.1:{silent.getsockname()[1]}/ws"
        program = Program(modules, url, connectTimeout=20)
        stack.callback(program.close)
        for _ in range(3):
            program.read_until("waiting", "no answer")


def test_fault_98_a_token_by_subprotocol_is_of_no_use_to_a_go_hub(modules: Path) -> None:
    with GoHub() as hub, contextlib.ExitStack() as stack:
        program = Program(modules, hub.url, token="secret")
        stack.callback(program.close)
        program.read_until("closed")
        assert 'use tokenIn: "message"' in program.said[-1][1]
