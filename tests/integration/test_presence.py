"""Presence over real sockets: what subscribers are told, who may ask, and what it costs."""

from __future__ import annotations

import json
import queue
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests import node
from tests.harness import SteppedHub, batches_every, moved_clock
from tests.integration.apps.live import Live, at_once, live, subscribe
from tests.support import CLOSE, TIMEOUT, RawPeer, wait_until
from ws_hub import (
    AuthResult,
    ChannelRule,
    Client,
    ConfigError,
    Hub,
    HubConfig,
    LimitExceeded,
    Member,
    Message,
    MessageEncodeError,
    Presence,
    ReconnectConfig,
    ReconnectingClient,
    serve,
)
from ws_hub.protocol.presence import PresenceView

RULES = (
    ChannelRule(pattern="room:*", presence=True, presence_grace=30.0),
    ChannelRule(pattern="short:*", presence=True, presence_grace=0.01),
    ChannelRule(pattern="kept:*", presence=True, history_messages=100, replay=True),
    ChannelRule(pattern="few:*", presence=True, presence_limit=1),
    ChannelRule(pattern="count:*", presence="count"),
)


def by_header(environ: Any) -> AuthResult:
    return AuthResult(True, environ.get("HTTP_X_USER"))


@pytest.fixture
def hub() -> Iterator[Live]:
    with live(
        rules=RULES,
        authenticator=by_header,
        channel_authoriser=lambda client, channel: not channel.endswith("secret"),
    ) as made:
        yield made


@pytest.fixture
def public() -> Iterator[Live]:
    """A hub whose clients have no user."""
    with live(rules=RULES) as made:
        yield made


class Viewer:
    """A peer that is subscribed, and keeps what it is told."""

    def __init__(self, hub: Live, channel: str = "room:1", user: str = "", **options: Any) -> None:
        headers = [("X-User", user)] if user else []
        self.channel = channel
        self.peer = hub.peer(headers=headers, **options)
        self.view = PresenceView()
        self.told: list[Any] = []
        self.ack = subscribe(self.peer, channel)
        self.view.take(self.ack["presence"])

    def __enter__(self) -> Viewer:
        return self

    def __exit__(self, *_: object) -> None:
        self.peer.sock.close()

    def read(self) -> Any:
        message = self.peer.recv_json()
        if message["type"] == "presence":
            assert message["channel"] == self.channel
            self.told.append(message["data"])
            self.view.take(message["data"])
        return message

    def until(self, condition: Callable[[Presence], bool]) -> Presence:
        while not condition(self.view.presence):
            self.read()
        return self.view.presence

    def users(self) -> list[str | None]:
        return sorted((each.user or "" for each in self.view.presence.members or ()), key=str)

    def until_users(self, *users: str) -> None:
        self.until(lambda presence: self.users() == list(users))


# --- joins and leaves ----------------------------------------------------------------------


def test_a_subscriber_gets_the_list_then_the_changes(hub: Live) -> None:
    with Viewer(hub, user="ann") as ann:
        assert ann.ack["presence"] == {"users": 0, "connections": 0, "members": []}
        ann.until_users("ann")
        (entry,) = ann.told[0]["join"]
        assert entry == {"user": "ann", "connection": str(hub.client().id)}
        with Viewer(hub, user="bob") as bob:
            bob.until_users("ann", "bob")
            ann.until_users("ann", "bob")
            assert hub.hub.presence("room:1") == ann.view.presence == bob.view.presence
            bob.peer.send_json({"type": "unsubscribe", "channel": "room:1"})
            ann.until_users("ann")


def test_a_reconnect_within_the_grace_is_not_seen(hub: Live) -> None:
    with Viewer(hub, user="ann") as ann:
        with Viewer(hub, user="bob"):
            ann.until_users("ann", "bob")
        wait_until(lambda: hub.hub.client_count() == 1)
        assert len(hub.hub.presence("room:1").members or ()) == 2
        with Viewer(hub, user="bob") as again:
            again.until_users("ann", "bob")
            ann.until(lambda presence: ann.told[-1]["leave"] != [])
            assert len(ann.told[-1]["join"]) == len(ann.told[-1]["leave"]) == 1
            assert ann.users() == ["ann", "bob"]


def test_after_the_grace_a_user_without_connections_has_left(hub: Live) -> None:
    with Viewer(hub, "short:1", "ann") as ann:
        with Viewer(hub, "short:1", "bob"), Viewer(hub, "short:1", "bob") as second:
            second.until(lambda presence: presence.connections == 3)
            ann.until(lambda presence: presence.connections == 3)
            assert ann.view.presence.users == 2
        ann.until_users("ann")
        wait_until(lambda: hub.hub.presence("short:1").users == 1)


