"""Requests of the reconnecting client over real sockets: answers, cuts, and ends."""

from __future__ import annotations

import datetime
import json
import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import pytest
from websockets.sync.server import ServerConnection
from websockets.sync.server import serve as foreign_server

from tests.integration.apps.live import Live, live
from tests.integration.clients import Seen
from tests.support import TIMEOUT, wait_until
from ws_hub import (
    ChannelRule,
    Client,
    HubError,
    InvalidName,
    Message,
    MessageEncodeError,
    NotConnected,
    ReconnectingClient,
    WaitTimeout,
)
from ws_hub.protocol.message import timestamp
from ws_hub.testing import FaultProxy

OPEN = ChannelRule(pattern="open", publish=True)


class Function:
    """A function for a type of messages that waits until it is let go."""

    def __init__(self) -> None:
        self.called = threading.Semaphore(0)  # guards: nothing; counts the calls
        self.times = 0
        self.let_go = threading.Event()

    def __call__(self, client: Client, argument: Any) -> bool:
        self.times += 1
        self.called.release()
        return self.let_go.wait(TIMEOUT)

    def await_call(self) -> None:
        assert self.called.acquire(timeout=TIMEOUT)


def called(function: Callable[..., Any], *args: Any, **options: Any) -> Future[Any]:
    """Call something on a thread of its own."""
    pool = ThreadPoolExecutor(1)
    future = pool.submit(function, *args, **options)
    pool.shutdown(wait=False)
    return future


class Behind:
    """A client behind a faulty network."""

    def __init__(self, site: Live, proxy: FaultProxy) -> None:
        self.site = site
        self.proxy = proxy
        self.seen = Seen(f"ws://127.0.0.1:{proxy.port}/ws", stable_after=0)
        self.client = self.seen.client


@pytest.fixture
def function() -> Function:
    return Function()


def test_a_request_returns_the_data_of_its_answer() -> None:
    with live() as site, Seen(site.server.url).start() as seen:
        site.hub.on("add")(lambda client, message: sum(message.data))
        assert seen.client.request({"type": "add", "data": [1, 2, 3]}, 5) == 6
        assert seen.client.request(Message("ping")) is None
        assert seen.messages() == []


def test_requests_of_many_threads_each_get_their_own_answer() -> None:
    with live() as site, Seen(site.server.url).start() as seen, ThreadPoolExecutor(8) as pool:
        site.hub.on("echo")(lambda client, message: message.data)

        def ask(number: int) -> Any:
            return seen.client.request({"type": "echo", "data": number}, TIMEOUT)

        assert list(pool.map(ask, range(100))) == list(range(100))


@pytest.mark.parametrize(
    ("raised", "code"), [(HubError("full", "no seat"), "full"), (KeyError("x"), "internal")]
)
def test_an_error_of_the_server_is_a_hub_error(raised: Exception, code: str) -> None:
    with live() as site, Seen(site.server.url).start() as seen:

        @site.hub.on("seat")
        def fail(client: Client, message: Message) -> None:
            raise raised

        with pytest.raises(HubError) as error:
            seen.client.request({"type": "seat"}, TIMEOUT)
        assert error.value.code == code
        assert "x" not in error.value.text or code == "full"
        with pytest.raises(HubError, match="unknown message type"):
            seen.client.request({"type": "nothing"}, TIMEOUT)


def test_a_request_without_an_answer_times_out_and_its_late_answer_is_for_nobody(
    function: Function,
) -> None:
    with live() as site, Seen(site.server.url).start() as seen:
        site.hub.on("wait")(function)
        with pytest.raises(WaitTimeout, match=r"'wait' request was not answered .* 0.05 s"):
            seen.connected().client.request({"type": "wait"}, 0.05)
        function.let_go.set()
        seen.client.request({"type": "ping"}, TIMEOUT)  # after that answer
        assert seen.messages() == []


