"""The life of a hub: its states, its start, its end, from anywhere and more than once."""

from __future__ import annotations

import contextlib
import logging
import math
import os
import signal
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.harness import (
    Peer,
    SteppedHub,
    at_new_life,
    before_put,
    delivery_fails,
    is_locked,
    later,
    little_grace,
    moved_clock,
)
from tests.interventions import no_threads
from tests.support import TIMEOUT, small_pair, wait_until
from ws_hub import Client, Hub, HubConfig, HubFull, HubNotRunning, Message, WsHubError, threads


@contextlib.contextmanager
def thread(function: Callable[[], object]) -> Iterator[threading.Thread]:
    """Run a function beside the test; it has ended when this is left."""
    found = threading.Thread(target=function)
    found.start()
    yield found
    found.join(TIMEOUT)
    assert not found.is_alive()


def turns(hub: Hub) -> bool:
    """Wait until the hub thread does its turns."""
    wait_until(lambda: hub.running, what="a hub that runs")
    turned = threading.Event()
    later(hub, turned.set)
    return turned.wait(TIMEOUT)


Join = Callable[..., Peer]


@pytest.fixture
def join() -> Iterator[Join]:
    """Have peers join hubs that run; they are gone when the test is over."""
    with contextlib.ExitStack() as stack:
        yield lambda hub, **options: stack.enter_context(Peer(hub, **options))


def collect(into: list[Any], function: Callable[[], Any]) -> Callable[[], None]:
    return lambda: into.append(function())


# --- states --------------------------------------------------------------------------------


def test_a_hub_runs_from_start_to_stop() -> None:
    hub = Hub()
    assert not hub.running
    assert hub.start() is hub
    assert hub.running
    assert hub.start() is hub
    hub.stop()
    assert not hub.running


def test_stopping_what_was_never_started_or_has_stopped_does_nothing() -> None:
    hub = Hub()
    hub.stop()
    hub.start()
    hub.stop()
    hub.stop()
    assert not hub.running


def test_with_starts_and_stops() -> None:
    with Hub() as hub:
        assert hub.running
    assert not hub.running


def test_after_stop_nothing_is_published_and_after_start_it_is_again(
    join: Join,
) -> None:
    hub = Hub()
    with hub:
        pass
    with pytest.raises(HubNotRunning):
        hub.broadcast(Message("x"))
    with hub:
        peer = join(hub)
        hub.broadcast(Message("again"))
        with thread(hub.stop):
            assert peer.rest() == ["again", 1001]


def test_a_hub_that_starts_again_remembers_nothing() -> None:
    hub = Hub()
    with hub:
        hub.listen("news", print)
        hub.send_process_output("p", "line")
    with hub:
        assert (hub.all_channels(), hub.kept_channels()) == ([], [])
        assert hub.stats().published == 0


def test_starting_again_is_one_start_whoever_asks() -> None:
    hub = Hub()
    with hub:
        pass
    locked: list[bool] = []

    def look_in_between() -> None:
        with thread(collect(locked, lambda: is_locked(hub))):
            pass

    with at_new_life(hub, look_in_between), hub:
        assert locked == [True]


def test_the_settings_can_be_read() -> None:
    config = HubConfig(queue_size=3)
    assert Hub(config).config is config


# --- run -----------------------------------------------------------------------------------


def test_run_blocks_until_stop_and_is_one_at_a_time() -> None:
    hub = Hub()
    with thread(hub.run) as program:
        assert turns(hub)
        with pytest.raises(WsHubError, match="running already"):
            hub.run()
        assert program.is_alive()
        hub.stop()


def test_stop_does_not_wait_for_what_follows_run_on_its_thread() -> None:
    hub = Hub()
    go = threading.Event()
    joined: list[threading.Thread | None] = []

    def main() -> None:
        hub.run()
        assert go.wait(TIMEOUT)  # the program goes on

    join = threads.join

    def note(thread: threading.Thread | None, timeout: float) -> bool:
        joined.append(thread)
        return join(thread, timeout)

    with thread(main) as program, pytest.MonkeyPatch.context() as patch:
        patch.setattr(threads, "join", note)
        assert turns(hub)
        hub.stop()
        assert program not in joined
        go.set()


def test_stop_on_the_thread_of_run_returns_and_the_hub_ends() -> None:
    hub = Hub()
    ended: list[bool] = []
    with thread(lambda: (hub.run(), ended.append(hub.running))):
        assert turns(hub)
        later(hub, hub.stop)
    assert ended == [False]


