"""Signals, finalisers, forks and ends: what comes in the middle of something, by number.

A call is interrupted before each of its bytecodes in turn, by a trace function: that is every
moment at which a signal handler can run, and more. The storm does it with real signals, in a
program of its own.
"""

from __future__ import annotations

import contextlib
import functools
import gc
import logging
import os
import subprocess
import sys
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.harness import (
    Peer,
    SteppedHub,
    after_put,
    before_put,
    end_of,
    fork_in_gunicorns_master,
    full_queue,
    holding_locks,
    housekeeping_fails,
    is_inside_call,
    is_pushing,
    later,
    map_is_changed,
    nobody_warned_of_forks,
    parked,
    parked_in_last_steps,
    publish_as_it_is,
    queued,
    requests_fail,
    settled_by,
    stop_accepting,
    subscribe_target,
    waiting_threads,
    within_listen,
)
from tests.integration.apps.fork import in_child
from tests.integration.apps.launch import ROOT, START, command
from tests.integration.apps.live import at_once, live, subscribe
from tests.support import PING, TIMEOUT, RawPeer, small_pair, wait_until
from ws_hub import (
    AuthResult,
    ChannelRule,
    Client,
    Hub,
    HubConfig,
    HubFull,
    HubNotRunning,
    Message,
    MessageEncodeError,
    WsHubError,
    gunicorn,
    serve,
)
from ws_hub.hub import exits
from ws_hub.hub.subscriptions import ChannelMap
from ws_hub.process.writers import log_handler, writer
from ws_hub.protocol.message import decode, encode
from ws_hub.protocol.publication import Publication, publish
from ws_hub.reconnect.stream import WRITE, Stream

Act = Callable[[], object]
Still = Callable[..., SteppedHub]


def said(data: Any) -> Message:
    return Message("said", data=data)


@pytest.fixture
def still() -> Iterator[Still]:
    """Make hubs that a test turns."""
    with contextlib.ExitStack() as stack:
        yield lambda **settings: stack.enter_context(SteppedHub(**settings))


def interrupt(call: Act, number: int, act: Act) -> bool:
    """Call, and act before the so-manieth bytecode of ours or a queue's; False if it has fewer."""
    seen = 0

    def trace(frame: Any, event: str, arg: object) -> Any:
        nonlocal seen
        if not str(frame.f_globals.get("__name__")).startswith(("ws_hub.", "queue", "threading")):
            return None
        frame.f_trace_opcodes = True
        if event == "opcode":
            seen += 1
            if seen == number + 1:
                act()
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        call()
    finally:
        sys.settrace(before)
    return seen > number


def everywhere(call: Act, act: Act, around: Callable[[], object] = lambda: None) -> int:
    """Interrupt a call before each of its bytecodes in turn; return how many there are."""
    number = 0
    while interrupt(call, number, act):
        around()
        number += 1
        _gets_on.set()
    return number


def threads_named(name: str) -> list[str]:
    return [each.name for each in threading.enumerate() if each.name.startswith(name)]


_gets_on = threading.Event()  # set behind each call of `everywhere`


def bounded(function: Act) -> None:
    """Run something that may hang on a thread of its own, for as long as it gets on."""

    def run() -> None:
        nonlocal is_over
        try:
            function()
        finally:
            is_over = True
            _gets_on.set()

    is_over = False
    with at_once(run):
        while not is_over and _gets_on.wait(TIMEOUT):
            _gets_on.clear()


# --- 63: publishing ------------------------------------------------------------------------

PUBLISHING: dict[str, Callable[[Hub], object]] = {
    "broadcast": lambda hub: hub.broadcast(said("outer")),
    "output": lambda hub: hub.send_process_output("p", "outer"),
    "channel": lambda hub: hub.send_to_channel("a", said("outer")),
}


@pytest.mark.parametrize("way", PUBLISHING)
def test_fault_63_a_publish_within_a_publish_is_published(way: str, still: Still) -> None:
    hub = still()
    call, found = PUBLISHING[way], []

    def run() -> None:
        count = everywhere(
            lambda: call(hub),
            lambda: hub.broadcast(said("nested")),
            lambda: found.append(queued(hub)),
        )
        assert count > 50

    bounded(run)
    assert all(sorted(each) == ["nested", "outer"] for each in found)


def test_fault_63_a_publish_within_a_publish_does_not_wait_for_room(
    still: Still,
) -> None:
    hub, refused = still(queue_size=1, publish_timeout=1000), 0

    def nested() -> None:
        nonlocal refused
        with full_queue(hub), pytest.raises(HubFull):
            hub.broadcast(said("nested"))
        refused += 1

    bounded(lambda: everywhere(lambda: hub.broadcast(said("outer")), nested, lambda: queued(hub)))
    assert refused > 50


@pytest.mark.parametrize("way", PUBLISHING)
def test_fault_63_a_publish_that_is_interrupted_is_published_or_not(way: str, still: Still) -> None:
    hub, found = still(), []

    def cut() -> None:
        raise KeyboardInterrupt

    def run() -> None:
        number = 0
        while True:
            try:
                interrupt(lambda: PUBLISHING[way](hub), number, cut)
            except KeyboardInterrupt:
                number += 1
                found.append(queued(hub))
                continue
            return

    bounded(run)
    assert found.count([]) + found.count(["outer"]) == len(found) > 50
    hub.broadcast(said("after"), timeout=0)
    assert queued(hub) == ["outer", "after"]


