"""The decorators of a hub over real sockets: every end of a client, forks, and races."""

from __future__ import annotations

import contextlib
import functools
import os
import threading
from collections.abc import Callable
from typing import Any

import pytest

from tests.integration.apps.fork import in_child
from tests.integration.apps.live import Notes, at_once, live, subscribe
from tests.integration.apps.sock import serve_routes
from tests.support import PING, TIMEOUT, RawPeer
from ws_hub import APIKeyAuth, Client, ConfigError, ConnectionClosed, Hub, Message, serve

ATTEMPTS = range(20)
ROOMS = [f"room:{number}" for number in range(8)]


def note_subscriptions(hub: Hub, notes: Notes) -> None:
    """Have the begin and the end of each subscription noted."""
    hub.on_subscribe("*")(lambda client, channel: notes.note("+", client.id, channel))
    hub.on_unsubscribe("*")(lambda client, channel: notes.note("-", client.id, channel))


def story(notes: Notes) -> list[tuple[Any, ...]]:
    """Return what was noted until a client had gone, without its number and the reason."""
    found = []
    while True:
        kind, _, *rest = notes.next()
        found.append((kind, *rest[:1]))
        if kind == "disconnect":
            return found


def await_begins(peer: RawPeer) -> None:
    """Wait until the begins are told: the ack of the last subscription may come before that."""
    peer.send_json({"type": "ping"})
    assert peer.recv_json()["type"] == "pong"


# --- a client from its begin to its end ----------------------------------------------------


def test_a_chat_made_of_decorators() -> None:
    with Hub() as hub, serve(hub) as site:

        @hub.on_connect
        def greet(client: Client) -> None:
            client.send(Message("event", data="hello"))

        @hub.on_subscribe("room:*")
        def enter(client: Client, channel: str) -> None:
            hub.send_event("entered", client.id, channel=channel)

        @hub.on("chat")
        def chat(client: Client, message: Message) -> int:
            hub.send_event("said", message.data, channel=message.channel)
            return hub.channel_subscriber_count(message.channel)

        @hub.on_unsubscribe("room:*")
        def leave(client: Client, channel: str) -> None:
            hub.send_event("left", client.id, channel=channel)

        @hub.on_disconnect
        def goodbye(client: Client, code: int, reason: str) -> None:
            for channel in client.subscriptions():
                hub.send_event("gone", [client.id, code, reason], channel=channel)

        with RawPeer(site.host, site.port) as ann, RawPeer(site.host, site.port) as bob:
            assert ann.recv_json()["data"] == bob.recv_json()["data"] == "hello"
            heard = []
            for peer in (ann, bob):
                subscribe(peer, "room:1")
                heard.append(ann.recv_json()["data"]["data"])
            assert bob.recv_json()["data"] == {"event": "entered", "data": heard[1]}
            ann.send_json({"type": "chat", "channel": "room:1", "data": "hi", "id": 1})
            answers = [ann.recv_json() for _ in range(2)]
            (ack,) = [each for each in answers if each["type"] == "ack"]
            assert (ack["id"], ack["data"]) == (1, 2)
            assert bob.recv_json()["data"] == {"event": "said", "data": "hi"}
            ann.close(4000, "bye")
            assert bob.recv_json()["data"] == {"event": "left", "data": heard[0]}
            gone = {"event": "gone", "data": [heard[0], 4000, "bye"]}
            assert bob.recv_json()["data"] == gone