def test_ctrl_c_in_run_says_1001_and_is_raised(
    join: Join,
) -> None:
    hub = Hub()
    raised: list[type[BaseException]] = []

    def run() -> None:
        try:
            hub.run()
        except KeyboardInterrupt as error:
            raised.append(type(error))

    def press_ctrl_c() -> None:
        raise KeyboardInterrupt

    hub.at_stop(lambda: hub.broadcast(Message("last words")))
    with thread(run):
        assert turns(hub)
        peer = join(hub)
        later(hub, press_ctrl_c)
        assert peer.rest() == ["last words", 1001]
    assert raised == [KeyboardInterrupt]
    assert not hub.running


# --- stop ----------------------------------------------------------------------------------


def test_stop_delivers_what_was_published_then_closes_with_1001(join: Join) -> None:
    ended: list[tuple[int, str]] = []
    hub = Hub(HubConfig(on_disconnect=lambda client, *why: ended.append(why)))
    hub.start()
    peers = [join(hub) for _ in range(3)]
    for _ in range(5):
        hub.broadcast(Message("x"))
    with thread(hub.stop):
        for peer in peers:
            assert peer.rest() == ["x"] * 5 + [1001]
    assert ended == [(1001, "server going away")] * 3
    assert hub.client_count() == 0


def test_fault_39_stop_from_many_threads_is_one_stop() -> None:
    hub = Hub().start()
    calls: list[int] = []
    hub.at_stop(lambda: calls.append(1))
    with contextlib.ExitStack() as stack:
        for _ in range(8):
            stack.enter_context(thread(hub.stop))
    assert calls == [1]
    assert not hub.running


@pytest.mark.parametrize("where", ["on_connect", "on_message", "on_disconnect"])
def test_fault_37_stop_from_a_callback_returns_and_the_hub_ends(where: str, join: Join) -> None:
    returned = threading.Event()

    def callback(*_: object) -> None:
        hub.stop()
        returned.set()

    hub = Hub(HubConfig(close_timeout=0.2, **{where: callback}))
    hub.start()
    peer = join(hub)
    peer.say(type="custom", wait=False)
    if where == "on_disconnect":
        peer.close()
    peer.rest()
    assert returned.wait(TIMEOUT)
    hub.stop()
    assert not hub.running


def test_stop_from_a_listener_returns_and_the_hub_ends() -> None:
    returned = threading.Event()
    with Hub() as hub:
        hub.listen("news", lambda message: (hub.stop(), returned.set()))
        hub.send_to_channel("news", Message("x"))
        assert returned.wait(TIMEOUT)


@pytest.mark.parametrize("name", ["on_first_subscriber", "on_last_unsubscribe"])
def test_stop_from_the_news_of_a_channel_returns_and_the_hub_ends(name: str) -> None:
    returned = threading.Event()
    hub = Hub(HubConfig(**{name: lambda channel: (hub.stop(), returned.set())}))
    with hub:
        # The function may have stopped the hub before `listen` is done, which says so.
        with contextlib.suppress(HubNotRunning):
            hub.listen("news", print).close()
        assert returned.wait(TIMEOUT)


def test_stop_from_an_at_stop_function_is_no_second_stop() -> None:
    hub = Hub().start()
    calls: list[int] = []
    hub.at_stop(lambda: (calls.append(1), hub.stop()))
    hub.stop()
    assert calls == [1]


def test_at_stop_functions_run_once_and_what_one_raises_keeps_none_of_the_others(
    caplog: pytest.LogCaptureFixture,
) -> None:
    calls: list[str] = []
    hub = Hub().start()
    hub.at_stop(lambda: 1 / 0)
    taken_back = hub.at_stop(lambda: calls.append("taken back"))
    hub.at_stop(lambda: calls.append("second"))
    taken_back()
    taken_back()
    hub.stop()
    hub.stop()
    assert calls == ["second"]
    assert "ZeroDivisionError" in caplog.text


def test_stop_gives_up_waiting_when_its_time_is_over_and_says_so(
    caplog: pytest.LogCaptureFixture,
) -> None:
    go = threading.Event()
    hub = Hub().start()
    hub.at_stop(lambda: go.wait(TIMEOUT))
    hub.stop(timeout=0)
    assert "has not ended within 0 s" in caplog.text
    assert not hub.running
    go.set()
    hub.stop()