def test_a_request_waits_for_the_connection() -> None:
    with live() as site, FaultProxy("127.0.0.1", site.server.port) as proxy:
        site.hub.on("echo")(lambda client, message: message.data)
        proxy.refuse()
        behind = Behind(site, proxy)
        with behind.seen.start():
            behind.seen.wait("error")
            asked = called(behind.client.request, {"type": "echo", "data": 5}, TIMEOUT)
            proxy.accept()
            assert asked.result(TIMEOUT) == 5


@pytest.mark.parametrize("how", ["reset", "fin"])
def test_a_request_whose_connection_is_lost_fails_at_once_and_is_sent_once(
    how: str, function: Function
) -> None:
    with live() as site, FaultProxy("127.0.0.1", site.server.port) as proxy:
        site.hub.on("wait")(function)
        behind = Behind(site, proxy)
        with behind.seen.start():
            asked = called(behind.client.request, {"type": "wait"}, TIMEOUT)
            function.await_call()
            getattr(proxy, how)()
            with pytest.raises(NotConnected, match="may have been carried out or not"):
                asked.result(TIMEOUT)
            behind.seen.wait("connect", 2)
            function.let_go.set()
            behind.client.request({"type": "ping"}, TIMEOUT)
            assert function.times == 1


def test_a_publish_that_is_repeated_after_a_cut_counts_once(function: Function) -> None:
    heard: list[Any] = []
    with (
        live(rules=[OPEN], publish_authoriser=function) as site,
        FaultProxy("127.0.0.1", site.server.port) as proxy,
    ):
        site.hub.listen("open", lambda message: heard.append(message.data))
        behind = Behind(site, proxy)
        with behind.seen.start():
            published = called(behind.client.publish, "open", "paid", wait=TIMEOUT)
            function.await_call()
            proxy.reset()  # the ack of the first attempt is lost
            function.let_go.set()
            assert published.result(TIMEOUT) is None
            assert function.times == 2
            behind.client.publish("open", "next", wait=TIMEOUT)  # another publish
            wait_until(lambda: "next" in heard)
        assert heard == ["paid", "next"]


def test_two_publishes_with_one_key_count_once_for_a_user_and_channel() -> None:
    heard: list[Any] = []
    rules = [ChannelRule(pattern="open*", publish=True)]
    with live(rules=rules) as site:
        listeners = [
            site.hub.listen(channel, lambda message: heard.append((message.channel, message.data)))
            for channel in ("open", "open2")
        ]
        for number in range(2):
            with Seen(site.server.url).start() as seen:
                seen.client.publish("open", number, wait=TIMEOUT, idempotency_key="order-7")
                seen.client.publish("open2", number, wait=TIMEOUT, idempotency_key="order-7")
        with site.peer() as peer:
            key = {"idempotencyKey": "order-7"}
            peer.send_json({"type": "publish", "channel": "open", "data": 2, "id": 1, **key})
            ack = peer.recv_json()
            assert (ack["type"], ack["data"]) == ("ack", {"channel": "open"})
            peer.send_json({"type": "publish", "channel": "open", "data": "last", "id": 2})
            assert peer.recv_json()["type"] == "ack"
        wait_until(lambda: ("open", "last") in heard and ("open2", 0) in heard)
        assert [data for channel, data in heard if channel == "open"] == [0, "last"]
        assert [data for channel, data in heard if channel == "open2"] == [0]
        del listeners


def test_a_refused_publish_is_a_hub_error_and_its_key_is_not_used_up() -> None:
    heard: list[Any] = []
    allowed = threading.Event()
    with (
        live(rules=[OPEN], publish_authoriser=lambda *_: allowed.is_set()) as site,
        Seen(site.server.url).start() as seen,
    ):
        site.hub.listen("open", lambda message: heard.append(message.data))
        with pytest.raises(HubError) as error:
            seen.client.publish("open", 1, wait=TIMEOUT, idempotency_key="k")
        assert error.value.code == "forbidden"
        allowed.set()
        seen.client.publish("open", 2, wait=TIMEOUT, idempotency_key="k")
        wait_until(lambda: heard == [2])


