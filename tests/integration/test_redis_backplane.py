"""Processes of any machine that tell each other notices over a Redis or Valkey server."""

from __future__ import annotations

import contextlib
import logging
import multiprocessing
import queue
import sys
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import redis

from tests.integration.apps.live import Live, subscribe
from tests.interventions import broker_times
from tests.receivers import StandIn
from tests.redis_servers import SERVERS, RedisProcess, documented_rights, running
from tests.support import TIMEOUT, wait_until
from ws_hub import (
    ChannelRule,
    ConfigError,
    Hub,
    HubConfig,
    Message,
    ProcessAlreadyRunning,
    Publisher,
    WsHubError,
    serve,
)
from ws_hub.backplane.bus import BusStats, Notice, NoticeKind
from ws_hub.backplane.envelopes import MAX_BODY_BYTES
from ws_hub.backplane.interest import Interest, channel_topic
from ws_hub.backplane.redis import RedisBackplane
from ws_hub.hub.relay import Relay

pytestmark = pytest.mark.skipif(not SERVERS, reason="needs a Redis or a Valkey server")

KEPT = Notice(NoticeKind.KEPT)
ALL_KINDS = [
    Notice(NoticeKind.PUBLISH, "news", (b'{"a":1}', b'{"a":2}')),
    Notice(NoticeKind.PUBLISH, "", (b'{"a":3}',)),
    Notice(NoticeKind.PUBLISH, "keyed", (b'{"a":4}',), key="k"),
    Notice(NoticeKind.PUBLISH, "keyed", (b'{"a":5}',), key="k", deletes=True),
    Notice(NoticeKind.USER, "ann", (b'{"a":6}',)),
    Notice(NoticeKind.DISCONNECT, "ann", code=4000, reason="bye"),
]


def said(number: int, size: int = 0) -> Notice:
    return Notice(NoticeKind.USER, "a", (b'{"n":%d,"x":"%b"}' % (number, b"x" * size),))


class Heard(StandIn):
    """A receiver that keeps what it gets, while it has room."""

    def __init__(self) -> None:
        self.notices: list[Notice] = []
        self.kept = threading.Event()
        self.refused = threading.Event()
        self.ended = threading.Event()
        self.has_room = True

    def receive(self, notice: Notice, source: str) -> bool:
        if not self.has_room:
            self.refused.set()
            return False
        if notice.kind is NoticeKind.KEPT:
            self.kept.set()
        else:
            self.notices.append(notice)
        return True

    def left(self) -> None:
        self.ended.set()

    def wait_for(self, count: int) -> None:
        wait_until(lambda: len(self.notices) >= count, what=f"{count} notices")


Join = Callable[..., tuple[RedisBackplane, Heard]]


@pytest.fixture(params=SERVERS)
def server(request: pytest.FixtureRequest) -> Iterator[RedisProcess]:
    with running(request.param) as process:
        yield process


@pytest.fixture
def join(server: RedisProcess) -> Iterator[Join]:
    """Open one more backplane, and wait until it and those before it know each other."""
    opened: list[RedisBackplane] = []

    def join_one(url: str | None = None) -> tuple[RedisBackplane, Heard]:
        bus, heard = RedisBackplane(url or server.url()), Heard()
        bus.open(heard)
        opened.append(bus)
        everybody(*opened)
        return bus, heard

    yield join_one
    for bus in opened:
        bus.close(TIMEOUT)


def everybody(*buses: RedisBackplane) -> None:
    count = len(buses) - 1
    wait_until(lambda: all(bus.stats().peers == count for bus in buses), what=f"{count} peers")


def test_the_receiver_has_the_claims_until_the_end(join: Join) -> None:
    (one, at_one), (other, at_other) = join(), join()
    entered, goes_on, gone = threading.Event(), threading.Event(), threading.Event()
    found = list[object]()

    def receive(notice: Notice, source: str) -> bool:
        entered.set()
        assert goes_on.wait(TIMEOUT)
        found.append(one.claims.abandoned())
        return True

    at_one.receive = receive  # type: ignore[method-assign]
    at_other.gone = lambda source: gone.set()  # type: ignore[method-assign]
    other.tell(said(1))
    assert entered.wait(TIMEOUT)
    closing = threading.Thread(target=one.close, args=(TIMEOUT,))
    closing.start()
    assert gone.wait(TIMEOUT)  # it has said that it ends
    one.close(TIMEOUT)  # nothing more
    goes_on.set()
    closing.join(TIMEOUT)
    assert found == [[]]