def test_a_client_without_a_user_is_a_member_of_its_own(public: Live) -> None:
    with Viewer(public) as one:
        with Viewer(public) as two:
            assert two.until(lambda presence: presence.users == 2).members is not None
            one.until(lambda presence: presence.users == 2)
        one.until(lambda presence: presence.users == 1)


def test_presence_goes_on_while_history_is_replayed_and_takes_no_number(hub: Live) -> None:
    for number in range(5):
        hub.hub.send_event("e", number, channel="kept:1")
    with Viewer(hub, "kept:1", "ann") as ann:
        ann.until_users("ann")
        hub.hub.send_event("e", 5, channel="kept:1")
        with Viewer(hub, "kept:1", "bob") as bob:
            seqs = []
            while len(seqs) < 6 or bob.users() != ["ann", "bob"]:
                message = bob.read()
                seqs += [message["seq"]] if "seq" in message else []
            assert seqs == [1, 2, 3, 4, 5, 6]


def test_a_counted_channel_tells_two_numbers(hub: Live) -> None:
    with Viewer(hub, "count:1", "ann") as ann, Viewer(hub, "count:1", "ann") as tab:
        ann.until(lambda presence: presence.connections == 2)
        assert ann.told[-1] == {"users": 1, "connections": 2}
        tab.until(lambda presence: presence.connections == 2)
        assert hub.hub.presence("count:1") == Presence(1, 2, None)


def test_a_channel_over_its_limit_is_counted(public: Live) -> None:
    with Viewer(public, "few:1") as one, Viewer(public, "few:1"):
        one.until(lambda presence: presence.members is None and presence.users == 2)
        with public.peer() as peer:
            assert subscribe(peer, "few:1")["presence"] == {"users": 2, "connections": 2}


def test_a_listener_hears_of_it_and_is_no_member(hub: Live) -> None:
    heard: queue.Queue[Message] = queue.Queue()  # guards: itself.
    listener = hub.hub.listen("room:1", heard.put)
    with Viewer(hub, user="ann"):
        message = heard.get(timeout=TIMEOUT)
        assert (message.type, message.data["join"][0]["user"]) == ("presence", "ann")
        assert hub.hub.presence("room:1").users == 1
    listener.close()


def test_a_channel_without_presence_is_told_nothing(public: Live) -> None:
    with public.subscribed("news") as peer, public.subscribed("news"):
        public.hub.send_event("e", 1, channel="news")
        assert peer.recv_json()["type"] == "event"
        with pytest.raises(ConfigError, match="has no presence"):
            public.hub.presence("news")
        with pytest.raises(TypeError):
            public.hub.presence(None)  # type: ignore[arg-type]


# --- info ----------------------------------------------------------------------------------


def test_info_is_told_and_so_is_its_change() -> None:
    def greet(client: Client) -> None:
        client.set_info({"name": f"client {client.id}"})

    with live(rules=RULES, on_connect=greet) as hub, Viewer(hub) as one:
        one.until(lambda presence: presence.users == 1)
        client = hub.client()
        assert one.view.presence.members is not None
        assert one.view.presence.members[0].info == client.info == {"name": f"client {client.id}"}
        client.set_info("away")
        one.until(lambda presence: bool(presence.members and presence.members[0].info == "away"))
        client.set_info(None)
        one.until(lambda presence: presence.members == (Member(None, {str(client.id): None}),))
        assert client.info is None


def test_info_that_is_too_large_or_no_json_is_refused(public: Live) -> None:
    with Viewer(public):
        client = public.client()
        client.set_info("x" * 1022)
        with pytest.raises(LimitExceeded, match="1025 bytes as JSON"):
            client.set_info("x" * 1023)
        with pytest.raises(MessageEncodeError, match="the info of a client"):
            client.set_info({1, 2})
        assert client.info == "x" * 1022


# --- requests ------------------------------------------------------------------------------


EVE = [("X-User", "eve")]


def ask(peer: RawPeer, **fields: Any) -> Any:
    peer.send_json({"type": "presence", **fields})
    return peer.recv_json()


def test_a_client_that_may_subscribe_may_ask(hub: Live) -> None:
    with Viewer(hub, user="ann") as ann, hub.peer(headers=EVE) as peer:
        ann.until_users("ann")
        answer = ask(peer, channel="room:1", id=7)
        assert (answer["type"], answer["id"]) == ("ack", 7)
        assert answer["data"]["presence"]["members"] == ann.told[0]["join"]
        assert hub.hub.presence("room:1").users == 1  # who asks does not join