def test_a_key_that_is_too_long_is_refused() -> None:
    with live(rules=[OPEN]) as site, Seen(site.server.url).start() as seen:
        with pytest.raises(HubError, match="at most 128 bytes"):
            seen.client.publish("open", 1, wait=TIMEOUT, idempotency_key="ä" * 65)


def test_a_publish_without_wait_returns_at_once_and_needs_a_connection() -> None:
    with live() as site, Seen(site.server.url) as seen:
        with pytest.raises(NotConnected):
            seen.client.publish("open", 1)
        seen.start().connected()
        seen.client.publish("open", 1)
        (refused,) = (seen.wait("message"),)
        assert refused[0].code == "forbidden"


def test_subscribe_with_wait_returns_when_the_server_has_acknowledged() -> None:
    with live() as site, Seen(site.server.url).start() as seen:
        seen.client.subscribe("news", wait=TIMEOUT)
        site.hub.send_event("saved", 1, channel="news")
        seen.wait("message")
        seen.client.subscribe("news", wait=0.0)  # it is acknowledged already


def test_subscribe_with_wait_raises_the_refusal() -> None:
    with (
        live(channel_authoriser=lambda client, channel: channel == "news") as site,
        Seen(site.server.url).start() as seen,
    ):
        with pytest.raises(HubError) as error:
            seen.client.subscribe("secret", wait=TIMEOUT)
        assert error.value.code == "forbidden"
        with pytest.raises(HubError, match="invalid channel name"):
            seen.client.subscribe("no spaces", wait=TIMEOUT)
        with pytest.raises(HubError, match=r"A \* makes it a pattern.*whole name"):
            seen.client.subscribe("chat:*", wait=TIMEOUT)
        seen.client.subscribe("news", wait=TIMEOUT)


def test_a_wait_for_a_subscription_goes_on_over_a_lost_connection(function: Function) -> None:
    with (
        live(channel_authoriser=function) as site,
        FaultProxy("127.0.0.1", site.server.port) as proxy,
    ):
        behind = Behind(site, proxy)
        with behind.seen.start():
            subscribed = called(behind.client.subscribe, "news", wait=TIMEOUT)
            function.await_call()
            proxy.reset()
            function.let_go.set()
            assert subscribed.result(TIMEOUT) is None
            assert function.times == 2


def test_an_unsubscription_ends_the_wait_for_the_subscription(function: Function) -> None:
    with live(channel_authoriser=function) as site, Seen(site.server.url).start() as seen:
        subscribed = called(seen.client.subscribe, "news", wait=TIMEOUT)
        function.await_call()
        seen.client.unsubscribe("news")
        with pytest.raises(HubError, match="unsubscribe"):
            subscribed.result(TIMEOUT)
        function.let_go.set()


def test_close_ends_every_wait(function: Function) -> None:
    with live(channel_authoriser=function) as site, Seen(site.server.url).start() as seen:
        waits = [
            called(seen.client.subscribe, "news", wait=TIMEOUT),
            called(seen.client.request, {"type": "ping"}, TIMEOUT),
        ]
        function.await_call()
        function.let_go.wait(0)
        seen.client.close()
        with pytest.raises(NotConnected, match="has ended"):
            waits[0].result(TIMEOUT)
        waits[1].exception(TIMEOUT)  # answered before, or ended by that
        function.let_go.set()


def test_a_stop_of_the_hub_fails_the_requests_under_way(function: Function) -> None:
    with live(close_timeout=0.2) as site, Seen(site.server.url).start() as seen:
        site.hub.on("wait")(function)
        asked = called(seen.client.request, {"type": "wait"}, TIMEOUT)
        function.await_call()
        stopped = called(site.hub.stop)
        with pytest.raises(NotConnected):
            asked.result(TIMEOUT)
        function.let_go.set()
        stopped.result(TIMEOUT)


def test_giving_up_ends_every_wait() -> None:
    with live() as site, FaultProxy("127.0.0.1", site.server.port) as proxy:
        proxy.refuse()
        url = f"ws://127.0.0.1:{proxy.port}/ws"
        with Seen(url, max_retries=3, initial_backoff=0.05, max_backoff=0.05).start() as seen:
            with pytest.raises(NotConnected):
                seen.client.request({"type": "ping"}, TIMEOUT)