def test_a_callback_that_does_not_come_back_is_named_and_left(
    join: Join,
    caplog: pytest.LogCaptureFixture,
) -> None:
    entered, go = threading.Event(), threading.Event()

    def stuck(client: Client, message: Message) -> None:
        entered.set()
        go.wait(TIMEOUT)

    hub = Hub(HubConfig(on_message=stuck, close_timeout=0.02)).start()
    peer = join(hub)
    peer.say(type="custom", wait=False)
    assert entered.wait(TIMEOUT)
    with little_grace():
        hub.stop(TIMEOUT)
    assert "stuck for <Client" in caplog.text and "still runs" in caplog.text
    assert not hub.running
    go.set()
    assert peer.ended()


def test_a_callback_that_comes_back_in_the_hubs_next_life_finds_its_own_end(
    join: Join,
    caplog: pytest.LogCaptureFixture,
) -> None:
    entered, go, gone = threading.Event(), threading.Event(), threading.Event()

    def stuck(client: Client, message: Message) -> None:
        entered.set()
        go.wait(TIMEOUT)

    hub = Hub(
        HubConfig(on_message=stuck, close_timeout=0.02, on_disconnect=lambda *_: gone.set())
    ).start()
    peer = join(hub)
    peer.say(type="custom", wait=False)
    assert entered.wait(TIMEOUT)
    with little_grace():
        hub.stop(TIMEOUT)
    with hub:
        go.set()
        assert gone.wait(TIMEOUT)
        assert peer.ended()
        assert hub.client_count() == 0
    assert "died" not in caplog.text


def test_a_hub_ends_although_something_of_its_own_breaks_in_its_last_turn(
    join: Join, caplog: pytest.LogCaptureFixture
) -> None:
    hub = Hub().start()
    peer = join(hub)
    with contextlib.ExitStack() as fault:
        hub.at_stop(lambda: fault.enter_context(delivery_fails(hub)))
        hub.at_stop(lambda: hub.broadcast(Message("lost")))
        with thread(hub.stop):
            assert peer.rest() == [1001]
    assert "error of its own" in caplog.text


class BrokenHandler(logging.Handler):
    """A log handler that raises instead of logging."""

    def handle(self, record: logging.LogRecord) -> bool:
        raise OSError("no space left on device")


def test_fault_62_a_log_handler_that_raises_ends_neither_hub_nor_client(
    join: Join,
) -> None:
    handler = BrokenHandler()
    logger = logging.getLogger("ws_hub")

    def raising(client: Client, message: Message) -> None:
        raise ValueError("a callback that fails is logged")

    with Hub(HubConfig(on_message=raising)) as hub:
        peer = join(hub)
        logger.addHandler(handler)
        try:
            with delivery_fails(hub):
                hub.broadcast(Message("lost"))
                peer.say(type="custom", wait=False)
                peer.say(type="subscribe", channel="news", id=1, wait=False)
                assert peer.message()["type"] == "error"  # of the callback
                assert peer.message()["type"] == "ack"
            hub.broadcast(Message("next"))
            assert peer.message()["type"] == "next"
        finally:
            logger.removeHandler(handler)
        with thread(hub.stop):
            assert peer.rest() == [1001]


# --- publishing meanwhile ------------------------------------------------------------------