def test_fault_63_interrupted_wait_for_room_leaves_nothing_locked(
    still: Still,
) -> None:
    hub = still(queue_size=1, publish_timeout=0.001)
    hub.broadcast(said("full"))

    def cut() -> None:
        raise KeyboardInterrupt

    def run() -> None:
        number = 0
        while True:
            with contextlib.suppress(KeyboardInterrupt):
                with pytest.raises(HubFull):
                    interrupt(lambda: hub.broadcast(said("more")), number, cut)
                return
            number += 1

    bounded(run)
    assert queued(hub) == ["full"]
    hub.broadcast(said("after"))
    assert queued(hub) == ["after"]


def test_fault_63_a_callback_may_wait_where_what_interrupts_may_not(still: Still) -> None:
    """The stack tells them apart: a callback is called by us, from where nothing is held."""

    def callback(client: Client, message: Message) -> None:
        hub.broadcast(said("in the end"))

    hub = still(queue_size=1, publish_timeout=1000, on_message=callback)
    peer = hub.join()
    hub.broadcast(said("full"))
    peer.say(type="do", wait=False)
    wait_until(lambda: waiting_threads(hub))
    assert queued(hub) == ["full"]
    peer.say(type="ping")  # it has been handled when what came before has
    assert queued(hub) == ["in the end"]


def test_fault_63_stop_within_a_publish_asks_for_the_end_and_returns() -> None:
    entered, go = threading.Event(), threading.Event()
    hub = Hub().start()
    hub.at_stop(lambda: (entered.set(), go.wait(TIMEOUT)))
    bounded(lambda: interrupt(lambda: hub.broadcast(said("x")), 30, hub.stop))
    assert entered.wait(TIMEOUT)  # and it has not been waited for
    go.set()
    hub.stop()
    assert not hub.running


ASKING: dict[str, Callable[[Hub, Client], object]] = {
    "stats": lambda hub, client: hub.stats(),
    "clients": lambda hub, client: (hub.all_clients(), hub.clients("a"), hub.client_count()),
    "user": lambda hub, client: (hub.disconnect("ann"), hub.send_to_user("ann", said("x"))),
    "subscribe": lambda hub, client: hub.subscribe(client, "b"),
    "unsubscribe": lambda hub, client: hub.unsubscribe(client, "b"),
    "send": lambda hub, client: client.send(said("x"), 0),
    "waiting": lambda hub, client: (client.waiting, client.subscriptions()),
    "at_stop": lambda hub, client: hub.at_stop(print)(),
    "listen": lambda hub, client: hub.listen("c", print).close(),
}


@pytest.mark.parametrize("inner", ASKING)
@pytest.mark.parametrize("outer", [each for each in ASKING if each != "listen"])
def test_fault_63_a_call_within_another_one_finds_no_lock_taken(
    outer: str, inner: str, still: Still
) -> None:
    hub = still(queue_size=100_000)
    peer = hub.join(buffer=1 << 20)
    hub.subscribe(peer.client, "a")

    def run() -> None:
        everywhere(
            lambda: ASKING[outer](hub, peer.client),
            lambda: ASKING[inner](hub, peer.client),
            lambda: (hub.turn(), peer.messages()),
        )

    bounded(run)
    hub.turn()
    hub.unsubscribe(peer.client, "b")
    assert hub.stats().subscriptions == hub.channel_subscriber_count("a") == 1


def test_fault_63_a_client_that_is_closed_within_a_send_is_closed_after_it(
    still: Still,
) -> None:
    hub = still()
    peer = hub.join()
    held: list[bool] = []
    send = functools.partial(peer.client.send, said("x"))
    number = everywhere(send, lambda: held.append(is_inside_call(peer.client)))
    assert number == len(held)
    number = held.index(True)  # the first bytecode at which the connection's lock is held
    interrupt(send, number, lambda: peer.client.close(4000))
    assert {each["type"] for each in peer.messages()} == {"said"}
    hub.turn()
    assert peer.closed() == (4000, "")


def test_fault_63_a_subscription_that_is_interrupted_leaves_a_map_that_holds() -> None:
    number, over = 0, False
    while not over:
        told: list[str] = []
        begun, ended = list[object](), list[object]()
        channels: ChannelMap[str] = ChannelMap(
            told.append,
            told.append,
            begun.append,
            lambda subscription, left, ended=ended: ended.append(subscription),
        )
        channels.enter("one")
        channels.enter("two")
        try:
            # As from a signal handler: only where a call has just returned, or an allocation is.
            with _cut_after_call(number, ChannelMap):
                subscription = channels.add("one", "a", 10)
                assert subscription is not None
                channels.announce(subscription)
                channels.remove("one", "a")
                over = True
        except KeyboardInterrupt:
            number += 1
        bounded(functools.partial(channels.add, "two", "b", 10))  # whatever is locked would stay so
        assert channels.of("two") == ["b"]
        assert channels.total == len(channels.of("one")) + 1
        assert channels.count("a") == len(channels.of("one"))
        channels.leave("one")
        channels.leave("two")
        assert (channels.total, channels.names()) == (0, [])
        assert max(len(begun), len(ended)) <= 1  # what was cut is told of at most once
    assert begun == ended == [subscription]
    assert number > 5


@contextlib.contextmanager
def _cut_after_call(number: int, thing: Callable[..., object]) -> Iterator[None]:
    """Raise KeyboardInterrupt where the so-manieth line of a module begins, but at no `with`.

    The module is the one in which `thing` is defined.
    """
    seen = 0

    def trace(frame: Any, event: str, arg: object) -> Any:
        nonlocal seen
        if frame.f_globals.get("__name__") != thing.__module__:
            return None
        if event == "line" and not _is_with(frame):
            seen += 1
            if seen == number + 1:
                raise KeyboardInterrupt
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        yield
    finally:
        sys.settrace(before)