def test_a_callback_may_ask_while_there_is_a_connection_and_waits_for_no_other() -> None:
    outcome: list[Any] = []
    with live() as site:
        site.hub.on("echo")(lambda client, message: message.data)

        def act(event: tuple[Any, ...]) -> None:
            if event[0] == "connect":
                outcome.append(seen.client.request({"type": "echo", "data": 7}, TIMEOUT))
                seen.client.subscribe("news", wait=TIMEOUT)
                site.client().close()
            elif event[0] == "disconnect" and len(outcome) == 1:
                try:
                    seen.client.request({"type": "echo"}, TIMEOUT)
                except NotConnected as error:
                    outcome.append(str(error))

        with Seen(site.server.url, initial_backoff=5.0, max_backoff=5.0) as seen:
            seen.hook = act
            seen.start()
            wait_until(lambda: len(outcome) == 2)
            assert outcome[0] == 7
            assert "the thread of this callback makes the next connection" in outcome[1]


@pytest.mark.parametrize(
    ("call", "error"),
    [
        (lambda client: client.request({"type": "x"}, None), TypeError),
        (lambda client: client.request({"type": "x"}, "5"), TypeError),
        (lambda client: client.request({"type": "x"}, -1), ValueError),
        (lambda client: client.request({"type": "x", "id": 3}), ValueError),
        (lambda client: client.request("x"), TypeError),
        (lambda client: client.request({"type": "x", "data": {1, 2}}), MessageEncodeError),
        (lambda client: client.subscribe("news", wait="5"), TypeError),
        (lambda client: client.subscribe("news", wait=-1), ValueError),
        (lambda client: client.publish("", 1), InvalidName),
        (lambda client: client.publish(5, 1), TypeError),
        (lambda client: client.publish("open", 1, wait=True), TypeError),
        (lambda client: client.publish("open", 1, idempotency_key=""), TypeError),
        (lambda client: client.publish("open", 1, idempotency_key=7), TypeError),
        (lambda client: client.request({"type": "x"}), NotConnected),
        (lambda client: client.subscribe("news", wait=1), NotConnected),
        (lambda client: client.publish("open", wait=1), NotConnected),
    ],
)
def test_wrong_arguments_and_a_client_that_does_not_run(
    call: Callable[[ReconnectingClient], object], error: type[Exception]
) -> None:
    client = ReconnectingClient("ws://127.0.0.1:9/ws")
    with pytest.raises(error):
        call(client)
    client.close()


# --- reading -------------------------------------------------------------------------------

KEPT = ChannelRule(pattern="kept", history_messages=10)
START = 1_700_000_000


def publish_kept(site: Live, count: int) -> None:
    """Publish numbers, one each second of a time long ago."""
    for number in range(1, count + 1):
        time = timestamp(START + number)
        site.hub.send_to_channel("kept", Message("event", data=number, timestamp=time))
    assert site.hub.wait_for_room("kept")


def test_a_client_reads_pages_as_the_application_does() -> None:
    with live(rules=[KEPT]) as site, Seen(site.server.url).start() as seen:
        publish_kept(site, 15)
        page, same = seen.client.history("kept"), site.hub.history("kept")
        assert page == same
        assert [each.data for each in page.messages] == list(range(6, 16))

        def read(**where: Any) -> list[int | None]:
            return [each.seq for each in seen.client.history("kept", **where).messages]

        assert read(since=12) == [13, 14, 15]
        assert read(before=9, limit=2) == [7, 8]
        assert read(last=2) == [14, 15]
        assert read(since_time=START + 14) == [14, 15]
        assert read(since_time=datetime.datetime.fromtimestamp(START + 15, datetime.UTC)) == [15]
        assert seen.client.history("plain").messages == ()
        assert seen.messages() == []


