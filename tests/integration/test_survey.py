"""What all processes have, asked of each: two hubs of this process, and one that is alone."""

from __future__ import annotations

import json
import os
import socket
import tempfile
import threading
from collections.abc import Callable, Iterator

import pytest

from tests.integration.apps.live import Live, Notes
from tests.receivers import StandIn
from tests.support import TIMEOUT, wait_until
from ws_hub import (
    AuthResult,
    Hub,
    HubConfig,
    HubNotRunning,
    Instance,
    LocalBackplane,
    WaitTimeout,
    serve,
)
from ws_hub.backplane.bus import Notice, NoticeKind

CONFIG = HubConfig(
    authenticator=lambda environ: AuthResult(valid=True, user_id=environ["HTTP_X_USER"])
)
ANN, BOB = [("X-User", "ann")], [("X-User", "bob")]


@pytest.fixture
def pair() -> Iterator[tuple[Live, Live]]:
    with tempfile.TemporaryDirectory(prefix="wsh-", dir="/tmp") as folder:
        with (
            Hub(CONFIG, backplane=LocalBackplane(f"{folder}/hub")) as one,
            Hub(CONFIG, backplane=LocalBackplane(f"{folder}/hub")) as two,
            serve(one) as at_one,
            serve(two) as at_two,
        ):
            hubs = one, two
            wait_until(lambda: all(each.stats().peers == 1 for each in hubs))
            yield Live(one, at_one, Notes()), Live(two, at_two, Notes())


Pair = tuple[Live, Live]


def test_subscribers_of_all_are_counted_listeners_included(pair: Pair) -> None:
    one, two = pair
    with one.subscribed("news", headers=ANN), two.subscribed("news", "more", headers=BOB):
        listener = two.hub.listen("news", print)
        assert one.hub.count("news") == two.hub.count("news") == 3
        assert (one.hub.count("more"), one.hub.count("none")) == (1, 0)
        listener.close()
        assert one.hub.count("news") == 2


def test_a_user_is_found_wherever_connected(pair: Pair) -> None:
    one, two = pair
    with two.peer(headers=BOB):
        wait_until(lambda: two.hub.client_count() == 1)
        assert one.hub.is_connected("bob")
        assert two.hub.is_connected("bob")
        assert not one.hub.is_connected("ann")
    wait_until(lambda: two.hub.client_count() == 0)
    assert not one.hub.is_connected("bob")


def test_the_instances_have_what_each_process_has(pair: Pair) -> None:
    one, two = pair
    with one.subscribed("a", "b", headers=ANN), one.subscribed("a", headers=ANN):
        own, other = one.hub.instances()
        host, pid = socket.gethostname(), os.getpid()
        assert own == Instance(host, pid, 2, 1, 2, 3, is_own=True)
        assert other == Instance(host, pid, 0, 0, 0, 0)
        assert [each.is_own for each in two.hub.instances()] == [True, False]


def test_many_ask_at_once(pair: Pair) -> None:
    one, two = pair
    with two.subscribed("news", headers=BOB):
        found: list[int] = []
        threads = [
            threading.Thread(target=lambda: found.append(one.hub.count("news", 10.0)))
            for _ in range(8)
        ]
        for each in threads:
            each.start()
        for each in threads:
            each.join()
        assert found == [1] * 8


def test_a_hub_without_others_answers_at_once() -> None:
    with Hub() as hub:
        listener = hub.listen("news", print)
        assert (hub.count("news", 0), hub.is_connected("ann", 0)) == (1, False)
        assert len(hub.instances(0)) == 1
        listener.close()


class Peer(StandIn):
    """A process that hears questions, and answers as a test has it."""

    def __init__(self, folder: str) -> None:
        self.bus = LocalBackplane(f"{folder}/hub")
        self.answer: Callable[[str], object] = lambda id: None

    def receive(self, notice: Notice, source: str) -> bool:
        if notice.kind is NoticeKind.ASK:
            self.answer(json.loads(notice.texts[0])["id"])
        return True


@pytest.fixture
def beside() -> Iterator[tuple[Hub, Peer]]:
    """A hub, and another process that is none."""
    with tempfile.TemporaryDirectory(prefix="wsh-", dir="/tmp") as folder:
        peer = Peer(folder)
        with Hub(backplane=LocalBackplane(f"{folder}/hub")) as hub:
            peer.bus.open(peer)
            wait_until(lambda: hub.stats().peers == peer.bus.stats().peers == 1)
            yield hub, peer
            peer.bus.close(TIMEOUT)


Beside = tuple[Hub, Peer]


def test_one_that_does_not_answer_is_said(beside: Beside) -> None:
    hub, _ = beside
    with pytest.raises(WaitTimeout, match=r"1 of 1 other processes have not answered"):
        hub.count("news", 0.05)
    with pytest.raises(WaitTimeout):
        hub.is_connected("ann", 0.05)
    assert [each.is_own for each in hub.instances(0.05)] == [True]


def test_a_process_that_ends_is_not_waited_for(beside: Beside) -> None:
    hub, peer = beside
    ends = threading.Thread(target=peer.bus.close, args=(TIMEOUT,))
    peer.answer = lambda id: ends.start()
    assert hub.count("news", 2 * TIMEOUT) == 0
    ends.join()


def test_an_answer_that_is_not_understood_is_none(
    beside: Beside, caplog: pytest.LogCaptureFixture
) -> None:
    hub, peer = beside
    wrong = (b'{"pid":"1"}', b"{", b"1", b"[" * 100_000, b"\xff")
    peer.answer = lambda id: peer.bus.tell(Notice(NoticeKind.ANSWER, id, wrong))
    with pytest.raises(WaitTimeout):
        hub.count("news", 0.5)
    assert caplog.text.count("is not understood") == len(wrong)


def test_a_question_that_is_not_understood_is_logged_and_others_are_answered(
    beside: Beside, caplog: pytest.LogCaptureFixture
) -> None:
    hub, peer = beside
    wrong = (b"1", b"{}", b"{", b'{"id":"x","channel":7,"user":null}', b"[" * 100_000)
    peer.bus.tell(Notice(NoticeKind.ASK, texts=wrong))
    wait_until(lambda: caplog.text.count("is not understood") == len(wrong))
    peer.bus.tell(Notice(NoticeKind.ANSWER, "no such question", (b"1",)))
    answered = threading.Event()
    peer.receive = lambda notice, source: bool(answered.set()) or True  # type: ignore[method-assign]
    peer.bus.tell(Notice(NoticeKind.ASK, texts=(b'{"id":"x","channel":"news","user":null}',)))
    assert answered.wait(TIMEOUT)


def test_a_hub_that_is_not_running_says_so() -> None:
    for ask in (lambda: Hub().count("news"), lambda: Hub().is_connected("ann"), Hub().instances):
        with pytest.raises(HubNotRunning):
            ask()