def _is_with(frame: Any) -> bool:
    # The end of a `with` has a line event of its own, at which no signal handler can run.
    with open(frame.f_code.co_filename, encoding="utf-8") as source:
        return source.readlines()[frame.f_lineno - 1].lstrip().startswith("with ")


@pytest.mark.slow
@pytest.mark.parametrize(("how", "times"), [("calls", 10_000), ("raises", 10_000)])
def test_fault_63_ten_thousand_signals_lose_and_double_nothing(how: str, times: int) -> None:
    assert storm(how, times).endswith("all heard 0 internal errors\n")


def test_fault_63_a_subscription_that_was_put_off_needs_no_room() -> None:
    with live(queue_size=1) as site, site.peer() as peer:
        client, raised, over = site.client(), list[Exception](), threading.Event()

        def put_off() -> None:
            """Subscribe as the hub thread does for a call within another, beside a full queue."""
            later(site.hub, int)
            try:
                site.hub.subscribe(client, "c")
            except Exception as error:  # noqa: BLE001 - whatever it is, it is too late to say it
                raised.append(error)
            over.set()

        later(site.hub, put_off)
        assert over.wait(TIMEOUT) and not raised
        site.hub.send_event("heard", channel="c")
        assert peer.recv_json()["data"]["event"] == "heard"


def test_fault_63_a_collector_that_calls_the_hub_hangs_nothing() -> None:
    assert storm("finalisers", 2000).endswith("all heard 0 internal errors\n")


def storm(how: str, times: int) -> str:
    argv = [sys.executable, "-m", "tests.integration.apps.storm", how, str(times), "1e-6"]
    run = subprocess.run(argv, cwd=ROOT, capture_output=True, text=True, timeout=4 * START)
    assert (run.returncode, run.stderr) == (0, "")
    return run.stdout


def test_fault_63_a_send_by_a_stream_within_a_send_goes_out_once() -> None:
    with small_pair(1 << 16) as (near, far):
        stream, found = Stream(near, time.monotonic), []

        def send(data: bytes) -> None:
            stream.push(stream.append(data))

        def run() -> None:
            count = everywhere(
                lambda: send(b"outer "),
                lambda: send(b"nested "),
                lambda: found.append((sorted(far.recv(4096).split()), stream.unsent)),
            )
            assert count > 50

        bounded(run)
        assert all(each == ([b"nested", b"outer"], 0) for each in found)
        stream.close()


def test_fault_63_a_push_waits_for_what_was_queued_within_it() -> None:
    with small_pair(1 << 12) as (near, far):
        stream, held = Stream(near, time.monotonic), []
        data, got = bytes(1 << 18), []

        def send() -> int:
            return stream.push(stream.append(b"x"))

        everywhere(send, lambda: held.append(is_pushing(stream)))
        for number in [number for number, inside in enumerate(held) if inside]:
            got.clear()
            interrupt(
                lambda: got.append(send()),
                number,
                lambda: got.append(stream.push(stream.append(data))),
            )
            assert got == [0, WRITE]
            while stream.push():
                far.recv(1 << 16)
            far.setblocking(False)
            with contextlib.suppress(BlockingIOError):
                while far.recv(1 << 16):
                    pass
            far.setblocking(True)
        assert any(held)
        stream.close()


def test_fault_63_a_send_by_a_stream_that_is_cut_goes_out_once_at_most() -> None:
    number, over, ended = 0, False, 0
    while not over:
        with small_pair(1 << 16) as (near, far):
            stream = Stream(near, time.monotonic)
            stream.append(b"one ")
            with (
                contextlib.suppress(KeyboardInterrupt),
                _cut_after_call(number, Stream),
            ):
                stream.push()
                over = True
            try:
                stream.push(stream.append(b"two "))
            except ConnectionAbortedError as error:
                assert str(error) == "a send was interrupted"
                ended += 1
            stream.close()
            got = b""
            while data := far.recv(4096):
                got += data
            assert got in (b"one two ", b"one ", b"")
        number += 1
    assert 0 < ended < number


def test_fault_63_a_listener_that_a_finaliser_closes_needs_no_room(
    still: Still,
) -> None:
    hub = still(queue_size=1)
    listener = hub.listen("a", print)
    hub.turn()
    hub.broadcast(said("full"))
    with map_is_changed(hub):
        listener.close()
    assert listener.join(TIMEOUT)
    hub.turn()
    assert hub.stats().subscriptions == 0
    kept = weakref.ref(listener)
    del listener
    gc.collect()
    assert kept() is None


# --- 64: printing and logging --------------------------------------------------------------


@pytest.mark.timeout(900)  # thousands of calls, each interrupted at another place
@pytest.mark.parametrize("text", ["outer\n", "outer 1\nouter 2\n", "\router\n"])
def test_fault_64_a_print_within_a_print_is_a_line_of_its_own(text: str, still: Still) -> None:
    hub = still()
    file, found = writer(hub, "p"), []

    def nested() -> None:
        file.write("nes")
        file.write("ted\n")

    bounded(lambda: everywhere(lambda: file.write(text), nested, lambda: found.append(queued(hub))))
    lines = sorted(["nested", *text.strip().split("\n")])
    assert len(found) > 50
    assert all(sorted(each) == lines for each in found)


@pytest.mark.slow
def test_fault_64_closing_within_a_print_loses_no_text(still: Still) -> None:
    number, over = 0, False
    while not over:
        hub = still()
        file = writer(hub, "p")
        file.write("be")
        with contextlib.suppress(ValueError):  # closed before it was begun
            over = not interrupt(lambda f=file: f.write("gun"), number, file.close)
        file.close()
        assert "".join(queued(hub)) in ("begun", "be")
        number += 1
    assert number > 50