@pytest.mark.parametrize(
    ("end", "code"),
    [
        (lambda site, peer: peer.close(1000), 1000),
        (lambda site, peer: peer.sock.close(), 1006),
        (lambda site, peer: site.client().close(4000), 4000),
        (lambda site, peer: site.hub.disconnect("ann"), 4401),
        (lambda site, peer: peer.send_raw(60 * RawPeer.frame(PING)), 1008),
        (lambda site, peer: site.hub.stop(), 1001),
    ],
    ids=["closes", "is lost", "is closed", "is disconnected", "floods", "hub stops"],
)
def test_however_a_client_ends_its_subscriptions_end_before_it(
    end: Callable[[Any, RawPeer], object], code: int
) -> None:
    settings = {"max_control_rate": 0.01, "control_burst": 50, "close_timeout": 0.2}
    with live(authenticator=APIKeyAuth({"k": "ann"}), **settings) as site:
        note_subscriptions(site.hub, site.notes)
        with site.peer(headers=[("Authorization", "Bearer k")]) as peer:
            for room in ROOMS[:2]:
                subscribe(peer, room)
            await_begins(peer)
            with contextlib.suppress(OSError, EOFError):
                end(site, peer)
                peer.recv_close()
                peer.send_close(code)
        assert story(site.notes) == [
            ("connect",),
            *(("+", room) for room in ROOMS[:2]),
            *(("-", room) for room in ROOMS[:2]),
            ("disconnect", code),
        ]


def test_on_connect_comes_first_for_a_client_that_authenticates_by_its_first_message() -> None:
    settings = {"authenticator": APIKeyAuth({"k": "ann"}), "auth_by_message": True}
    with live(on_connect=None, **settings) as site:
        note_subscriptions(site.hub, site.notes)

        @site.hub.on_connect
        def connected(client: Client) -> None:
            site.notes.note("connect", client.id)
            site.hub.subscribe(client, "room:own")
            site.notes.note("connected", client.id)

        with site.peer() as peer:
            peer.send_json({"type": "auth", "data": "k", "id": 1})
            assert peer.recv_json()["type"] == "ack"
            subscribe(peer, "room:1")
            peer.close()
        assert story(site.notes) == [
            ("connect",),
            ("connected",),
            ("+", "room:own"),
            ("+", "room:1"),
            ("-", "room:own"),
            ("-", "room:1"),
            ("disconnect", 1000),
        ]


def test_an_attached_client_has_them_on_the_thread_of_its_route() -> None:
    with serve_routes() as site:
        note_subscriptions(site.hub, site.notes)
        used = list[int]()
        for decorate in (site.hub.on_connect, site.hub.on_subscribe("*")):
            decorate(lambda *_: used.append(threading.get_ident()))
        with site.peer() as peer:
            subscribe(peer, "room:1")
            peer.close()
        assert story(site.notes) == [
            ("connect",), ("+", "room:1"), ("-", "room:1"), ("disconnect", 1000),
        ]  # fmt: skip
        assert len(used) == 2 and len(set(used)) == 1


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_forked_child_has_them_too() -> None:
    def child() -> None:
        with hub.hub.start(), serve(hub.hub) as site, RawPeer(site.host, site.port) as peer:
            hub.hub.on_subscribe("more")(lambda client, channel: notes.note("more", client.id))
            subscribe(peer, "room:1")
            subscribe(peer, "more")
            peer.close()
            assert story(notes) == [
                ("connect",), ("+", "room:1"), ("+", "more"), ("more",),
                ("-", "room:1"), ("-", "more"), ("disconnect", 1000),
            ]  # fmt: skip

    with live() as hub:
        notes = hub.notes
        note_subscriptions(hub.hub, notes)
        in_child(child)
        with hub.peer() as peer:
            subscribe(peer, "more")
            peer.close()
        assert story(notes) == [
            ("connect",), ("+", "more"), ("-", "more"), ("disconnect", 1000),
        ]  # fmt: skip


# --- races ---------------------------------------------------------------------------------


def unsubscribe_all(hub: Hub, client: Client) -> None:
    for room in ROOMS:
        hub.unsubscribe(client, room)


