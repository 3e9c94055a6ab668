"""Requests, loops and events of ws_hub.js, under Node against a real hub."""

from __future__ import annotations

import gzip
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests import node
from tests.support import TIMEOUT
from ws_hub import ChannelRule, Client, Hub, HubConfig, Message, serve

# Where npm has not installed the packages yet, it does so in the first test.
pytestmark = [
    pytest.mark.timeout(180),
    pytest.mark.skipif(node.NODE is None, reason="no Node on this machine"),
]

# Each script ends with `return`; `take` collects n messages of a loop. What the server does for
# a test, it does when it is asked to, as `on_message`.
PROGRAM = """
import {HubClient, HubError} from "./ws_hub.js";
import {WebSocket} from "ws";
const warned = [];
console.warn = (...what) => warned.push(what.join(" "));
const fast = {WebSocket, initialBackoff: 10, maxBackoff: 20};
const hub = new HubClient(process.argv[2], fast);
const failure = (promise) => promise.then(() => "no failure", ({name, code}) => [name, code]);
const take = async (loop, count) => {
  const taken = [];
  for await (const {data} of loop) {
    taken.push(data);
    if (taken.length === count) break;
  }
  return taken;
};
const state = (wanted) => new Promise((done) => {
  const stop = hub.on("state", ({state}) => state === wanted && (stop(), done()));
});
// The answer to a subscription comes from the hub thread, behind all that was published before;
// that to another request comes from the client's reader, which may be ahead of it.
let fences = 0;
const delivered = () => hub.subscribe(`fence-${++fences}`, () => {}).ready;
const script = async () => { %s };
const result = await script();
hub.close();
console.log(JSON.stringify(result));
"""


class Served:
    """A hub that does what a program under Node asks for."""

    def __init__(self) -> None:
        self.requests: list[str] = []
        self.let_go = threading.Event()
        self.allowed = True
        rules = (
            ChannelRule(pattern="kept", history_messages=100),
            ChannelRule(pattern="open", publish=True),
        )
        config = HubConfig(
            rules=rules,
            on_message=self.do,
            channel_authoriser=lambda client, channel: self.allowed and channel != "secret",
        )
        self.hub = Hub(config)

    def do(self, client: Client, message: Message) -> Any:
        self.requests.append(message.type)
        data = message.data
        if message.type == "echo":
            return data
        if message.type == "hang up":
            client.close()
        elif message.type == "wait":
            self.let_go.wait(TIMEOUT)
        elif message.type == "let go":
            self.let_go.set()
        elif message.type == "emit":
            for number in range(data["count"]):
                self.hub.send_event(data["event"], number, channel=data["channel"])
        elif message.type == "tell all":
            self.hub.send_event("news", data)
        elif message.type == "forbid":
            self.allowed = False
            self.hub.recheck(client)
        elif message.type == "has":
            return self.hub.has_subscribers(data)
        return None


@pytest.fixture
def served() -> Served:
    return Served()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return node.prepare(tmp_path_factory.mktemp("node"))


@pytest.fixture(params=["ws", "own WebSocket"])
def script(
    request: pytest.FixtureRequest, served: Served, folder: Path
) -> Iterator[Callable[[str], Any]]:
    """Run a script on npm's `ws`, and on the WebSocket that Node has from 22 on."""
    program, on = PROGRAM, node.NODE
    if request.param != "ws":
        program, on = PROGRAM.replace('import {WebSocket} from "ws";\n', ""), node.with_websocket()
    with served.hub, serve(served.hub, port=0) as server:
        yield lambda text: node.run(folder, program % text, server.url, node=on)
        served.let_go.set()


Script = Callable[[str], Any]


# --- requests ------------------------------------------------------------------------------


def test_a_request_is_kept_with_the_answer_or_fails_with_its_code(script: Script) -> None:
    said = script("""
        hub.connect();
        const answer = await hub.request("echo", {a: 1});
        return [answer, await failure(hub.publish("news", 1)), warned];
    """)
    assert said == [{"a": 1}, ["HubError", "forbidden"], []]


def test_a_request_waits_for_the_connection(script: Script) -> None:
    said = script("""
        const early = Promise.all([hub.request("echo", 1), hub.request("echo", 2)]);
        hub.connect();
        return early;
    """)
    assert said == [1, 2]


