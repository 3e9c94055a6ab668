"""What the server asks its clients, over real sockets: answers, cuts, ends, wrong calls."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import pytest

from tests.integration.apps.live import Live, live, subscribe
from tests.integration.clients import Seen
from tests.support import TIMEOUT
from ws_hub import (
    Client,
    ConnectionClosed,
    HubError,
    Message,
    MessageEncodeError,
    WaitTimeout,
    WsHubError,
)
from ws_hub.testing import FaultProxy


@pytest.fixture
def site() -> Iterator[Live]:
    with live(close_timeout=0.5) as site:
        yield site


def asked(site: Live, data: Any = None, timeout: float = TIMEOUT) -> Future[Any]:
    """Ask the newest client on a thread of its own."""
    pool = ThreadPoolExecutor(1)
    future = pool.submit(site.hub.ask, site.client(), data, timeout)
    pool.shutdown(wait=False)
    return future


def test_a_client_answers_by_on_ask(site: Live) -> None:
    with Seen(site.server.url, on_ask=lambda data: [data, "seen"]).start() as seen:
        assert site.hub.ask(site.client(), {"page": 1}, TIMEOUT) == [{"page": 1}, "seen"]
        assert site.hub.ask(site.client()) == [None, "seen"]
        assert seen.messages() == []


def test_a_client_that_iterates_answers_too(site: Live) -> None:
    with Seen(site.server.url, messages=False, on_ask=lambda data: data + 1).start():
        assert site.hub.ask(site.client(), 1, TIMEOUT) == 2


def test_a_client_without_on_ask_says_so_at_once(site: Live) -> None:
    with Seen(site.server.url).start() as seen, pytest.raises(HubError) as error:
        site.hub.ask(site.client(), 1, TIMEOUT)
    assert (error.value.code, seen.messages()) == ("not_found", [])


@pytest.mark.parametrize(
    ("raised", "code"), [(HubError("busy", "not now"), "busy"), (KeyError("x"), "internal")]
)
def test_what_on_ask_raises_is_a_hub_error_and_the_client_lives_on(
    site: Live, raised: Exception, code: str
) -> None:
    def answer(data: Any) -> Any:
        if data == 1:
            raise raised
        return {1, 2} if data == 2 else data

    with Seen(site.server.url, on_ask=answer).start() as seen:
        with pytest.raises(HubError) as error:
            site.hub.ask(site.client(), 1, TIMEOUT)
        assert error.value.code == code
        with pytest.raises(HubError, match="internal"):
            site.hub.ask(site.client(), 2, TIMEOUT)  # a set has no JSON form
        assert site.hub.ask(site.client(), 3, TIMEOUT) == 3
        assert len(seen.of("error")) == (2 if code == "internal" else 1)


def test_the_wire_of_a_question_and_its_answer(site: Live) -> None:
    with site.peer() as peer:
        future = asked(site, "who?")
        question = peer.recv_json()
        assert (question["type"], question["data"]) == ("ask", "who?")
        peer.send_json({"type": "error", "id": question["id"], "code": "shy", "data": "no"})
        with pytest.raises(HubError) as error:
            future.result(TIMEOUT)
        assert (error.value.code, error.value.text) == ("shy", "no")


def test_only_the_client_that_was_asked_can_answer(site: Live) -> None:
    with site.peer() as other:
        subscribe(other, "x")
        with site.peer() as peer:
            subscribe(peer, "x")
            future = asked(site)
            question = peer.recv_json()
            other.send_json({"type": "ack", "id": question["id"], "data": "forged"})
            other.send_json({"type": "ping", "id": 1})
            assert other.recv_json()["type"] == "pong"
            assert not future.done()
            peer.send_json({"type": "ack", "id": question["id"], "data": "true"})
            assert future.result(TIMEOUT) == "true"


def test_an_answer_that_is_late_is_for_nobody_and_other_acks_are_the_applications() -> None:
    seen: list[Message] = []
    with live(on_message=lambda client, message: seen.append(message)) as site, site.peer() as peer:
        with pytest.raises(WaitTimeout, match="within 0.05 s"):
            site.hub.ask(site.client(), 1, 0.05)
        late = peer.recv_json()["id"]
        peer.send_json({"type": "ack", "id": late, "data": 2})
        peer.send_json({"type": "ack", "id": "own", "data": 3})
        assert peer.recv_json()["id"] == "own"
        assert [message.data for message in seen] == [3]


@pytest.mark.parametrize("how", ["reset", "fin", "close"])
def test_a_client_that_leaves_fails_the_question_at_once(site: Live, how: str) -> None:
    with FaultProxy("127.0.0.1", site.server.port) as proxy, site.peer(through=proxy) as peer:
        future = asked(site)
        assert peer.recv_json()["type"] == "ask"
        peer.close() if how == "close" else getattr(proxy, how)()
        with pytest.raises(ConnectionClosed):
            future.result(TIMEOUT)


def test_a_stop_of_the_hub_fails_the_question_at_once(site: Live) -> None:
    with site.peer() as peer:
        future = asked(site)
        assert peer.recv_json()["type"] == "ask"
        site.hub.stop()
        with pytest.raises(ConnectionClosed, match="the hub stops"):
            future.result(TIMEOUT)


def test_a_client_that_has_left_cannot_be_asked(site: Live) -> None:
    with site.peer():
        client = site.client()
    site.empty()
    with pytest.raises(ConnectionClosed):
        site.hub.ask(client, 1, TIMEOUT)


@pytest.mark.parametrize("where", ["connect", "message", "subscribe"])
def test_a_callback_cannot_ask_its_own_client_and_is_told_at_once(where: str) -> None:
    told: list[str] = []
    done = threading.Event()
    with live() as site:

        def ask(client: Client, *_: Any) -> None:
            try:
                site.hub.ask(client, 1, TIMEOUT)
            except WsHubError as error:
                told.append(str(error))
                done.set()

        if where == "connect":
            site.hub.on_connect(ask)
        elif where == "message":
            site.hub.on("go")(ask)
        else:
            site.hub.on_subscribe("*")(ask)
        with site.peer() as peer:
            peer.send_json({"type": "go"})
            if where == "subscribe":
                site.hub.subscribe(site.client(), "news")  # told on another thread
            assert done.wait(TIMEOUT)
        assert "within its own callback" in told[0]


def test_a_callback_may_ask_another_client(site: Live) -> None:
    with Seen(site.server.url, on_ask=lambda data: data * 2).start():
        other = site.client()
        site.hub.on("relay")(lambda client, message: site.hub.ask(other, message.data, TIMEOUT))
        with site.peer() as peer:
            peer.send_json({"type": "relay", "id": 1, "data": 21})
            assert peer.recv_json()["data"] == 42


@pytest.mark.parametrize(
    ("call", "error"),
    [
        (lambda hub, client: hub.ask("ann", 1), TypeError),
        (lambda hub, client: hub.ask(client, 1, None), TypeError),
        (lambda hub, client: hub.ask(client, 1, -1), ValueError),
        (lambda hub, client: hub.ask(client, {1, 2}), MessageEncodeError),
    ],
)
def test_wrong_arguments(
    site: Live, call: Callable[[Any, Client], object], error: type[Exception]
) -> None:
    with site.peer(), pytest.raises(error):
        call(site.hub, site.client())
