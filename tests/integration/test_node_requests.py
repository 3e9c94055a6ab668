"""History, repeated publishes, questions of the server and kept messages, under Node."""

from __future__ import annotations

import datetime
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from tests import node
from tests.support import TIMEOUT, wait_until
from ws_hub import (
    ChannelRule,
    Client,
    ConnectionClosed,
    Hub,
    HubConfig,
    HubError,
    Message,
    WaitTimeout,
    serve,
)
from ws_hub.protocol.message import timestamp
from ws_hub.testing import FaultProxy

pytestmark = [
    pytest.mark.timeout(180),
    pytest.mark.skipif(node.NODE is None, reason="no Node on this machine"),
]

PROGRAM = """
import {HubClient, HubError} from "./ws_hub.js";
import {answerAsks, SendBuffer} from "./ws_hub_requests.js";
import {WebSocket} from "ws";
const reported = [], warned = [];
console.warn = (...what) => warned.push(what.join(" "));
globalThis.reportError = (error) => reported.push(String(error));
const hub = new HubClient(process.argv[2], {WebSocket, initialBackoff: 10, maxBackoff: 20});
const failure = (promise) => promise.then(() => "no failure", ({name, code}) => [name, code]);
const thrown = (fn) => { try { fn(); return "nothing"; } catch ({name}) { return name; } };
const data = ({messages}) => messages.map((message) => message.data);
const script = async () => { %s };
const result = await script();
hub.close();
console.log(JSON.stringify(result));
"""
START = 1_700_000_000
MOMENT = datetime.datetime.fromtimestamp(START + 14, datetime.UTC).isoformat()


class Served:
    """A hub behind a proxy, which notes what is published and asks what it is told to ask."""

    def __init__(self) -> None:
        self.heard: list[Any] = []
        self.received: list[Any] = []
        self.asked: list[Any] = []
        self.cuts = 0  # connections to cut when a publish has come, before it is answered
        self.proxy: FaultProxy | None = None
        rules = (
            ChannelRule(pattern="kept", history_messages=10),
            ChannelRule(pattern="open", publish=True),
        )
        self.hub = Hub(
            HubConfig(
                rules=rules,
                on_message=self.do,
                publish_authoriser=self.may_publish,
                channel_authoriser=lambda client, channel: channel != "secret",
            )
        )
        self._asking = ThreadPoolExecutor(1)

    def may_publish(self, client: Client, channel: str) -> bool:
        assert self.proxy is not None
        if self.cuts:
            self.cuts -= 1
            self.proxy.reset()
        return True

    def do(self, client: Client, message: Message) -> Any:
        if message.type == "fill":
            for number in range(1, 16):
                time = timestamp(START + number)
                self.hub.send_to_channel("kept", Message("event", data=number, timestamp=time))
            assert self.hub.wait_for_room("kept")
        elif message.type == "ask me":  # on another thread: its answer comes on this one
            self._asking.submit(self.ask, client, message.data)
        elif message.type == "asked":  # without a wait: the thread reads the answers, too
            return self.asked
        elif message.type == "hang up":
            client.close()
        else:
            self.received.append([message.type, message.data])
        return None

    def ask(self, client: Client, data: Any) -> None:
        try:
            self.asked.append(["answer", self.hub.ask(client, data, TIMEOUT)])
        except HubError as error:
            self.asked.append([error.code, error.text])
        except (ConnectionClosed, WaitTimeout) as error:
            self.asked.append([type(error).__name__, ""])

    def close(self) -> None:
        self._asking.shutdown()


@pytest.fixture
def served() -> Iterator[Served]:
    served = Served()
    yield served
    served.close()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return node.prepare(tmp_path_factory.mktemp("node"))


Script = Callable[[str], Any]


@pytest.fixture
def script(served: Served, folder: Path) -> Iterator[Script]:
    with (
        served.hub,
        serve(served.hub, port=0) as server,
        FaultProxy("127.0.0.1", server.port) as served.proxy,
    ):
        served.hub.listen("open", lambda message: served.heard.append(message.data))
        url = served.proxy.through(server.url)
        yield lambda text: node.run(folder, PROGRAM % text, url)


# --- history -------------------------------------------------------------------------------