def test_a_request_whose_answer_is_lost_fails_and_is_not_repeated(
    script: Script, served: Served
) -> None:
    said = script("""
        hub.connect();
        const lost = await failure(hub.request("hang up"));
        return [lost, await hub.request("echo", "again")];
    """)
    assert said == [["HubError", "disconnected"], "again"]
    assert served.requests == ["hang up", "echo"]


def test_a_request_without_an_answer_in_time_fails_and_the_answer_is_nobodys(
    script: Script, served: Served
) -> None:
    said = script("""
        const other = new HubClient(process.argv[2], fast);
        const strange = [];
        hub.on("message", (message) => strange.push(message));
        hub.connect();
        await state("connected");
        const late = hub.request("wait", null, {timeout: 50});
        const failed = await failure(late);
        const never = await failure(other.request("echo", 1, {timeout: 20}));
        other.connect();
        await other.request("let go");
        other.close();
        await hub.request("echo");  // answered after the late one
        return [failed, never, strange];
    """)
    assert said == [["HubError", "timeout"]] * 2 + [[]]


def test_a_client_that_is_closed_fails_its_requests(script: Script) -> None:
    said = script("""
        const waiting = failure(hub.request("echo", 1));
        hub.close();
        return [await waiting, await failure(hub.request("echo", 2))];
    """)
    assert said == [["HubError", "closed"]] * 2


@pytest.mark.parametrize("type_", ["undefined", '""', "3"])
def test_a_request_without_a_type_is_refused(script: Script, type_: str) -> None:
    assert script(f"return failure(hub.request({type_}));") == ["TypeError", None]


def test_fault_106_nothing_is_published_to_a_channel_that_is_not_set(script: Script) -> None:
    said = script("""
        const seen = [];
        hub.on("message", (message) => seen.push(message));
        hub.connect();
        const refused = await failure(hub.publish(undefined, "secret"));
        await delivered();
        return [refused, seen];
    """)
    assert said == [["TypeError", None], []]


def test_what_is_published_is_accepted_and_comes(script: Script) -> None:
    said = script("""
        hub.connect();
        const loop = hub.subscribe("open");
        await loop.ready;
        await hub.publish("open", {text: "hello"});
        return take(loop, 1);
    """)
    assert said == [{"text": "hello"}]


# --- subscriptions -------------------------------------------------------------------------


def test_a_subscription_is_ready_when_it_is_answered(script: Script) -> None:
    said = script("""
        hub.connect();
        const one = hub.subscribe("kept", () => {}, {since: 0});
        const before = one.ready, first = await before;
        return [first, await one.ready === first];
    """)
    ready = {"first": True, "replayed": 0, "recovered": True, "restarted": False, "missed": 0}
    assert said == [ready, True]


def test_a_subscription_that_is_refused_or_closed_is_never_ready(script: Script) -> None:
    said = script("""
        hub.connect();
        const one = hub.subscribe("secret", () => {});
        const refused = await failure(one.ready);
        const two = hub.subscribe("news", () => {});
        const early = two.ready;
        two.close();
        return [refused, await failure(early), await failure(two.ready), warned];
    """)
    assert said == [["HubError", "forbidden"], *[["HubError", "closed"]] * 2, []]


def test_a_subscription_is_renewed_after_the_connection_is_lost(script: Script) -> None:
    said = script("""
        hub.connect();
        const loop = hub.subscribe("kept", {since: 0});
        await loop.ready;
        await failure(hub.request("hang up"));
        await hub.request("emit", {event: "x", channel: "kept", count: 3});
        return (await take(loop, 3)).map(({data}) => data);
    """)
    assert said == [0, 1, 2]


# --- loops ---------------------------------------------------------------------------------


def test_a_loop_that_is_left_unsubscribes(script: Script) -> None:
    said = script("""
        hub.connect();
        const loop = hub.subscribe("news");
        await loop.ready;
        await hub.request("emit", {event: "x", channel: "news", count: 3});
        const taken = await take(loop, 2);
        return [taken.map(({data}) => data), await hub.request("has", "news")];
    """)
    assert said == [[0, 1], False]