@pytest.mark.parametrize(
    ("fields", "code"),
    [
        ({"channel": "room:secret", "id": 1}, "forbidden"),
        ({"channel": "news", "id": 1}, "not_found"),
        ({"channel": "no channel", "id": 1}, "bad_channel"),
        ({"id": 1}, "bad_channel"),
        ({"channel": "room:1"}, "bad_message"),
    ],
)
def test_a_request_that_cannot_be_answered_gets_an_error(hub: Live, fields: Any, code: str) -> None:
    with hub.peer(headers=EVE) as peer:
        answer = ask(peer, **fields)
        assert (answer["type"], answer["code"]) == ("error", code)
        assert answer.get("id") == fields.get("id")


def test_a_client_cannot_claim_to_be_another(hub: Live) -> None:
    with Viewer(hub, user="ann") as ann, hub.peer(headers=EVE) as peer:
        ann.until_users("ann")
        data = {"join": [{"user": "bob", "connection": "1"}]}
        answer = ask(peer, channel="room:1", id=1, data=data)
        assert answer["data"]["presence"]["users"] == 1
        assert subscribe(peer, "room:1", user="bob", info="bob")["presence"]["users"] == 1
        ann.until(lambda presence: presence.users == 2)
        assert ann.users() == ["ann", "eve"]


# --- many, slow, the end -------------------------------------------------------------------


def test_a_storm_of_joins_is_a_few_messages_for_each() -> None:
    settings = {"max_message_rate": None, "max_processing_rate": None, "max_byte_rate": None}
    with live(rules=RULES, max_processing_rate_in_all=None, **settings) as hub:
        with Viewer(hub) as first:
            peers = [hub.peer() for _ in range(200)]
            for peer in peers:
                peer.send_json({"type": "subscribe", "channel": "room:1"})
            first.until(lambda presence: presence.users == 201)
            assert sum(len(each["join"]) for each in first.told) == 201
            # One for the first change, one a tenth of a second at most.
            stats = hub.hub.stats()
            assert stats.dropped == 0
            assert len(first.told) < 100
            for peer in peers:
                peer.sock.close()
            first.until(lambda presence: presence.users == 1)


def test_one_that_does_not_read_gets_the_whole_state_when_it_does() -> None:
    with (
        SteppedHub(rules=RULES, outbox_bytes=20_000, outbox_messages=50) as hub,
        moved_clock() as clock,
    ):
        slow = hub.join(buffer=4096)
        slow.say(type="subscribe", channel="room:1", id=1)
        hub.turn()
        view = PresenceView()
        view.take(slow.message()["data"]["presence"])
        other = hub.join()
        other.say(type="subscribe", channel="room:1")
        for number in range(400):
            other.client.set_info([number, "x" * 900])
            clock.advance(0.2)
            hub.turn()
        assert slow.client.dropped > 0

        def caught_up() -> bool:
            for message in slow.messages():
                if message["type"] == "presence":
                    view.take(message["data"])
            clock.advance(1.1)
            hub.turn()
            return view.presence == hub.presence("room:1")

        wait_until(caught_up, what="the present state")
        assert view.presence.members is not None
        assert [399, "x" * 900] in [each.info for each in view.presence.members]


def test_nobody_is_told_of_leaves_by_a_hub_that_drains(public: Live) -> None:
    with Viewer(public, "short:1") as one, Viewer(public, "short:1") as two:
        for each in (one, two):
            each.until(lambda presence: presence.users == 2)
        with batches_every(4.0), at_once(lambda: public.hub.drain(8.0)):
            assert one.peer.recv_frame().opcode == CLOSE
            one.peer.sock.close()
            wait_until(lambda: public.hub.client_count() == 1)
            public.hub.send_event("still here", channel="short:1")
            assert two.read()["type"] == "event"
            assert two.view.presence.users == public.hub.presence("short:1").users == 2
            public.hub.stop()


# --- the client in Python ------------------------------------------------------------------