def test_pages_are_read_forwards_backwards_and_from_a_time_on(script: Script) -> None:
    said = script(f"""
        hub.connect();
        await hub.request("fill");
        const all = await hub.history("kept");
        return [
          [all.channel, all.first, all.seq, typeof all.epoch, data(all)],
          data(await hub.history("kept", {{since: 12}})),
          data(await hub.history("kept", {{before: 9, limit: 2}})),
          data(await hub.history("kept", {{last: 2}})),
          data(await hub.history("kept", {{sinceTime: new Date("{MOMENT}")}})),
          data(await hub.history("kept", {{sinceTime: "{MOMENT}"}})),
          data(await hub.history("kept", {{sinceTime: {(START + 15) * 1000}}})),
          data(await hub.history("plain")),
          await failure(hub.history("secret")),
          await failure(hub.history("kept", {{last: 1, since: 1}})),
        ];
    """)
    every = list(range(6, 16))
    assert said == [
        ["kept", 6, 15, "string", every],
        [13, 14, 15],
        [7, 8],
        [14, 15],
        [14, 15],
        [14, 15],
        [15],
        [],
        ["HubError", "forbidden"],
        ["HubError", "bad_message"],
    ]


def test_lines_of_programs_have_their_stream_and_their_time(script: Script, served: Served) -> None:
    served.hub.send_process_output("p", "x", stream="stderr", time=1_771_550_276.123456)
    served.hub.send_process_output("p", "y")
    said = script("""
        hub.connect();
        const {readAt} = await import("./ws_hub.js");
        const found = (each) => [each.data, each.stream ?? "", readAt(each)];
        const live = [];
        for await (const message of hub.subscribe("process:p", {since: 0})) {
          if (live.push(message) === 2) break;
        }
        const {messages} = await hub.history("process:p");
        const timestamp = "2026-02-20T02:17:56.123456+01:00"; // of a Go host
        return [
          live.map(found), messages.map(found), Date.parse(live[1].timestamp),
          [{timestamp}, {timestamp: "2026-02-20T01:17:56Z"}, {time: 1.5}, {}].map(readAt),
        ];
    """)
    live, kept, sent, others = said
    assert live == kept
    assert live[0] == ["x", "stderr", 1_771_550_276_123.456]
    assert live[1][:2] == ["y", ""] and 0 <= live[1][2] - sent < 1
    assert others == [pytest.approx(1_771_550_276_123.456), 1_771_550_276_000, None, None]


def test_a_time_that_is_none_is_refused_where_it_is_given(script: Script) -> None:
    said = script("""
        const failed = await hub.history("kept", {sinceTime: "yesterday"}).catch(({name}) => name);
        return [failed, thrown(() => hub.subscribe("kept", {sinceTime: NaN}))];
    """)
    assert said == ["RangeError", "RangeError"]


def test_a_subscription_from_a_time_on_goes_on_by_number(script: Script, served: Served) -> None:
    served.cuts = 1
    said = script(f"""
        hub.connect();
        await hub.request("fill");
        const taken = [];
        const options = {{sinceTime: "{MOMENT}"}};
        await hub.subscribe("kept", ({{data}}) => taken.push(data), options).ready;
        await hub.publish("open", "a cut");
        await hub.request("fill");
        while (taken.length < 17) await new Promise((wake) => setTimeout(wake, 5));
        return taken;
    """)
    assert said == [14, 15, *range(1, 16)]


# --- publishes -----------------------------------------------------------------------------


def test_a_publish_is_repeated_after_cuts_and_counts_once(script: Script, served: Served) -> None:
    served.cuts = 2
    said = script("""
        hub.connect();
        await hub.publish("open", "paid");
        await hub.publish("open", "twice", {idempotencyKey: "order 7"});
        await hub.publish("open", "twice", {idempotencyKey: "order 7"});
        await hub.publish("open", "next");
        return "accepted";
    """)
    assert said == "accepted"
    wait_until(lambda: "next" in served.heard)
    assert served.heard == ["paid", "twice", "next"]


def test_a_publish_that_waits_fails_when_its_client_is_closed(script: Script) -> None:
    said = script("""
        const waiting = failure(hub.publish("open", 1));
        hub.close();
        return [await waiting, await failure(hub.publish("open", 1))];
    """)
    assert said == [["HubError", "closed"]] * 2


# --- what the server asks ------------------------------------------------------------------


def test_what_the_server_asks_is_answered(script: Script) -> None:
    said = script("""
        const seen = [];
        hub.on("message", ({type}) => seen.push(type));
        const stop = answerAsks(hub, async (question) => {
          if (question === "code") throw new HubError("there is no seat", "full");
          if (question === "fault") throw new Error("a secret");
          if (question === "no JSON") return 1n;
          return question && question * 2;
        });
        hub.connect();
        for (const question of [21, null, "code", "fault", "no JSON"]) {
          await hub.request("ask me", question);
        }
        let asked = [];
        while (asked.length < 5) asked = await hub.request("asked");
        return [asked, reported.length];
    """)
    internal = ["internal", "internal error"]
    answers = [["answer", 42], ["answer", None], ["full", "there is no seat"], internal, internal]
    assert said == [answers, 2]