def test_a_loop_that_is_left_leaves_the_other_listeners(script: Script) -> None:
    said = script("""
        hub.connect();
        const seen = [];
        const handled = hub.subscribe("news", ({data}) => seen.push(data.data));
        await handled.ready;
        const loops = Promise.all([take(hub.subscribe("news"), 1), take(handled, 2)]);
        await hub.request("emit", {event: "x", channel: "news", count: 3});
        const lengths = (await loops).map((each) => each.length);
        const still = await hub.request("has", "news");
        const next = hub.subscribe("open");
        const two = [take(next, 1), take(next, 2)];
        await next.ready;
        await hub.publish("open", 1);
        await two[0];
        const half = await hub.request("has", "open");
        await hub.publish("open", 2);
        await delivered();
        return [seen, lengths, still, half, await two[1], await hub.request("has", "open")];
    """)
    assert said == [[0, 1, 2], [1, 2], True, True, [1, 2], False]


def test_a_slow_loop_keeps_the_newest_and_says_what_it_dropped(script: Script) -> None:
    said = script("""
        hub.connect();
        const gaps = [];
        const loop = hub.subscribe("news", {buffer: 3, onGap: (count) => gaps.push(count)});
        const silent = hub.subscribe("kept", {buffer: 3});
        await Promise.all([loop.ready, silent.ready]);
        await hub.request("emit", {event: "x", channel: "news", count: 10});
        await hub.request("emit", {event: "x", channel: "kept", count: 10});
        await delivered();
        const taken = (await take(loop, 3)).map(({data}) => data);
        await take(silent, 3);
        return [taken, gaps, loop.dropped, warned];
    """)
    warning = "ws_hub: kept: a loop is too slow, 7 messages are lost"
    assert said == [[7, 8, 9], [7], 7, [warning]]


@pytest.mark.parametrize("buffer", ["0", "NaN", "-1"])
def test_a_buffer_for_nothing_is_refused(script: Script, buffer: str) -> None:
    said = script(f"""
        try {{ hub.subscribe("news", {{buffer: {buffer}}}); }} catch (error) {{
          return [error.name, error.message];
        }}
    """)
    assert said == ["RangeError", f"buffer must be a number of messages, not {buffer}"]


def test_a_loop_ends_with_its_subscription_and_fails_when_that_is_refused(script: Script) -> None:
    said = script("""
        hub.connect();
        const closed = hub.subscribe("news");
        const ended = take(closed, 1);
        closed.close();
        const refused = failure(take(hub.subscribe("secret"), 1));
        const withdrawn = hub.subscribe("open");
        const failed = failure(take(withdrawn, 1));
        const later = hub.subscribe("kept");
        await Promise.all([withdrawn.ready, later.ready]);
        hub.request("forbid");
        return [
          await ended, await take(closed, 1), await refused, await failed,
          await failure(take(later, 1)), warned,
        ];
    """)
    forbidden = ["HubError", "forbidden"]
    assert said == [[], [], forbidden, forbidden, forbidden, []]


def test_a_loop_ends_with_its_client(script: Script) -> None:
    said = script("""
        hub.connect();
        const loop = take(hub.subscribe("news"), 1);
        hub.close();
        return loop;
    """)
    assert said == []


# --- events --------------------------------------------------------------------------------


def test_events_are_heard_by_their_names_until_it_is_stopped(script: Script) -> None:
    said = script("""
        const heard = [], states = [];
        const stop = hub.on("news", (data, message) => heard.push([data, message.channel]));
        hub.on("state", ({state}) => states.push(state));
        hub.connect();
        await hub.subscribe("kept", () => {}).ready;
        await hub.request("tell all", "first");
        await hub.request("emit", {event: "news", channel: "kept", count: 1});
        await hub.request("emit", {event: "other", channel: "kept", count: 1});
        await delivered();
        stop();
        await hub.request("tell all", "second");
        await delivered();
        return [heard, [...states]];
    """)
    assert said == [[["first", None], [0, "kept"]], ["connecting", "connected"]]


def test_a_listener_must_be_a_function(script: Script) -> None:
    assert script("return failure((async () => hub.on('x', 3))());") == ["TypeError", None]