def test_fault_64_a_record_within_a_record_or_a_publish_is_sent_or_counted(
    still: Still,
) -> None:
    hub = still()
    handler, found = log_handler(hub, "logs"), []
    record = logging.LogRecord("shop", logging.INFO, "", 1, "text", None, None)

    def run() -> None:
        for call in (lambda: handler.handle(record), lambda: hub.broadcast(said("x"))):
            everywhere(call, lambda: handler.handle(record), lambda: found.append(len(queued(hub))))
            queued(hub)  # of the call that was not interrupted

    bounded(run)
    assert sum(found) + handler.dropped == 2 * len(found)
    handler.close()


# --- 66, 67: subscriptions -----------------------------------------------------------------


@pytest.mark.parametrize("state", ["stopping", "full"])
def test_fault_66_an_unsubscribe_that_cannot_be_queued_gets_an_error_with_its_id(
    state: str, still: Still
) -> None:
    hub = still(queue_size=1, publish_timeout=0.001)
    peer = hub.join()
    hub.subscribe(peer.client, "news")
    if state == "stopping":
        hub.turn()
        stop_accepting(hub)
    peer.say('{"type":"unsubscribe","channel":"news","id":7}')
    (answer,) = peer.messages()
    assert (answer["type"], answer["id"], answer["code"]) == ("error", 7, "internal")
    assert hub.stats().internal_errors == 0


@pytest.mark.parametrize(
    "request_", ['"subscribe","since":3,"epoch":"e"', '"unsubscribe"', '"presence"']
)
def test_fault_66_a_request_that_the_hubs_stop_overtakes_is_answered_once(
    request_: str, still: Still
) -> None:
    hub = still(rules=[ChannelRule("kept", history_messages=10, presence=True)])
    peer = hub.join()
    with after_put(hub, lambda: stop_accepting(hub)):
        peer.say(f'{{"type":{request_},"channel":"kept","id":7}}')
    hub.turn()
    (answer,) = peer.messages()
    assert (answer["type"], answer["id"]) == ("ack", 7)
    assert ("epoch" in answer["data"]) == ("since" in request_)


def test_fault_66_a_subscription_that_has_ended_before_its_turn_is_answered(still: Still) -> None:
    hub = still()
    peer = hub.join()
    peer.say('{"type":"subscribe","channel":"news","id":7}')
    hub.unsubscribe(peer.client, "news")
    hub.turn()
    assert [each["type"] for each in peer.messages()] == ["ack"]


def test_fault_66_an_error_of_the_hubs_own_in_one_message_ends_no_connection() -> None:
    with live() as site, site.peer() as peer:
        with requests_fail(site.hub):
            peer.send_json({"type": "ping", "id": 1})
            assert peer.recv_json()["code"] == "internal"
        peer.send_json({"type": "ping", "id": 2})
        assert peer.recv_json()["id"] == 2
        assert site.hub.stats().internal_errors == 1


def test_fault_67_a_rollback_leaves_the_subscription_of_an_earlier_request(
    still: Still,
) -> None:
    hub = still(queue_size=1, publish_timeout=0.001)
    peer = hub.join()
    for number in (1, 2):
        peer.say(type="subscribe", channel="news", id=number)
    hub.turn()
    assert [(each["type"], each["id"]) for each in peer.messages()] == [
        ("error", 2),
        ("ack", 1),
    ]
    hub.send_to_channel("news", said("heard"))
    hub.turn()
    assert [each["data"] for each in peer.messages()] == ["heard"]


# --- 68: both callbacks or neither ---------------------------------------------------------


def test_fault_68_a_late_hub_thread_runs_both_callbacks_or_neither() -> None:
    notes: list[str] = []
    hub = Hub(
        HubConfig(
            handshake_timeout=0.05,
            on_connect=lambda client: notes.append("connect"),
            on_disconnect=lambda client, code, reason: notes.append("disconnect"),
        )
    )
    settled = threading.Event()
    with hub, parked(hub) as gate, small_pair(1 << 16) as (near, _):
        client = hub.connect(near, greeting=b"101")
        waits: list[float] = []

        def wait(timeout: float) -> bool:
            waits.append(timeout)
            if len(waits) > 1:  # the hub gets to it between the first look and this one
                later(hub, settled.set)
                gate.open()
                assert settled.wait(TIMEOUT)
            return False

        with settled_by(client, wait):
            client.start()
            assert client.join(TIMEOUT)
        gate.open()
        wait_until(lambda: hub.client_count() == 0)
    assert notes in ([], ["connect", "disconnect"])


def test_fault_68_a_connection_waits_longer_for_the_hub_thread_than_its_close_may_take(
    still: Still,
) -> None:
    hub = still(close_timeout=0.01, on_connect=lambda client: client.send(said("welcome")))
    peer = hub.join(admitted=False)
    assert not peer.ended(0.1)  # nor has it been answered
    assert hub.join().message()["data"] == "welcome"  # admitted after it
    assert peer.sock.recv(3) == b"101"
    assert hub.stats().refused == 0