def test_a_reconnecting_client_keeps_the_members_and_sees_no_flicker(hub: Live) -> None:
    changes: queue.Queue[tuple[str, Any, Any]] = queue.Queue()  # guards: itself.
    connected = threading.Semaphore(0)  # guards: nothing; counts connections.
    config = ReconnectConfig(
        url=hub.server.url,
        headers={"X-User": "bob"},
        initial_backoff=0.02,
        on_connect=connected.release,
        on_presence=lambda *change: changes.put(change),
        on_message=lambda message: changes.put(("message", message, ())),
    )
    with Viewer(hub, user="ann") as ann, ReconnectingClient(config) as client:
        ann.until_users("ann")
        assert client.presence("room:1") is None
        client.subscribe("room:1")

        def users() -> list[str | None]:
            presence = client.presence("room:1")
            return [each.user for each in presence.members or ()] if presence else []

        joined: list[str | None] = []
        while len(joined) < 2:
            channel, new, left = changes.get(timeout=TIMEOUT)
            assert (channel, left) == ("room:1", ())
            joined += [each.user for each in new]
        assert joined == users() == ["ann", "bob"]
        ann.until_users("ann", "bob")
        assert connected.acquire(timeout=TIMEOUT)
        (own,) = hub.hub.user_clients("bob")
        own.abort()
        assert connected.acquire(timeout=TIMEOUT)
        ann.until(lambda presence: ann.told[-1]["leave"] != [])
        assert changes.get(timeout=TIMEOUT) == (
            "room:1",
            (),
            (),
        )  # another connection, the same user
        assert users() == ["ann", "bob"]
        client.unsubscribe("room:1")
        assert client.presence("room:1") is None


# --- the client in JavaScript --------------------------------------------------------------

PROGRAM = """
import {HubClient} from "./ws_hub.js";
import {presence} from "./ws_hub_presence.js";
import {WebSocket} from "ws";
const hub = new HubClient(process.argv[2], {WebSocket, initialBackoff: 10, maxBackoff: 20});
const until = async (condition) => {
  while (!condition()) await new Promise((done) => setTimeout(done, 5));
};
const failure = (fn) => { try { fn(); return "none"; } catch (error) { return error.name; } };
const script = async () => { %s };
console.log(JSON.stringify(await script()));
hub.close();
"""

Script = Callable[[str], Any]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return node.prepare(tmp_path_factory.mktemp("node"))


@pytest.fixture
def script(folder: Path) -> Iterator[Script]:
    def do(client: Client, message: Message) -> None:
        if message.type == "info":
            client.set_info(message.data)
        elif message.type == "cut":
            client.abort()

    config = HubConfig(rules=RULES, on_message=do)
    with Hub(config) as hub, serve(hub, port=0) as server:
        yield lambda text: node.run(folder, PROGRAM % text, server.url)


needs_node = pytest.mark.skipif(node.NODE is None, reason="no Node on this machine")


@needs_node
@pytest.mark.timeout(180)
def test_a_script_keeps_members_and_resynchronises_after_a_reconnect(script: Script) -> None:
    said = script("""
        const changes = [], heard = [];
        const room = presence(hub.subscribe("room:1", ({type}) => heard.push(type)), (change) => {
          changes.push([change.joined.length, change.left.length, change.users]);
        });
        hub.connect();
        await until(() => room.members.length === 1);
        await hub.request("info", {name: "me"});
        await until(() => room.members[0].info?.name === "me");
        const before = [...room.members[0].connections.keys()];
        hub.send({type: "cut"});
        await until(() => room.members.length === 1
          && room.members[0].connections.keys().next().value !== before[0]);
        return [changes[1], heard, room.users, room.connections, failure(() => presence(room)),
                failure(() => presence("room:1")), failure(() => presence(room, 1))];
    """)
    assert said == [[1, 0, 1], [], 1, 1, "Error", "TypeError", "TypeError"]


@needs_node
@pytest.mark.timeout(180)
def test_a_script_of_a_counted_channel_has_numbers_alone(script: Script) -> None:
    said = script("""
        const room = presence(hub.subscribe("count:1"));
        hub.connect();
        await until(() => room.users === 1);
        return [room.members, room.users, room.connections];
    """)
    assert said == [None, 1, 1]


@needs_node
@pytest.mark.timeout(180)
def test_a_script_is_warned_of_a_channel_without_presence(script: Script) -> None:
    said = script("""
        const warned = [];
        console.warn = (text) => warned.push(text);
        const [none, room] = ["news", "room:1"].map((name) => hub.subscribe(name, () => {}));
        presence(none);
        presence(room);
        hub.connect();
        await Promise.all([none.ready, room.ready]);
        return warned;
    """)
    assert said == ["ws_hub: news has no presence: its ChannelRule needs presence=True"]


def test_a_state_that_is_told_is_json_as_documented(hub: Live) -> None:
    with Viewer(hub, user='a"presence":null') as one:
        one.until_users('a"presence":null')
        assert json.loads(json.dumps(one.told[0]))["leave"] == []