def test_a_refusal_that_nobody_handles_is_a_warning(script: Script) -> None:
    said = script("""
        hub.connect();
        hub.subscribe("secret", () => {});
        await hub.request("echo");
        hub.send({type: "publish", channel: "news", data: 1});
        await hub.request("echo");
        const before = warned.length;
        hub.on("error", () => {});
        hub.send({type: "publish", channel: "news", data: 1});
        await hub.request("echo");
        return [before, warned.length, warned[0]];
    """)
    assert said == [2, 2, "ws_hub: Subscribe: subscription unauthorised"]


# Makes a client, has it wait twice for its next attempt, and tells what was warned of. Without a
# timeout: Node's own WebSocket tells of a failed connection by an error alone.
WAITS_TWICE = """
    const url = new URL(PLACE, process.argv[2]).href;
    let waits = 0, over;
    const twice = new Promise((done) => (over = done));
    class Counted extends WebSocket {
      constructor(...given) { if (waits++ === 2) over(); super(...given); }
    }
    const lost = new HubClient(url, {...fast, connectTimeout: 0, WebSocket: Counted});
    PREPARE
    lost.connect();
    await twice;
    lost.close();
    return warned.map((each) => each.replace(url, "URL"));
"""
NO_CONNECTION = (
    "ws_hub: URL: no connection yet. See the server's log: 401 not logged in, 403 another origin, "
    "404 no hub there, 503 not started"
)


def waits_twice(place: str, prepare: str = "") -> str:
    return WAITS_TWICE.replace("PLACE", repr(place)).replace("PREPARE", prepare)


@pytest.mark.parametrize("place", ["/no-hub-there", "ws://127.0.0.1:9/ws"])
def test_a_first_connection_that_fails_is_a_warning_once(script: Script, place: str) -> None:
    assert script(waits_twice(place)) == [NO_CONNECTION]


def test_a_page_that_looks_at_the_state_itself_is_not_warned(script: Script) -> None:
    assert script(waits_twice("/no-hub-there", 'lost.on("state", () => {});')) == []


def test_a_connection_that_was_there_and_is_lost_is_no_warning(script: Script) -> None:
    said = script("""
        hub.connect();
        await hub.request("echo");
        await failure(hub.request("hang up"));
        return [await hub.request("echo", "again"), warned];
    """)
    assert said == ["again", []]


NOT_SENT = (
    "ws_hub: not connected, not sent: [object Object] (request() waits, or SendBuffer of "
    "ws_hub_requests.js)"
)


def test_a_message_sent_without_a_connection_is_a_warning_that_names_what_waits(
    script: Script,
) -> None:
    said = script("""
        const sent = [hub.send({type: "move", data: 1})];
        hub.connect();
        await hub.request("echo");
        sent.push(hub.send({type: "move", data: 2}));
        return [sent, warned];
    """)
    assert said == [[False, True], [NOT_SENT]]


def test_what_the_client_itself_cannot_send_is_no_warning(script: Script) -> None:
    said = script("""
        hub.connect();
        await hub.request("echo");
        hub._socket.close();  // it takes no more, and the client is not told yet
        const early = hub.subscribe("news", () => {});
        await early.ready;
        return warned;
    """)
    assert said == []


WRONG = ['"chat", "hello"', "", "{data: 1}", "null", "{type: 7}", '{type: ""}', '["chat"]']


@pytest.mark.parametrize("wrong", WRONG)
def test_what_is_no_message_is_refused_where_it_is_sent(script: Script, wrong: str) -> None:
    said = script(f"""
        try {{ hub.send({wrong}); }} catch ({{name, message}}) {{ return [name, message]; }}
    """)
    assert said == ["TypeError", 'a message has a type: {type: "chat", data: "hi"}']


FIELDS = (
    "type data channel id key code processId timestamp seq epoch stream time line "
    "since last since_time before limit idempotencyKey filter"
)


@pytest.mark.parametrize(
    "call",
    ['hub.send({type: "echo", %s})', 'await hub.request("echo", 1, {%s})'],
)
def test_a_field_that_no_server_reads_is_a_warning_and_not_an_error(
    script: Script, call: str
) -> None:
    said = script(f"""
        hub.connect();
        await hub.request("echo");
        {call % 'text: "hi", room: 7'};
        {call % "key: undefined"};
        return [await hub.request("echo", "still there"), warned];
    """)
    warning = f"ws_hub: text,room is not read, put it into data; known: {FIELDS}"
    assert said == ["still there", [warning]]