@pytest.mark.parametrize(
    ("on_connect", "sends"), [([print], False), ([print], True), ([], True)],
    ids=["waits", "waits and has sent", "has sent"],
)  # fmt: skip
def test_fault_68_a_connection_that_the_hub_thread_is_too_late_for_is_answered(
    on_connect: list[Callable[..., None]],
    sends: bool,
    still: Still,
    caplog: pytest.LogCaptureFixture,
) -> None:
    hub, gone = still(handshake_timeout=0.01), list[int]()
    for function in on_connect:
        hub.on_connect(function)
    hub.on_disconnect(lambda client, code, reason: gone.append(code))
    peer = hub.join(admitted=False)
    if sends:
        peer.sock.sendall(RawPeer.frame(PING))
    answer = b""
    with contextlib.suppress(ConnectionResetError):
        while data := peer.sock.recv(1 << 16):
            answer += data
    assert answer.startswith(b"HTTP/1.1 503 ") and b"\r\nRetry-After: " in answer
    assert answer.count(b"HTTP/1.1") == 1
    assert peer.ended()
    hub.turn()
    assert hub.client_count() == 0
    assert (hub.stats().refused, gone) == (1, [])
    assert "the hub thread has not come to it within 0.01 s" in caplog.text


# --- 69: what cannot be decoded ------------------------------------------------------------

BAD = [
    Message(""),
    Message(5),  # type: ignore[arg-type]
    Message("x", channel=5),  # type: ignore[arg-type]
    Message("x", process_id=["p"]),  # type: ignore[arg-type]
    Message("x", timestamp=1.5),  # type: ignore[arg-type]
    Message("x", id=1.5),  # type: ignore[arg-type]
    Message("x", id=True),
    Message("x", code=1),  # type: ignore[arg-type]
    Message("x", epoch=1),  # type: ignore[arg-type]
    Message("x", seq="1"),  # type: ignore[arg-type]
    Message("x", since=False),
    Message("x", last=0.5),  # type: ignore[arg-type]
]


@pytest.mark.parametrize("message", BAD, ids=repr)
def test_fault_69_what_could_not_be_decoded_is_not_published(
    message: Message, still: Still
) -> None:
    hub = still()
    for call in (hub.broadcast, lambda m: hub.send_to_user("ann", m)):
        with pytest.raises(MessageEncodeError):
            call(message)
    assert hub.stats().queued == 0


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=8,
)
anything = st.one_of(
    st.text(), st.none(), st.booleans(), st.integers(), st.floats(), st.lists(st.text())
)


@pytest.mark.slow
@settings(max_examples=300, deadline=None)
@given(
    st.builds(
        Message,
        type=st.text() | anything,
        channel=st.text() | anything,
        process_id=st.text() | anything,
        data=json_values,
        timestamp=st.text() | anything,
        id=st.none() | anything,
        code=st.text() | anything,
        seq=st.none() | anything,
        epoch=st.text() | anything,
        since=st.none() | anything,
        last=st.none() | anything,
    )
)
def test_fault_69_what_is_encoded_decodes_to_the_same(message: Message) -> None:
    try:
        text = encode(message)
    except MessageEncodeError:
        return
    found = decode(text.decode())
    for name in Message.__slots__:
        value = getattr(message, name)
        # What counts as nothing is left out.
        assert getattr(found, name) == value or (not value and not getattr(found, name))


@pytest.mark.parametrize("depth", [100, 700, 900, 980, 5000])
def test_fault_69_what_is_nested_so_that_it_can_just_be_written_is_refused(depth: int) -> None:
    data: Any = 1
    for _ in range(depth):
        data = [data]
    found: list[Message] = []

    def read(text: str, frames: int) -> None:
        if frames:
            read(text, frames - 1)
        else:
            found.append(decode(text))

    try:
        text = encode(said(data)).decode()
    except MessageEncodeError:
        assert depth > 700
        return
    with at_once(lambda: read(text, 20)):
        pass
    assert found


def test_fault_69_a_listener_survives_what_cannot_be_decoded_and_counts_it() -> None:
    heard: list[Any] = []
    with Hub() as hub:
        hub.listen("news", lambda message: heard.append(message.data))
        publish_as_it_is(hub, publish(b'{"type":""}', "news", "drop"))
        hub.send_to_channel("news", said("after"))
        wait_until(lambda: heard)
        assert heard == ["after"]
        assert hub.stats().internal_errors == 1


# --- 70: whatever the application brings ---------------------------------------------------


def test_fault_70_a_rule_for_names_that_raises_is_a_no_and_counted() -> None:
    def rule(name: str) -> bool:
        if name == "bad":
            raise SystemExit
        return True

    with live(channel_name=rule) as site, site.peer() as peer:
        for type in ("publish", "subscribe"):
            peer.send_json({"type": type, "channel": "bad", "id": type})
            answer = peer.recv_json()
            assert (answer["id"], answer["code"]) == (type, "bad_channel")
        subscribe(peer, "good")
        with pytest.raises(ValueError, match="channel name"):
            site.hub.send_to_channel("bad", said("x"))
        assert site.hub.stats().callback_errors == 3


class Raising(dict[str, object]):
    """A result whose items cannot be had."""

    def items(self) -> Any:
        raise KeyError("no items")


class NoRepr(Exception):
    """An exception that cannot be shown."""

    def __repr__(self) -> str:
        raise ValueError("no repr")


def test_fault_70_what_callbacks_return_or_raise_ends_no_reader() -> None:
    def on_message(client: Client, message: Message) -> object:
        if message.data == "raise":
            raise NoRepr
        return Raising(a=1)

    with live(on_message=on_message) as site, site.peer() as peer:
        for number, data in enumerate(["raise", "odd"]):
            peer.send_json({"type": "do", "data": data, "id": number})
            answer = peer.recv_json()
            assert (answer["id"], answer["code"]) == (number, "internal")
        assert site.client().last_error == "<NoRepr without a repr>"