@pytest.mark.usefixtures("hasty_threads")
@pytest.mark.parametrize("attempt", ATTEMPTS)
def test_unsubscribing_and_leaving_at_once_end_a_subscription_once(attempt: int) -> None:
    with live() as site:
        note_subscriptions(site.hub, site.notes)
        with site.subscribed(*ROOMS) as peer:
            client = site.client()
            await_begins(peer)
            with at_once(
                functools.partial(unsubscribe_all, site.hub, client),
                functools.partial(unsubscribe_all, site.hub, client),
                lambda: client.close() if attempt % 2 else None,
            ):
                for room in ROOMS[::-1]:
                    peer.send_json({"type": "unsubscribe", "channel": room})
        found = story(site.notes)
        assert found[0] == ("connect",) and found[-1][0] == "disconnect"
        assert found[1 : 1 + len(ROOMS)] == [("+", room) for room in ROOMS]
        assert sorted(found[1 + len(ROOMS) : -1]) == [("-", room) for room in ROOMS]


@pytest.mark.usefixtures("hasty_threads")
@pytest.mark.parametrize("attempt", ATTEMPTS)
def test_begins_and_ends_alternate_whoever_makes_them(attempt: int) -> None:
    def come_and_go(client: Client) -> None:
        with contextlib.suppress(ConnectionClosed):
            for _ in range(30):
                site.hub.subscribe(client, "room:1")
                site.hub.unsubscribe(client, "room:1")

    inside = set[int]()  # clients that are in a callback

    def alone(client: Client, channel: str) -> None:
        assert client.id not in inside
        inside.add(client.id)
        client.subscriptions()
        inside.remove(client.id)

    with live() as site:
        note_subscriptions(site.hub, site.notes)
        site.hub.on_subscribe("*")(alone)
        site.hub.on_unsubscribe("*")(alone)
        with site.peer() as peer:
            work = functools.partial(come_and_go, site.client())
            with at_once(work, work):
                for _ in range(30):
                    peer.send_json({"type": "subscribe", "channel": "room:1"})
                    peer.send_json({"type": "unsubscribe", "channel": "room:1"})
            if attempt % 2:
                subscribe(peer, "room:1")
        signs = [kind for kind, *_ in story(site.notes)[1:-1]]
        assert signs == ["+", "-"] * (len(signs) // 2)
        assert len(signs) >= 2
        assert site.hub.stats().callback_errors == 0


@pytest.mark.usefixtures("hasty_threads")
@pytest.mark.parametrize("attempt", ATTEMPTS)
def test_registrations_while_messages_arrive_lose_none(attempt: int) -> None:
    types = [f"type-{number}" for number in range(50)]

    def register() -> None:
        for type in types:
            site.hub.on(type)(lambda client, message: message.type)

    def listen(channel: str) -> None:
        for _ in range(50):
            site.hub.on_subscribe(channel)(lambda client, channel: called.append(channel))

    called = list[str]()
    with live() as site, site.peer() as peer:
        with at_once(
            register, functools.partial(listen, "room:a"), functools.partial(listen, "room:b")
        ):
            for number, type in enumerate(types):
                peer.send_json({"type": type, "id": number})
                answer = peer.recv_json()
                assert answer["id"] == number
                assert answer.get("data") in (type, f"unknown message type {type!r}")
        for type in types:
            peer.send_json({"type": type, "id": type})
            answer = peer.recv_json()
            assert (answer["type"], answer["data"]) == ("ack", type)
        for channel in ("room:a", "room:b"):
            subscribe(peer, channel)
        peer.close()
        assert site.notes.end()[0] == 1000
    assert called == ["room:a"] * 50 + ["room:b"] * 50


@pytest.mark.usefixtures("hasty_threads")
@pytest.mark.parametrize("attempt", ATTEMPTS)
def test_of_many_functions_for_a_type_one_is_taken(attempt: int) -> None:
    hub, taken, refused = Hub(), list[int](), list[int]()
    together = threading.Barrier(8)

    def register(number: int) -> None:
        together.wait(TIMEOUT)
        try:
            hub.on("chat")(lambda client, message: number)
        except ConfigError:
            refused.append(number)
        else:
            taken.append(number)

    with at_once(*(functools.partial(register, number) for number in range(8))):
        pass
    assert (len(taken), len(refused)) == (1, 7)
    with hub, serve(hub) as site, RawPeer(site.host, site.port) as peer:
        peer.send_json({"type": "chat", "id": 1})
        assert peer.recv_json()["data"] == taken[0]