def test_a_page_is_read_again_after_a_cut(function: Function) -> None:
    with (
        live(rules=[KEPT], channel_authoriser=function) as site,
        FaultProxy("127.0.0.1", site.server.port) as proxy,
    ):
        publish_kept(site, 3)
        behind = Behind(site, proxy)
        with behind.seen.start():
            read = called(behind.client.history, "kept", timeout=TIMEOUT)
            function.await_call()
            proxy.reset()
            function.let_go.set()
            assert [each.data for each in read.result(TIMEOUT).messages] == [1, 2, 3]
            assert function.times == 2


def test_a_client_reads_what_it_may_subscribe_to() -> None:
    def may(client: Client, channel: str) -> bool:
        return channel != "kept"

    with (
        live(rules=[KEPT], channel_authoriser=may) as site,
        Seen(site.server.url).start() as seen,
    ):
        publish_kept(site, 3)
        with pytest.raises(HubError, match="not allowed") as refused:
            seen.client.history("kept")
        assert refused.value.code == "forbidden"


@pytest.mark.parametrize(
    ("where", "fault"),
    [
        ({"since": 1, "last": 1}, "since and last of history.* mutually exclusive"),
        ({"since_time": 1.0, "before": 1}, "before and since_time of history"),
        ({"before": -1}, "must not be negative"),
        ({"since_time": datetime.datetime(2026, 1, 1)}, "must have a time zone"),  # noqa: DTZ001
        ({"since_time": 1e20}, "a time of the years 1 to 9999"),
        ({"since_time": -1e12}, "a time of the years 1 to 9999"),
    ],
    ids=str,
)
def test_wrong_places_are_refused_before_anything_is_sent(
    where: dict[str, Any], fault: str
) -> None:
    client = ReconnectingClient("ws://127.0.0.1:9/ws")
    with pytest.raises(ValueError, match=fault):
        client.history("kept", **where)
    if "before" not in where:
        with pytest.raises(ValueError, match=fault.replace("history", "subscribe")):
            client.subscribe("kept", **where)
    with pytest.raises(TypeError, match="POSIX seconds or a datetime"):
        client.subscribe("kept", since_time="yesterday")  # type: ignore[arg-type]


def test_a_subscription_from_a_time_on_goes_on_by_number_after_a_cut() -> None:
    with (
        live(rules=[KEPT]) as site,
        FaultProxy("127.0.0.1", site.server.port) as proxy,
    ):
        publish_kept(site, 5)
        behind = Behind(site, proxy)
        with behind.seen.start():
            behind.client.subscribe("kept", since_time=START + 4)
            wait_until(lambda: len(behind.seen.messages()) == 2)
            proxy.reset()
            behind.seen.wait("connect", 2)
            site.hub.send_to_channel("kept", Message("event", data=6))
            wait_until(lambda: len(behind.seen.messages()) == 3)
            assert [each.data for each in behind.seen.messages()] == [4, 5, 6]
            assert not behind.seen.of("error")


@pytest.mark.parametrize(
    "answer",
    [
        None,
        [],
        {"epoch": "e", "first": 1, "seq": 0},
        {"epoch": "e", "first": 1, "seq": "0", "messages": []},
        {"epoch": "e", "first": 1, "seq": 1, "messages": [{"data": "without a type"}]},
        {"epoch": "e", "first": 1, "seq": 1, "messages": [7]},
    ],
)
def test_an_answer_that_is_no_page_is_an_error_of_ours(answer: Any) -> None:
    def handle(socket: ServerConnection) -> None:
        for text in socket:
            message = json.loads(text)
            if message["type"] == "history":
                socket.send(json.dumps({"type": "ack", "id": message["id"], "data": answer}))

    with foreign_server(handle, "127.0.0.1", 0) as server:
        serving = threading.Thread(target=server.serve_forever)
        serving.start()
        try:
            with Seen(f"ws://127.0.0.1:{server.socket.getsockname()[1]}").start() as seen:
                with pytest.raises(HubError, match="no page of messages") as fault:
                    seen.client.history("kept", timeout=TIMEOUT)
                assert fault.value.code == "unsupported"
        finally:
            server.shutdown()
            serving.join(TIMEOUT)