# --- telling -------------------------------------------------------------------------------


def test_two_tell_each_other_all_kinds_in_order(join: Join) -> None:
    (one, at_one), (two, at_two) = join(), join()
    for notice in ALL_KINDS:
        one.tell(notice)
        two.tell(notice)
    for heard in (at_one, at_two):
        heard.wait_for(len(ALL_KINDS))
        assert heard.notices == ALL_KINDS
        assert heard.lost == 0
    for bus in (one, two):
        wait_until(lambda bus=bus: bus.stats().told == len(ALL_KINDS))  # type: ignore[misc]
        assert bus.stats() == BusStats(1, len(ALL_KINDS), len(ALL_KINDS), 0, 0, True)
    one.tell(KEPT)
    assert at_two.kept.wait(TIMEOUT)


def test_three_hear_each_sender_in_its_order(join: Join) -> None:
    members = [join() for _ in range(3)]

    def tell(worker: int) -> None:
        for number in range(300):
            members[worker][0].tell(said(1000 * worker + number))

    threads = [threading.Thread(target=tell, args=(worker,)) for worker in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(TIMEOUT)
    for worker, (_, heard) in enumerate(members):
        heard.wait_for(600)
        for sender in {0, 1, 2} - {worker}:
            told = [said(1000 * sender + number) for number in range(300)]
            assert [each for each in heard.notices if each in told] == told
        assert heard.lost == 0


def test_messages_that_wait_together_arrive_in_their_order(join: Join) -> None:
    (one, _), (_, heard) = join(), join()
    texts = [b'{"n":%d}' % number for number in range(3000)]
    for text in texts:
        one.tell(Notice(NoticeKind.PUBLISH, "a", (text,)))
    one.tell(said(1))
    wait_until(lambda: said(1) in heard.notices)
    assert [text for each in heard.notices[:-1] for text in each.texts] == texts
    assert heard.lost == 0


def test_a_prefix_and_a_database_are_an_application_of_their_own(
    server: RedisProcess, join: Join
) -> None:
    (one, _), (_, at_two) = join(), join()
    with contextlib.ExitStack() as stack:
        for url in (server.url("?prefix=other"), server.url("?db=3")):
            bus, heard = RedisBackplane(url), Heard()
            bus.open(heard)
            stack.callback(bus.close, TIMEOUT)
            assert bus.stats().connected
            bus.tell(said(1))
        one.tell(said(2))
        at_two.wait_for(1)
        assert at_two.notices == [said(2)]
        assert one.stats().peers == 1


def test_a_large_notice_arrives_and_one_too_large_is_missed(join: Join) -> None:
    (one, _), (two, at_two) = join(), join()
    one.tell(said(1, 5 * 1024 * 1024))
    at_two.wait_for(1)
    one.tell(said(2, MAX_BODY_BYTES))
    one.tell(said(3))
    at_two.wait_for(2)
    assert at_two.notices[1:] == [said(3)]
    assert at_two.lost == one.stats().lost == two.stats().lost == 1


def test_a_text_with_a_line_feed_is_refused(join: Join) -> None:
    (one, _), (_, at_two) = join(), join()
    with pytest.raises(ValueError, match="line feed"):
        one.tell(Notice(NoticeKind.PUBLISH, "a", (b"1\n2",)))
    one.tell(said(1))
    at_two.wait_for(1)
    assert at_two.lost == 0


def test_what_was_told_last_is_sent_before_the_end_and_the_end_is_seen(join: Join) -> None:
    (one, _), (two, at_two) = join(), join()
    at_two.ended.clear()
    for number in range(100):
        one.tell(said(number))
    one.close(TIMEOUT)
    at_two.wait_for(100)
    wait_until(lambda: two.stats().peers == 0)
    assert at_two.ended.wait(TIMEOUT)
    assert at_two.lost == 0
    one.close(TIMEOUT)
    one.tell(said(1))  # to nobody
    assert not one.stats().connected


def test_it_may_be_opened_again_and_is_used_once(join: Join) -> None:
    (one, _), (two, at_two) = join(), join()
    with pytest.raises(ConfigError, match="in use by another hub"):
        one.open(Heard())
    one.close(TIMEOUT)
    with pytest.raises(WsHubError, match="is not open"):
        one.claims.claim("a")
    one.open(Heard())
    everybody(one, two)
    one.tell(said(1))
    at_two.wait_for(1)
    assert at_two.lost == 0


def test_a_receiver_without_room_is_offered_again_in_order(join: Join) -> None:
    (one, _), (_, at_two) = join(), join()
    at_two.has_room = False
    for number in range(10):
        one.tell(said(number))
    assert at_two.refused.wait(TIMEOUT)
    at_two.has_room = True
    at_two.wait_for(10)
    assert at_two.notices == [said(number) for number in range(10)]


def test_what_finds_no_room_for_long_is_missed(join: Join) -> None:
    with broker_times(room=10_000):
        (one, _), (two, at_two) = join(), join()
        at_two.has_room = False
        for number in range(200):
            one.tell(said(number))
        one.tell(Notice(NoticeKind.DISCONNECT, "ann", code=4000))
        wait_until(lambda: at_two.lost > 100)
        at_two.has_room = True
        wait_until(lambda: at_two.notices and at_two.notices[-1].kind is NoticeKind.DISCONNECT)
        assert len(at_two.notices) - 1 + at_two.lost == 200
        assert two.stats().lost == at_two.lost


def test_a_process_that_says_nothing_any_more_is_gone(join: Join, server: RedisProcess) -> None:
    with broker_times(gone=0.5):
        one, _ = join()
        body = '{"v":1,"from":"%s","n":0,"kind":"hello"}' % ("0" * 32)
        server.ask("PUBLISH", "ws:bus", body)
        wait_until(lambda: one.stats().peers == 1)
        wait_until(lambda: one.stats().peers == 0)


def _open_anew(bus: RedisBackplane, answer: Any) -> None:
    before, heard = bus.stats(), Heard()
    bus.open(heard)
    wait_until(lambda: bus.stats().peers == 2)
    bus.tell(said(1))
    heard.wait_for(1)
    answer.put((before, heard.notices == [said(2)]))
    bus.close(TIMEOUT)


def test_fault_40_a_forked_child_has_connections_of_its_own(join: Join) -> None:
    (one, at_one), (two, at_two) = join(), join()
    context = multiprocessing.get_context("fork")
    answer = context.SimpleQueue()
    child = context.Process(target=_open_anew, args=(one, answer))
    child.start()
    for heard in (at_one, at_two):
        heard.wait_for(1)
    two.tell(said(2))
    assert answer.get() == (BusStats(connected=False), True)
    child.join(TIMEOUT)
    assert child.exitcode == 0
    child.close()
    answer.close()
    wait_until(lambda: one.stats().peers == two.stats().peers == 1)
    one.tell(said(3))
    at_two.wait_for(2)
    assert at_two.notices == [said(1), said(3)]
    assert at_one.notices == [said(1), said(2)]
    assert at_two.lost == at_one.lost == 0


# --- claims --------------------------------------------------------------------------------


def test_a_name_is_one_process_alone(join: Join) -> None:
    (one, _), (two, _) = join(), join()
    assert one.claims.claim("a")
    assert not one.claims.claim("a")
    assert not two.claims.claim("a")
    assert two.claims.claim("b")
    one.claims.release("a")
    one.claims.release("a")
    assert two.claims.claim("a")
    two.close(TIMEOUT)
    assert one.claims.claim("a")
    assert one.claims.claim("b")
    assert one.claims.abandoned() == []


def _claim_and_wait(url: str, ready: Any) -> None:
    bus = RedisBackplane(url)
    bus.open(Heard())
    assert bus.claims.claim("a")
    ready.set()
    threading.Event().wait()


def test_what_a_killed_process_had_is_abandoned_and_told_once(
    join: Join, server: RedisProcess
) -> None:
    context = multiprocessing.get_context("fork")
    ready = context.Event()
    child = context.Process(target=_claim_and_wait, args=(server.url(), ready))
    with broker_times(gone=1.0):
        child.start()
        assert ready.wait(TIMEOUT)
        (one, _), (two, _) = _joined(server), _joined(server)
        try:
            wait_until(lambda: one.stats().peers == 2)
            assert not one.claims.claim("a")
            child.kill()
            child.join(TIMEOUT)
            child.close()
            found = wait_until(lambda: one.claims.abandoned() + two.claims.abandoned())
            assert found == ["a"]
            assert one.claims.abandoned() + two.claims.abandoned() == []
            assert two.claims.claim("a")
        finally:
            one.close(TIMEOUT)
            two.close(TIMEOUT)


def _joined(server: RedisProcess) -> tuple[RedisBackplane, Heard]:
    bus, heard = RedisBackplane(server.url()), Heard()
    bus.open(heard)
    return bus, heard


# --- hubs ----------------------------------------------------------------------------------

RULES = [ChannelRule("state", keyed=True), ChannelRule("room", presence=True)]


@contextlib.contextmanager
def connected(*backplanes: Any) -> Iterator[list[Live]]:
    """Serve hubs that know each other."""
    with contextlib.ExitStack() as stack:
        found = []
        for each in backplanes:
            hub = stack.enter_context(Hub(HubConfig(rules=RULES, backplane=each)))
            found.append(Live(hub, stack.enter_context(serve(hub)), None))  # type: ignore[arg-type]
        count = len(found) - 1
        for live in found:
            wait_until(lambda live=live: live.hub.stats().peers == count)  # type: ignore[misc]
        yield found


def test_what_one_hub_publishes_reaches_the_clients_of_all(server: RedisProcess) -> None:
    with connected(server.url(), RedisBackplane(server.url("?prefix=ws"))) as (here, there):
        with here.subscribed("news", "state") as near, there.subscribed("news", "state") as far:
            here.hub.send_to_channel("news", Message("event", data=1))
            here.hub.broadcast(Message("event", data=2))
            here.hub.send_event("cpu", 40, channel="state", key="cpu")
            for peer in (near, far):
                assert [peer.recv_json()["data"] for _ in range(2)] == [1, 2]
                assert peer.recv_json()["key"] == "cpu"
        assert not here.hub.stats().bus_down
        with here.hub.run_process(["sleep", "60"], process_id="job") as handle:
            with pytest.raises(ProcessAlreadyRunning):
                there.hub.run_process([sys.executable, "-c", ""], process_id="job")
            handle.terminate()


def test_what_is_not_wanted_is_not_handed_on_and_is_no_loss(
    server: RedisProcess, join: Join
) -> None:
    one, _ = join()
    bus, heard, interest = RedisBackplane(server.url()), Heard(), Interest()
    bus.open(heard, interest)
    try:
        everybody(one, bus)
        for name in ("a", "b"):
            if name == "b":
                interest.begin(channel_topic("b"))
            for channel in ("a", "b", ""):
                one.tell(Notice(NoticeKind.PUBLISH, channel, (b"{}",)))
            end = Notice(NoticeKind.DISCONNECT, name)
            one.tell(end)
            wait_until(lambda end=end: end in heard.notices)  # type: ignore[misc]
        kinds = [(each.kind, each.name) for each in heard.notices]
        assert kinds == [
            (NoticeKind.DISCONNECT, "a"),
            (NoticeKind.PUBLISH, "b"),
            (NoticeKind.DISCONNECT, "b"),
        ]
        assert (bus.stats().received, bus.stats().lost) == (8, 0)
    finally:
        bus.close(TIMEOUT)


def test_all_hubs_are_asked(server: RedisProcess) -> None:
    with connected(server.url(), RedisBackplane(server.url("?prefix=ws"))) as (here, there):
        with here.subscribed("news"), there.subscribed("news"):
            assert here.hub.count("news", TIMEOUT) == there.hub.count("news", TIMEOUT) == 2
        assert len(here.hub.instances(TIMEOUT)) == 2
        assert here.hub.is_connected("ann", TIMEOUT) is False
        with Publisher(server.url()) as publisher:  # is heard, and would answer nothing
            with here.subscribed("news") as peer:
                publisher.send_to_channel("news", Message("event", data=1))
                assert peer.recv_json()["data"] == 1
            assert here.hub.count("none", TIMEOUT) == 0


def test_presence_and_keys_are_those_of_all_hubs(server: RedisProcess) -> None:
    sites = connected(server.url(), RedisBackplane(server.url("?prefix=ws")))
    with sites as (first, second), first.subscribed("room"):
        first.hub.send_event("set", 1, channel="state", key="a")
        with second.subscribed("room"):
            for each in (first, second):
                wait_until(lambda each=each: each.hub.presence("room").connections == 2)  # type: ignore[misc]
            second.hub.send_event("set", 2, channel="state", key="b")
            for each in (first, second):
                wait_until(lambda each=each: keys_of(each) == {"a": 1, "b": 2})  # type: ignore[misc]
        wait_until(lambda: first.hub.presence("room").connections == 1)


def keys_of(site: Live) -> dict[str, Any]:
    """Return what a new subscriber gets first."""
    with site.peer() as peer:
        count = subscribe(peer, "state", since=0)["replayed"]
        found = [peer.recv_json() for _ in range(count)]
        return {each["key"]: each["data"]["data"] for each in found}


def test_a_look_for_abandoned_programs_during_the_end_finds_none(server: RedisProcess) -> None:
    bus = RedisBackplane(server.url())  # as after `close`, while its thread still calls
    Relay(bus, None, queue.Queue(), None, None, None, Interest()).left()  # type: ignore[arg-type]


def test_hubs_with_other_rules_are_warned_of(
    server: RedisProcess, caplog: pytest.LogCaptureFixture
) -> None:
    with connected(server.url()):
        rules = [ChannelRule("state", history_messages=5), *RULES[1:]]
        bus = RedisBackplane(server.url())
        with Hub(HubConfig(rules=rules, backplane=bus)):
            assert "run with other rules: the rule for 'state'" in caplog.text


def test_an_address_is_of_one_hub_of_a_process(server: RedisProcess) -> None:
    with Hub(backplane=server.url()), pytest.raises(ConfigError, match="prefix=chat"):
        Hub(backplane=server.url()).start()
    with Hub(backplane=server.url()):
        pass


def test_the_environment_names_it(
    server: RedisProcess, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("WS_HUB_BACKPLANE", server.url("?prefix=app"))
    with caplog.at_level(logging.INFO, "ws_hub"), Hub() as hub:
        assert not hub.stats().bus_down
    assert "prefix=app" in caplog.text


# --- who may -------------------------------------------------------------------------------


@pytest.mark.parametrize("name", SERVERS)
def test_a_password_and_the_rights_that_are_documented_are_enough(
    name: str, caplog: pytest.LogCaptureFixture
) -> None:
    with running(name, "--requirepass", "secret") as server:
        _make_user(server)
        good = RedisBackplane(server.url(user="app:right@"))
        heard = Heard()
        good.open(heard)
        assert good.stats().connected
        assert good.claims.claim("a")
        good.claims.release("a")
        assert good.claims.abandoned() == []
        store = good.history
        store.open(lambda channel: ChannelRule("*", history_messages=2))
        for number in range(3):
            store.append(
                "a", [b'{"n":%d}' % number], keys=[str(number % 2)], once=[f"once {number}"]
            )
        assert store.has_published("once 0")
        assert len(store.snapshot("a").messages) == len(store.read("a", last=2).messages) == 2
        assert len(store.read("a", since_time=0).messages) == 2
        store.expire(2e9)
        store.expire(3e9)
        assert store.names() == []
        store.close()
        good.close(TIMEOUT)
        bad = RedisBackplane(server.url(user="app:wrong@"))
        bad.open(heard)
        assert not bad.stats().connected
        bad.close(0)
        assert "wrong" not in caplog.text + repr(bad)
        assert "cannot reach" in caplog.text


def _make_user(server: RedisProcess) -> None:
    """Give the user "app" the rights that docs/scaling.md lists."""
    with redis.Redis(port=server.port, password="secret") as client:
        client.execute_command("ACL", "SETUSER", "app", *documented_rights())