@pytest.mark.parametrize("what", ["channel_authoriser", "publish_authoriser"])
@pytest.mark.parametrize("answer", [None, 1, "yes", SystemExit()])
def test_fault_70_an_authoriser_says_true_or_it_says_no(what: str, answer: object) -> None:
    def authoriser(client: Client, channel: str) -> Any:
        if isinstance(answer, BaseException):
            raise answer
        return answer

    rules = [ChannelRule("a", publish=True)]  # without it nobody may publish anyway
    settings: dict[str, Any] = {what: authoriser}
    with live(rules=rules, **settings) as site, site.peer() as peer:
        request = "subscribe" if what.startswith("channel") else "publish"
        peer.send_json({"type": request, "channel": "a", "id": 1})
        assert peer.recv_json()["code"] == "forbidden"
        peer.send_json({"type": "ping", "id": 2})
        assert peer.recv_json()["id"] == 2


def test_fault_70_what_is_asked_of_a_handshake_and_raises_is_a_refusal() -> None:
    def leave(*_: object) -> Any:
        raise SystemExit

    for chosen, status in (
        ({"check_origin": leave}, 403),
        ({"authenticator": leave}, 401),
        ({"authenticator": lambda _: AuthResult(False), "on_auth_failure": leave}, 401),
    ):
        with live(**chosen) as site, site.peer(handshake=False) as peer:
            peer.send_raw(peer.request())
            assert peer.read_response().status == status


# --- 71: start within a stop ---------------------------------------------------------------


def test_fault_71_start_while_the_hub_stops_waits_and_starts() -> None:
    entered, go = threading.Event(), threading.Event()
    hub = Hub().start()
    hub.at_stop(lambda: (entered.set(), go.wait(TIMEOUT)))
    with at_once(hub.stop):
        assert entered.wait(TIMEOUT)
        first = end_of(hub)
        with at_once(hub.start):
            wait_until(lambda: first.waiting == 2)
            go.set()
    assert first.is_reached
    heard = threading.Event()
    hub.listen("a", lambda message: heard.set())
    hub.send_to_channel("a", said("x"))
    assert heard.wait(TIMEOUT)
    hub.stop()


def test_fault_71_start_where_the_end_waits_for_it_raises() -> None:
    raised: list[BaseException] = []
    hub = Hub().start()

    def again() -> None:
        try:
            hub.start()
        except WsHubError as error:
            raised.append(error)

    hub.at_stop(again)
    hub.stop()
    assert "cannot end before this call returns" in str(raised[0])
    assert not hub.running


def test_fault_71_start_in_the_last_steps_of_a_stop_waits_for_them() -> None:
    hub = Hub().start()
    first = end_of(hub)
    with parked_in_last_steps(hub) as gate, at_once(hub.stop):
        gate.await_arrival()
        with at_once(hub.start, hub.stop):
            try:
                wait_until(lambda: first.waiting == 3)  # none of them has returned
            finally:
                gate.open()
    hub.start()
    assert exits.running() == [hub]
    heard = threading.Event()
    hub.listen("a", lambda message: heard.set())
    hub.send_to_channel("a", said("x"))
    assert heard.wait(TIMEOUT)
    second = end_of(hub)
    hub.stop()
    assert second.is_reached
    assert exits.running() == []


def test_fault_71_what_the_life_before_has_left_does_not_end_this_one() -> None:
    hub = Hub().start()
    first = end_of(hub)
    hub.stop()
    with hub:
        first.come_late()  # a thread whose start was interrupted, and that runs at last
        assert hub.running
        heard = threading.Event()
        hub.listen("a", lambda message: heard.set())
        hub.send_to_channel("a", said("x"))
        assert heard.wait(TIMEOUT)


@pytest.mark.parametrize("again", [False, True])
def test_fault_71_a_stop_within_listen_is_said_by_hub_not_running(again: bool) -> None:
    hub = Hub().start()

    def end() -> None:
        bounded(lambda: (hub.stop(), again and hub.start()))

    for before in (True, False):
        with within_listen(hub, end, before=before), pytest.raises(HubNotRunning):
            hub.listen("a", print)
        assert hub.stats().subscriptions == 0
        wait_until(lambda: not threads_named("ws-hub:listener"))
        hub.start()
    hub.stop()


