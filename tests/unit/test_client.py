"""What an application sees of a client, and what is left of it when it has gone."""

from __future__ import annotations

import gc
import queue
import weakref
from typing import Any

import pytest

from tests.integration.apps.live import live
from tests.support import TIMEOUT, wait_until
from ws_hub import Client, ConnectionClosed, Message


def test_an_application_sees_few_names() -> None:
    assert len([name for name in dir(Client) if not name.startswith("_")]) <= 19


def test_what_the_hub_says_of_a_client_cannot_be_changed() -> None:
    with live() as hub, hub.peer():
        client = hub.client()
        for name in ("id", "user_id", "claims", "expires_at", "remote_address", "unheard_of"):
            with pytest.raises(AttributeError):
                setattr(client, name, "mallory")
        with pytest.raises(TypeError):
            client.claims["admin"] = True  # type: ignore[index]


def test_every_callback_and_list_has_the_same_client() -> None:
    seen: queue.Queue[Client] = queue.Queue()

    def note(client: Client, *about: Any) -> bool:
        seen.put(client)
        return True

    settings = {"on_connect": note, "on_message": note, "on_disconnect": note}
    with live(**settings, channel_authoriser=note) as hub:
        with hub.peer() as peer:
            first = seen.get(timeout=TIMEOUT)
            first.state["name"] = "ann"
            peer.send_json({"type": "subscribe", "channel": "news", "id": 1})
            peer.send_json({"type": "chat", "id": 2})
            assert {peer.recv_json()["id"], peer.recv_json()["id"]} == {1, 2}
            assert hub.hub.all_clients() == hub.hub.clients("news") == [first]
        found = [first, *(seen.get(timeout=TIMEOUT) for _ in range(3))]
    assert all(each is first and each.state == {"name": "ann"} for each in found)


def test_a_client_that_has_gone_says_so() -> None:
    with live() as hub:
        with hub.peer():
            client = hub.client()
            hub.hub.subscribe(client, "news")
        hub.empty()
        with pytest.raises(ConnectionClosed, match=repr(client)):
            hub.hub.subscribe(client, "news")
        with pytest.raises(ConnectionClosed):
            client.send(Message("x"))
        assert hub.hub.unsubscribe(client, "news") is False
        assert hub.hub.recheck(client) == []
        # Those of its end are there until its last callback has returned.
        wait_until(lambda: client.subscriptions() == [], what="no channels of its end")
        assert client.wait_for_room(0)
        assert client.waiting == (0, 0)
        client.close()
        client.abort()


def test_a_client_of_an_earlier_life_of_the_hub_is_gone() -> None:
    with live() as hub:
        with hub.peer():
            client = hub.client()
            hub.hub.stop()
        hub.hub.start()
        with pytest.raises(ConnectionClosed):
            hub.hub.subscribe(client, "news")


def test_a_connection_that_has_ended_is_freed_at_once() -> None:
    """Without the collector: a crowd that leaves must not stay in memory until it comes."""
    gc.disable()
    try:
        with live() as hub:
            with hub.peer():
                parts = [weakref.ref(hub.client()), weakref.ref(hub.connection())]
            wait_until(lambda: [part() for part in parts] == [None, None], what="both to be freed")
    finally:
        gc.enable()