def test_what_is_published_while_the_hub_stops_is_delivered_or_raises() -> None:
    heard: list[int] = []
    begun = threading.Semaphore(0)
    hub = Hub(HubConfig(queue_size=8)).start()
    listener = hub.listen("news", lambda message: heard.append(message.data))
    told: dict[int, list[int]] = {}

    def publish(number: int) -> None:
        told[number] = []
        with contextlib.suppress(HubNotRunning):
            for count in range(1_000_000):
                value = number * 1_000_000 + count
                hub.send_to_channel("news", Message("x", data=value))
                told[number].append(value)
                if count == 50:
                    begun.release()

    # What a listener has not handled when the hub ends is dropped; what it was handed
    # over before that is what this is about.
    delivered: list[int] = []
    deliver = listener.deliver
    listener.deliver = lambda batch: (  # type: ignore[method-assign]
        delivered.extend(each.message.data for each in batch.publications),
        deliver(batch),
    )[1]
    with contextlib.ExitStack() as stack:
        for number in range(4):
            stack.enter_context(thread(lambda number=number: publish(number)))
        for _ in range(4):
            assert begun.acquire(timeout=TIMEOUT)
        hub.stop()
    for number, values in told.items():
        own = [value for value in delivered if value // 1_000_000 == number]
        assert own[: len(values)] == values
        assert len(own) - len(values) in (0, 1)  # one may have been delivered and raised


def test_stop_releases_threads_that_wait_for_room() -> None:
    hub = SteppedHub(queue_size=1, publish_timeout=1000)  # nobody makes room
    hub.broadcast(Message("x"))
    waiting = threading.Event()
    raised: list[str] = []

    def publish() -> None:
        try:
            hub.broadcast(Message("x"), timeout=math.inf)
        except (HubNotRunning, HubFull) as error:
            raised.append(type(error).__name__)

    with before_put(hub, waiting.set), thread(publish):
        assert waiting.wait(TIMEOUT)
        hub.stop()
    assert raised == ["HubNotRunning"]


# --- no threads ----------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["ws-hub:run", "ws-hub:notify"])
def test_fault_42_a_hub_that_gets_no_thread_raises_and_can_be_started_later(
    name: str,
) -> None:
    hub = Hub(HubConfig(on_first_subscriber=print))
    with no_threads(name), pytest.raises(RuntimeError, match="can't start"):
        hub.start()
    assert not hub.running
    with pytest.raises(HubNotRunning):
        hub.broadcast(Message("x"))
    hub.stop()
    with hub:
        hub.broadcast(Message("x"))


def test_fault_42_stop_needs_no_thread() -> None:
    calls: list[str] = []
    hub = Hub().start()
    hub.at_stop(lambda: calls.append(threading.current_thread().name))
    with no_threads("ws-hub:"):
        hub.stop()
    assert calls == ["ws-hub:stop"]  # there from the start
    assert not hub.running


def test_fault_42_a_listener_that_gets_no_thread_raises() -> None:
    with Hub() as hub:
        with no_threads("ws-hub:listener"), pytest.raises(RuntimeError, match="can't start"):
            hub.listen("news", print)
        assert not hub.has_subscribers("news")


# --- connections ---------------------------------------------------------------------------


def test_beyond_the_greatest_number_of_clients_the_next_gets_503(join: Join) -> None:
    with Hub(HubConfig(max_connections=1, close_timeout=0.2)) as hub:
        first = join(hub)
        refused = join(hub, admitted=False)
        assert refused.sock.recv(100).startswith(b"HTTP/1.1 503 ")
        assert refused.ended()
        stats = hub.stats()
        assert (stats.clients, stats.connected, stats.refused) == (1, 1, 1)
        first.close()
        assert first.rest() == [1005]
        wait_until(lambda: hub.client_count() == 0)
        join(hub)


def test_a_client_that_comes_when_the_hub_has_ended_gets_503() -> None:
    with small_pair(1 << 16) as (near, far):
        with Hub() as hub:
            client = hub.connect(near, greeting=b"101")
        client.start()
        assert far.recv(100).startswith(b"HTTP/1.1 503 ")
        assert client.join(TIMEOUT)


def test_on_disconnect_sees_the_hub_without_its_client_and_what_that_was_subscribed_to(
    join: Join,
) -> None:
    seen: list[tuple[int, list[str], list[str]]] = []

    def on_disconnect(client: Client, code: int, reason: str) -> None:
        seen.append((hub.client_count(), hub.all_channels(), client.subscriptions()))

    hub = Hub(HubConfig(on_connect=lambda client: hub.subscribe(client, "news")))
    hub.on_disconnect(on_disconnect)
    with hub:
        peer = join(hub)
        peer.close()
        peer.rest()
        assert peer.ended()
    assert seen == [(0, [], ["news"])]
    assert peer.client.subscriptions() == []


def test_the_news_of_a_channel_come_in_order_on_one_thread() -> None:
    news: list[tuple[str, str]] = []

    def note(sign: str) -> Callable[[str], None]:
        return lambda channel: news.append((sign + channel, threading.current_thread().name))

    with Hub(HubConfig(on_first_subscriber=note("+"), on_last_unsubscribe=note("-"))) as hub:
        for _ in range(3):
            one, two = hub.listen("news", print), hub.listen("news", print)
            one.close()
            two.close()
    assert news == [("+news", "ws-hub:notify"), ("-news", "ws-hub:notify")] * 3


def test_old_history_is_freed_by_a_turn_in_time() -> None:
    with moved_clock() as clock, SteppedHub() as hub:
        hub.send_process_status("p", "exited", 0)
        hub.turn()
        assert hub.kept_channels() == ["process:p"]
        clock.advance(299)
        hub.turn()
        assert hub.kept_channels() == ["process:p"]
        clock.advance(1)
        hub.turn()
        assert hub.kept_channels() == []


def test_a_burst_beyond_what_one_turn_holds_takes_several() -> None:
    with SteppedHub(queue_size=3000) as hub:
        for _ in range(2500):
            hub.broadcast(Message("x"))
        for published in (1024, 2048, 2500):
            hub.turn(TIMEOUT)  # does not wait: more is there
            assert hub.stats().published == published


def test_a_turn_holds_so_many_bytes() -> None:
    # An eighth of an outbox, but 64 KiB at least and a MiB at most.
    for outbox, size, published in ((1, 1 << 15, 2), (1 << 20, 1 << 17, 1), (1 << 30, 1 << 19, 2)):
        with SteppedHub(outbox_bytes=outbox, queue_bytes=1 << 30) as hub:
            for _ in range(3):
                hub.broadcast(Message("x", data="x" * size))
            hub.turn(TIMEOUT)
            assert hub.stats().published == published


# --- fork ----------------------------------------------------------------------------------


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_fault_40_a_forked_child_has_a_clean_hub_and_the_parents_clients_live(
    join: Join,
) -> None:
    with Hub(HubConfig(on_first_subscriber=lambda channel: None)) as hub:
        peer = join(hub)
        listener = hub.listen("news", print)
        here, there = os.pipe()
        fd = peer.descriptor
        pid = os.fork()
        if pid == 0:
            status = 1
            try:
                signal.alarm(10)
                with contextlib.suppress(OSError):
                    os.fstat(fd)
                    os._exit(2)  # the parent's connection is still open here
                assert not hub.running
                assert (hub.client_count(), hub.all_channels()) == (0, [])
                hub.stop()
                with hub:
                    hub.broadcast(Message("to nobody"))
                os.write(there, b"!")
                status = 0
            finally:
                os._exit(status)
        assert os.waitpid(pid, 0) == (pid, 0)
        assert os.read(here, 1) == b"!"
        os.close(here)
        os.close(there)
        hub.broadcast(Message("still here"))
        listener.close()
        with thread(hub.stop):
            assert peer.rest() == ["still here", 1001]


@pytest.mark.usefixtures("hasty_threads")
def test_it_all_holds_when_threads_switch_all_the_time(join: Join) -> None:
    hub = Hub().start()
    peer = join(hub)
    with contextlib.ExitStack() as stack:
        for _ in range(4):
            stack.enter_context(thread(lambda: [hub.broadcast(Message("x")) for _ in range(100)]))
    with thread(hub.stop):
        assert peer.rest() == ["x"] * 400 + [1001]


# --- settings that are known late ------------------------------------------------------------


def test_a_hub_takes_other_settings_until_it_starts_and_after_it_has_stopped() -> None:
    hub = Hub()
    stopped: list[str] = []
    hub.at_stop(lambda: stopped.append("first life"))
    before = HubConfig(rules=[], channel_name=lambda name: name != "bad")
    hub.configure(before)
    assert hub.config is before
    with hub:
        with pytest.raises(ValueError, match="channel"):
            hub.send_event("e", channel="bad")
        with pytest.raises(WsHubError, match=r"stop\(\) it first"):
            hub.configure(HubConfig())
        assert hub.config is before
    assert stopped == ["first life"]
    hub.configure(HubConfig())
    with hub:
        hub.send_event("e", channel="bad")


def test_what_is_for_no_client_runs_in_the_context_that_was_set() -> None:
    inside = threading.local()
    seen: list[tuple[str, bool]] = []

    @contextlib.contextmanager
    def context() -> Iterator[None]:
        inside.on = True
        yield
        inside.on = False

    def note(what: str) -> None:
        seen.append((what, getattr(inside, "on", False)))
        if what == "a":
            done.set()

    done = threading.Event()
    hub = Hub(HubConfig(on_first_subscriber=note))
    hub.set_context(context)
    hub.at_stop(lambda: note("stop"))
    with hub:
        hub.listen("a", print)
        assert done.wait(TIMEOUT)
    assert seen == [("a", True), ("stop", True)]