def test_fault_71_start_that_is_cut_at_any_line_can_be_made_again() -> None:
    number, over = 0, False
    while not over:
        hub = Hub()
        if number % 2:  # as a new one, and as one that has been stopped
            hub.start()
            hub.stop()
        with contextlib.suppress(KeyboardInterrupt), _cut_after_call(number // 2, Hub):
            hub.start()
            over = True
        hub.start()
        heard = threading.Event()
        hub.listen("a", lambda message, heard=heard: heard.set())
        hub.send_to_channel("a", said("x"))
        assert heard.wait(TIMEOUT), f"nothing is delivered after a cut at line {number // 2}"
        hub.stop()
        number += 1
    assert number > 50


def test_fault_71_run_that_is_cut_at_any_line_leaves_no_hub_that_runs(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # Its end is asked for when it has begun: `run` returns, unless it is cut before.
    monkeypatch.setattr(exits, "register", lambda hub: hub.stop(0))
    number = 0
    while True:
        hub = Hub()
        try:
            with _cut_after_call(number, Hub):
                hub.run()
            break
        except KeyboardInterrupt:
            assert not hub.running
            hub.stop()
            number += 1
    assert number > 20


def test_fault_71_serve_that_is_cut_at_any_line_leaves_no_port() -> None:
    number, over = 0, False
    with Hub() as hub:
        while not over:
            before = os.listdir("/proc/self/fd") if sys.platform == "linux" else []
            with contextlib.suppress(KeyboardInterrupt), _cut_after_call(number, serve):
                server = serve(hub)
                over = True
            if over:
                server.close()
            assert threads_named("ws-hub:accept") == []
            if before:
                assert len(os.listdir("/proc/self/fd")) == len(before)
            assert hub.running
            number += 1
    assert number > 20


def test_start_that_is_interrupted_leaves_a_hub_that_is_over(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from ws_hub import threads

    hub, start = Hub(), threads.start

    def start_and_cut(name: str, *about: Any) -> Any:
        thread = start(name, *about)
        if name == "ws-hub:run":
            raise KeyboardInterrupt
        return thread

    with monkeypatch.context() as patch:
        patch.setattr(threads, "start", start_and_cut)
        with pytest.raises(KeyboardInterrupt):
            hub.start()
    end = end_of(hub)
    wait_until(lambda: end.is_reached)
    with hub:
        hub.broadcast(said("x"))


# --- 72: one item, one guard ---------------------------------------------------------------


def test_fault_72_an_error_in_one_call_drops_no_other(still: Still) -> None:
    hub, done = still(), []
    for call in (lambda: 1 / 0, lambda: done.append(1), lambda: 1 / 0, lambda: done.append(2)):
        later(hub, call)
    hub.turn()
    assert done == [1, 2]
    assert hub.stats().internal_errors == 2


def test_fault_72_a_message_that_cannot_be_numbered_takes_no_number(
    still: Still,
) -> None:
    hub = still()
    peer = hub.join()
    hub.subscribe(peer.client, "process:p")
    for text in ("one", "two", "three"):
        hub.send_process_output("p", text)
    number = Publication.number

    def give(publication: Publication, seq: int) -> None:
        if b"two" in publication.text:
            raise MemoryError
        number(publication, seq)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Publication, "number", give)
        hub.turn()
    assert [(each["seq"], each["data"]) for each in peer.messages()] == [
        (1, "one"),
        (2, "three"),
    ]
    assert hub.stats().internal_errors == 1


def test_fault_72_a_target_that_fails_keeps_nothing_from_the_others(
    still: Still,
) -> None:
    class Failing:
        direct = None
        compression = False

        def deliver(self, batch: object) -> Any:
            raise ValueError("broken")

        def offer(self, *_: Any, **__: Any) -> bool:
            return True

        def note_drops(self, *_: Any) -> None:
            """Take note of nothing."""

    hub = still()
    subscribe_target(hub, Failing(), "news")
    peer = hub.join()
    hub.subscribe(peer.client, "news")
    hub.send_to_channel("news", said("x"))
    hub.turn()
    assert [each["data"] for each in peer.messages()] == ["x"]
    stats = hub.stats()
    assert (stats.internal_errors, stats.delivered) == (1, 1)


def test_fault_72_an_error_in_housekeeping_does_not_end_the_hub() -> None:
    with live() as site, site.peer() as peer:
        with housekeeping_fails(site.hub):
            site.hub.broadcast(said("x"))
            assert peer.recv_json()["data"] == "x"
            wait_until(lambda: site.hub.stats().internal_errors >= 3)
        site.hub.broadcast(said("y"))
        assert peer.recv_json()["data"] == "y"


# --- 75: what an end waits for -------------------------------------------------------------


def test_fault_75_the_log_of_a_late_end_names_the_function(
    caplog: pytest.LogCaptureFixture,
) -> None:
    entered, go = threading.Event(), threading.Event()

    def slow_last_words() -> None:
        entered.set()
        go.wait(TIMEOUT)

    hub = Hub().start()
    hub.at_stop(slow_last_words)
    hub.stop(0)
    assert entered.wait(TIMEOUT)
    hub.stop(0)
    assert "slow_last_words" in caplog.text
    go.set()
    hub.stop()


def test_fault_75_the_log_of_a_late_end_names_the_client_and_its_callback(
    caplog: pytest.LogCaptureFixture,
) -> None:
    entered, go = threading.Event(), threading.Event()

    def slow_callback(client: Client, message: Message) -> None:
        entered.set()
        go.wait(TIMEOUT)

    with live(on_message=slow_callback, close_timeout=2.0) as site:
        with site.peer() as busy, site.peer() as silent:
            busy.send_json({"type": "work"})
            assert entered.wait(TIMEOUT)
            names = [repr(client) for client in site.hub.all_clients()]
            site.hub.stop(0.05)
            assert f"slow_callback for {names[0]}" in caplog.text
            assert f"{names[1]}, which has not answered the Close frame" in caplog.text
            go.set()
            silent.recv_close()
            silent.send_close(1001)


# --- 76: the end of the interpreter --------------------------------------------------------

LAST_WORDS = """
import atexit, threading
from ws_hub import Hub, HubConfig, Message, serve

hub = Hub(HubConfig(close_timeout=20)).start()
site = serve(hub)
print(site.port, flush=True)
while hub.client_count() < 5:
    pass
hub.at_stop(lambda: [hub.broadcast(Message("said", data="x" * 60_000)) for _ in range(50)])
hub.at_stop(lambda: hub.broadcast(Message("last")))

def no_more(thread):  # as Python 3.12 has it
    raise RuntimeError("can't create new thread at interpreter shutdown")

atexit.register(setattr, threading.Thread, "start", no_more)
"""


def test_fault_76_what_is_queued_at_the_end_is_written_without_a_new_thread() -> None:
    with command([sys.executable, "-c", LAST_WORDS]) as running, contextlib.ExitStack() as stack:
        peers = [
            stack.enter_context(RawPeer(running.host, running.port, rcvbuf=4096)) for _ in range(5)
        ]
        for peer in peers:
            types = [peer.recv_json()["type"] for _ in range(51)]
            assert types == ["said"] * 50 + ["last"]
            assert peer.recv_close()[0] == 1001
            peer.send_close(1001)
        assert running.process.wait(START) == 0


# --- 77: forks -----------------------------------------------------------------------------


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_fault_77_a_fork_of_a_running_hub_is_named_and_warned_of_once(
    caplog: pytest.LogCaptureFixture,
) -> None:
    def publish_twice() -> None:
        for _ in range(2):
            with pytest.raises(HubNotRunning, match=f"runs in process {parent}, .* is a fork"):
                hub.broadcast(said("x"))
        assert caplog.text.count("is a fork: start() it here as well") == 1
        with hub:
            hub.broadcast(said("x"))
        with pytest.raises(HubNotRunning, match="start"):
            hub.broadcast(said("x"))
        assert caplog.text.count("is a fork") == 1

    parent = os.getpid()
    with Hub() as hub:
        in_child(publish_twice)
        hub.broadcast(said("x"))
    assert "fork" not in caplog.text


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_fault_26_a_client_of_the_parent_can_be_asked_whatever_was_locked() -> None:
    held, go = threading.Event(), threading.Event()

    def ask() -> None:
        assert client.subscriptions() == []
        assert client.waiting == (0, 0)
        assert client.dropped == 0
        client.wait_for_room(0)
        client.close()
        listener.close()
        assert (hub.stats().subscriptions, hub.clients("a"), hub.channel_count()) == (0, [], 0)

    with live() as site, site.subscribed("a"):
        hub, client = site.hub, site.client()
        listener = hub.listen("b", print)

        def hold() -> None:
            with holding_locks(hub, client):
                held.set()
                go.wait(6 * TIMEOUT)

        with at_once(hold):
            assert held.wait(TIMEOUT)
            try:
                in_child(ask)
            finally:
                go.set()
        assert client.subscriptions() == ["a"]


@pytest.mark.parametrize("hooks", [True, False])
def test_fault_77_a_hub_in_gunicorns_master_is_warned_of(
    caplog: pytest.LogCaptureFixture, hooks: bool
) -> None:
    def master() -> None:
        if hooks:
            log, one = logging.getLogger("gunicorn.error"), SimpleNamespace(workers=1)
            gunicorn.when_ready(SimpleNamespace(log=log, cfg=one))
        for _ in range(2):
            fork_in_gunicorns_master()

    with nobody_warned_of_forks():
        master()
        assert caplog.text == ""
        with Hub():
            assert len(exits.running()) == 1
            in_child(int)  # a program may fork as it likes
            assert caplog.text == ""
            master()
    (record,) = caplog.records
    assert record.name == ("gunicorn.error" if hooks else "ws_hub.hub.prefork")
    assert "1 hub(s) of ws_hub run in gunicorn's master" in record.getMessage()


def test_a_hub_on_the_main_thread_has_a_thread_of_its_own() -> None:
    """No signal handler can cut what the hub thread is in the middle of."""
    body = (
        "import signal, threading; from tests.harness import later; from ws_hub import Hub;"
        "hub = Hub(); where = []; threading.Thread(target=lambda: ("
        "[None for _ in iter(lambda: hub.running, True)],"
        "later(hub, lambda: where.append(threading.current_thread().name)),"
        "hub.wait_for_room('a', 5), signal.raise_signal(signal.SIGINT))).start()\n"
        "try: hub.run()\nexcept KeyboardInterrupt: print(where, hub.running)"
    )
    run = subprocess.run(
        [sys.executable, "-c", body], cwd=ROOT, capture_output=True, text=True, timeout=START
    )
    assert (run.stdout, run.stderr) == ("['ws-hub:run'] False\n", "")


# --- 131: who is counted is reached --------------------------------------------------------


def test_fault_131_what_is_published_when_a_channel_has_subscribers_reaches_them(
    still: Still,
) -> None:
    hub = still()
    peer = hub.join()
    seen: list[tuple[bool, int]] = []

    def look() -> None:
        seen.append((hub.has_subscribers("news"), hub.channel_subscriber_count("news")))

    with before_put(hub, look):
        peer.say(type="subscribe", channel="news", id=1)
    look()
    hub.send_to_channel("news", said("heard"))
    hub.turn()
    assert seen == [(False, 0), (True, 1)]
    assert [each["data"] for each in peer.messages() if each["type"] == "said"] == ["heard"]


def test_fault_131_a_subscription_that_is_answered_is_counted(still: Still) -> None:
    hub = still()
    peer = hub.join()
    counts: list[int] = []

    def answer() -> None:
        """Be the hub thread that is done before the reader's next step."""
        hub.turn()
        counts.append(hub.channel_subscriber_count("news"))

    with after_put(hub, answer):
        peer.say(type="subscribe", channel="news", id=1)
    assert counts == [1]
    assert peer.message()["id"] == 1
    hub.unsubscribe(peer.client, "news")
    assert not hub.has_subscribers("news")


def test_fault_131_a_subscription_that_finds_no_room_is_not_counted(still: Still) -> None:
    hub = still(queue_size=1, publish_timeout=0.001)
    peer = hub.join()
    hub.broadcast(said("fills the queue"))
    peer.say(type="subscribe", channel="news", id=1)
    assert hub.channel_subscriber_count("news") == 0
    hub.turn()
    assert hub.channel_subscriber_count("news") == 0


def test_fault_131_what_is_published_for_the_first_subscriber_reaches_it() -> None:
    called = threading.Event()

    def welcome(channel: str) -> None:
        called.set()
        hub.send_to_channel(channel, said("welcome"))

    with Hub(HubConfig(on_first_subscriber=welcome)) as hub, Peer(hub) as peer:
        with before_put(hub, lambda: called.wait(0.2)):  # it would be called by then
            hub.subscribe(peer.client, "news")
        assert peer.message()["data"] == "welcome"