def test_a_server_learns_that_its_client_has_left(script: Script, served: Served) -> None:
    script("""
        hub.connect();
        const stop = answerAsks(hub, () => hub.close());
        await hub.request("connected");
        hub.send({type: "ask me", data: 1});
        while (hub.state !== "closed") await new Promise((wake) => setTimeout(wake, 5));
        stop();
        return null;
    """)
    wait_until(lambda: served.asked)
    assert served.asked == [["ConnectionClosed", ""]]


def test_an_answer_must_be_a_function(script: Script) -> None:
    assert script("return thrown(() => answerAsks(hub, 42));") == "TypeError"


# --- messages that wait --------------------------------------------------------------------


def test_messages_wait_for_the_connection_in_order_as_they_were(
    script: Script, served: Served
) -> None:
    said = script("""
        const buffer = new SendBuffer(hub);
        const changing = {type: "count", data: 1};
        const kept = [buffer.send(changing)];
        changing.data = 2;
        const asked = hub.request("between", 0);
        kept.push(buffer.send(changing), buffer.waiting);
        hub.connect();
        await asked;
        await hub.request("end");
        return [...kept, buffer.waiting, buffer.dropped, warned];
    """)
    assert said == [True, True, 2, 0, 0, []]
    messages = [["count", 1], ["between", 0], ["count", 2], ["end", None]]
    assert served.received == messages


@pytest.mark.parametrize(
    ("overflow", "came", "said", "dropped"),
    [
        ("refuse", [1, 2], [True, True, False, False], 0),
        ("oldest", [3, 4], [True, True, True, True], 2),
        ("newest", [1, 2], [True, True, False, False], 2),
    ],
)
def test_a_full_buffer_does_what_it_was_told(
    script: Script, served: Served, overflow: str, came: list[int], said: list[bool], dropped: int
) -> None:
    found = script(f"""
        const buffer = new SendBuffer(hub, {{size: 2, overflow: "{overflow}"}});
        const said = [1, 2, 3, 4].map((data) => buffer.send({{type: "count", data}}));
        const {{waiting, dropped}} = buffer;
        hub.connect();
        await hub.request("end");
        said.push(buffer.send({{type: "later"}}));
        await hub.request("end");
        return [said, waiting, dropped, buffer.waiting];
    """)
    assert found == [[*said, True], 2, dropped, 0]
    ends = [["end", None], ["later", None], ["end", None]]
    assert served.received == [*(["count", data] for data in came), *ends]


def test_messages_are_sent_once_and_not_after_close_or_clear(
    script: Script, served: Served
) -> None:
    said = script("""
        const buffer = new SendBuffer(hub);
        buffer.send({type: "never"});
        hub.close();
        const closed = [buffer.waiting, buffer.send({type: "never"})];
        hub.connect();
        await hub.request("one");
        buffer.send({type: "two"});
        await failure(hub.request("hang up"));
        buffer.send({type: "three"});
        await hub.request("four");
        hub.close();
        hub.connect();
        buffer.send({type: "never"});
        buffer.clear();
        await hub.request("five");
        return [closed, buffer.waiting];
    """)
    assert said == [[0, False], 0]
    assert [type for type, _ in served.received] == ["one", "two", "three", "four", "five"]


@pytest.mark.parametrize("options", ["{size: 0}", "{size: NaN}", '{overflow: "all"}'])
def test_a_buffer_that_cannot_be_is_refused(script: Script, options: str) -> None:
    assert script(f"return thrown(() => new SendBuffer(hub, {options}));") == "RangeError"


@pytest.mark.parametrize("wrong", ['"chat", "hello"', "", "{data: 1}", "null", '{type: ""}'])
def test_what_is_no_message_is_refused_by_a_buffer_as_by_send(script: Script, wrong: str) -> None:
    said = script(f"""
        const buffer = new SendBuffer(hub);
        const raised = [hub, buffer].map((each) => thrown(() => each.send({wrong})));
        return [...raised, buffer.waiting];
    """)
    assert said == ["TypeError", "TypeError", 0]


def test_a_field_that_no_server_reads_is_a_warning_of_a_buffer(script: Script) -> None:
    said = script("""
        return [new SendBuffer(hub).send({type: "chat", text: "hi"}), warned];
    """)
    kept, (warning,) = said
    assert kept
    assert warning.startswith(
        "ws_hub: text is not read, put it into data; known: type data channel"
    )


@pytest.mark.parametrize("given", ["", "{size: 5}", '"/ws"'])
def test_a_buffer_of_no_client_is_refused_at_once(script: Script, given: str) -> None:
    assert script(f"return thrown(() => new SendBuffer({given}));") == "TypeError"