def test_a_client_that_nobody_connects_is_a_warning_once_it_has_subscribed(script: Script) -> None:
    said = script("""
        hub.subscribe("open", () => {});
        await new Promise((done) => { console.warn = (...what) => done(what.join(" ")); })
          .then((text) => warned.push(text));
        return [hub.state, ...warned];
    """)
    assert said == ["idle", "ws_hub: call connect()"]


def test_an_option_that_no_subscription_has_is_a_warning(script: Script) -> None:
    said = script("""
        hub.connect();
        await hub.subscribe("kept", () => {}, {since_time: 1, onMessage() {}}).ready;
        await hub.subscribe("open", () => {}, {last: 1, onError() {}}).ready;
        return warned;
    """)
    known = "since last sinceTime filter buffer onSync onGap onLagged onError"
    assert said == [f"ws_hub: since_time,onMessage is not read; known: {known}"]


@pytest.mark.parametrize(
    "wrong",
    ['"text"', "3", "true", "false", "0", "{since: 0}, () => {}", '() => {}, "text"', "null, 3"],
)
def test_a_handler_that_is_no_function_is_refused_with_the_form(script: Script, wrong: str) -> None:
    said = script(f"""
        try {{ hub.subscribe("news", {wrong}); }} catch ({{name, message}}) {{
          return [name, message, hub.subscribe("news").channel];
        }}
    """)
    form = 'subscribe takes a function: subscribe("news", (message) => {}, {last: 9})'
    assert said == ["TypeError", form, "news"]


@pytest.mark.parametrize(
    "right", ["", "null", "undefined", "{}", "null, null", "undefined, {last: 1}", "() => {}, null"]
)
def test_a_handler_and_options_may_be_left_out(script: Script, right: str) -> None:
    assert script(f'return hub.subscribe("news", {right}).channel;') == "news"


# --- what it runs on -----------------------------------------------------------------------


def test_it_runs_on_the_websocket_of_node(served: Served, folder: Path) -> None:
    program = """
        import {HubClient} from "./ws_hub.js";
        const hub = new HubClient(process.argv[2]);
        hub.connect();
        console.log(JSON.stringify(await hub.request("echo", "by itself")));
        hub.close();
    """
    with served.hub, serve(served.hub, port=0) as server:
        own = node.with_websocket()
        assert node.run(folder, program, server.url, node=own) == "by itself"


def test_tabs_that_cannot_share_have_a_connection_of_their_own(script: Script) -> None:
    said = script("""
        const alone = new HubClient(process.argv[2], {WebSocket, shared: true});
        alone.connect();
        const answer = await alone.request("echo", "alone");
        alone.close();
        return [answer, warned];
    """)
    assert said == ["alone", []]


@pytest.mark.parametrize("options", ['"/live"', "5", "() => 1"])
def test_options_that_are_no_object_are_refused(script: Script, options: str) -> None:
    said = script(f"""
        try {{ HubClient.fromPage({options}); }} catch ({{name, message}}) {{
          return [name, message];
        }}
    """)
    assert said == ["TypeError", "options must be an object"]


@pytest.mark.parametrize(
    "call", ['history("kept", 50)', 'request("echo", 1, 5000)', 'publish("open", 1, "key")']
)
def test_options_of_a_request_that_are_no_object_are_refused(script: Script, call: str) -> None:
    assert script(f"return hub.{call}.catch(String);") == "TypeError: options must be an object"


def test_without_a_websocket_it_says_what_to_do(folder: Path) -> None:
    program = """
        import {HubClient} from "./ws_hub.js";
        try { new HubClient("ws://127.0.0.1:9/ws", {WebSocket: undefined}); } catch (error) {
          console.log(JSON.stringify([error.name, error.message]));
        }
    """
    message = "there is no WebSocket here: give one as {WebSocket}"
    assert node.run(folder, program) == ["TypeError", message]


def test_the_client_is_small_and_needs_nothing() -> None:
    client = (node.STATIC / "ws_hub.js").read_bytes()
    assert len(gzip.compress(client, 9)) < 8300
    assert b"\nimport " not in client and b"require(" not in client
