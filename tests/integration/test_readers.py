"""Clients that are quiet have no thread, and no client waits for the callback of another."""

from __future__ import annotations

import contextlib
import contextvars
import errno
import select
import socket
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from tests.harness import crowd, parked
from tests.integration.apps.live import at_once, live, subscribe
from tests.interventions import lingers, no_epoll, no_take_over, no_threads, patched
from tests.support import PING, PONG, TEXT, TIMEOUT, RawPeer, wait_until
from ws_hub import ChannelRule, Client, Hub, HubConfig, Message
from ws_hub.connection import readers
from ws_hub.connection.connection import Connection

needs_epoll = pytest.mark.skipif(not hasattr(select, "epoll"), reason="no epoll here")


def reading() -> list[str]:
    """The names of threads that are at a connection."""
    return [each.name for each in threading.enumerate() if each.name.startswith("ws-hub:reader:")]


def asked(peer: RawPeer, what: str = "x") -> Any:
    """Ask the hub's callback for something; return its answer."""
    peer.send_json({"type": "work", "data": what})
    return peer.recv_json()["data"]


def echo(client: Client, message: Message) -> None:
    client.send(Message("done", data=message.data))


class Gates:
    """Callbacks that wait: `block` in the data keeps them until `open`."""

    def __init__(self) -> None:
        self.entered = threading.Semaphore(0)
        self.opened = threading.Event()
        self.names: list[str] = []

    def __call__(self, client: Client, message: Message) -> None:
        if message.data == "block":
            self.names.append(threading.current_thread().name)
            self.entered.release()
            assert self.opened.wait(TIMEOUT)
        client.send(Message("done", data=message.data))


@pytest.fixture
def gates() -> Iterator[Gates]:
    made = Gates()
    yield made
    made.opened.set()


@needs_epoll
def test_clients_that_are_quiet_have_no_thread() -> None:
    with live(on_message=echo) as hub, contextlib.ExitStack() as stack:
        before = threading.active_count()
        peers = [stack.enter_context(hub.subscribed("a")) for _ in range(50)]
        wait_until(lambda: not reading())
        assert threading.active_count() <= before + 2  # those that watch
        hub.hub.send_to_channel("a", Message("event", data="to all"))
        for number, peer in enumerate(peers):
            assert peer.recv_json()["data"] == "to all"
            assert asked(peer, f"{number}") == f"{number}"
        wait_until(lambda: not reading())


@needs_epoll
@pytest.mark.parametrize("many", [1, 30])
def test_callbacks_that_block_delay_nobody_else(gates: Gates, many: int) -> None:
    with live(on_message=gates) as hub, contextlib.ExitStack() as stack:
        stack.callback(gates.opened.set)
        blocked = [stack.enter_context(hub.peer()) for _ in range(many)]
        free = [stack.enter_context(hub.peer()) for _ in range(5)]
        for peer in blocked:
            peer.send_json({"type": "work", "data": "block"})
        for _ in blocked:
            assert gates.entered.acquire(timeout=TIMEOUT)
        for peer in free:
            assert asked(peer) == "x"
        ids = {each.id for each in hub.hub.all_clients()}
        assert {int(each.rpartition(":")[2]) for each in gates.names} <= ids
        with hub.peer() as late:  # and who comes now
            assert asked(late) == "x"
        gates.opened.set()
        for peer in blocked:
            assert peer.recv_json()["data"] == "block"
            assert asked(peer) == "x"
        wait_until(lambda: not reading())


@needs_epoll
def test_messages_of_a_client_stay_in_order_through_callbacks_that_block(gates: Gates) -> None:
    with live(on_message=gates) as hub, hub.peer() as peer, hub.peer() as other:
        words = ["a", "block", *map(str, range(100))]
        for word in words[:50]:
            peer.send_json({"type": "work", "data": word})
        assert gates.entered.acquire(timeout=TIMEOUT)
        assert asked(other) == "x"
        for word in words[50:]:
            peer.send_json({"type": "work", "data": word})
        gates.opened.set()
        assert [peer.recv_json()["data"] for _ in words] == words


@needs_epoll
def test_a_client_that_leaves_during_its_callback_is_told_of_once(gates: Gates) -> None:
    with live(on_message=gates) as hub, hub.peer() as other:
        with hub.peer() as peer:
            peer.send_json({"type": "work", "data": "block"})
            assert gates.entered.acquire(timeout=TIMEOUT)
            peer.sock.close()
        # Its descriptor is not another's meanwhile.
        for _ in range(10):
            with hub.peer() as late:
                assert asked(late) == "x"
        gates.opened.set()
        wait_until(lambda: hub.hub.client_count() == 1)
        assert asked(other) == "x"
    codes = [code for code, _ in (hub.notes.end() for _ in range(12))]
    assert len(codes) == 12


@needs_epoll
def test_a_message_that_comes_in_pieces_has_a_thread_until_it_is_whole() -> None:
    with live(on_message=echo, message_timeout=0.3) as hub, hub.peer() as slow, hub.peer() as other:
        frame = RawPeer.frame(TEXT, b'{"type":"work","data":"whole"}')
        for start in range(0, len(frame), 7):
            slow.send_raw(frame[start : start + 7])
            assert asked(other) == "x"
        assert slow.recv_json()["data"] == "whole"
        slow.send_raw(frame[:9])
        assert slow.recv_close() == (1008, "message not whole within 0.3 s")
        assert asked(other) == "x"


@needs_epoll
def test_a_client_that_is_slowed_delays_nobody_else() -> None:
    settings: dict[str, Any] = {"max_message_rate": 2.0, "message_burst": 1}
    with live(on_message=echo, **settings) as hub, hub.peer() as fast, hub.peer() as other:
        hub.client()
        for _ in range(3):
            fast.send_json({"type": "work", "data": "x"})
        wait_until(lambda: hub.hub.stats().slowed)
        other.send_raw(RawPeer.frame(PONG))
        other.send_json({"type": "ping"})
        assert other.recv_json()["type"] == "pong"


@needs_epoll
@pytest.mark.parametrize("by_callback", [True, False])
def test_clients_that_publish_a_little_each_are_no_loop_together(
    by_callback: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A loop is slowed to its crowded receivers; one thread reads all of these."""
    slowed: list[str] = []
    monkeypatch.setattr(
        Connection,
        "keep_pace",
        lambda self, timeout: slowed.append(threading.current_thread().name),
    )

    def on_message(client: Client, message: Message) -> None:
        hub.hub.send_to_channel("a", Message("event", data="x"))

    rules = [ChannelRule("a", publish=True)]
    asks: dict[str, Any] = {"type": "work"} if by_callback else {
        "type": "publish", "channel": "a", "data": "x",
    }  # fmt: skip
    with live(on_message=on_message, rules=rules) as hub, contextlib.ExitStack() as stack:
        receiver = stack.enter_context(hub.subscribed("a"))
        crowd(hub.hub, hub.client())
        peers = [stack.enter_context(hub.peer()) for _ in range(20)]
        for _ in range(10):
            for peer in peers:
                peer.send_json(asks)
        for _ in range(200):
            receiver.recv_json()
        assert not slowed
        for _ in range(150):
            peers[0].send_json(asks)
        for _ in range(150):
            receiver.recv_json()
        assert slowed


@needs_epoll
@pytest.mark.parametrize("closes", ["the peer", "the hub"])
def test_a_peer_that_closes_and_does_not_read_delays_nobody_else(closes: str) -> None:
    settings: dict[str, Any] = {"close_timeout": 600.0, "write_timeout": 600.0}
    with no_take_over(), live(on_message=echo, **settings) as hub, hub.peer() as other:
        with hub.subscribed("a", rcvbuf=4096) as silent:
            client = hub.client()
            hub.hub.send_to_channel("a", Message("event", data="x" * 7_000_000))
            wait_until(lambda: client.waiting[1])
            if closes == "the hub":
                client.close()
            silent.send_close(1000)
            wait_until(lambda: f"ws-hub:reader:{client.id}" in reading())
            assert asked(other) == "x"


@needs_epoll
def test_silence_ends_a_client_that_was_heard_before() -> None:
    with live(on_message=echo, heartbeat_interval=0.1, pong_timeout=0.4) as hub:
        with hub.peer() as silent, hub.peer() as alive:
            asked(silent)
            with at_once(lambda: silent.recv_eof()):
                while hub.hub.client_count() == 2:
                    assert asked(alive) == "x"
            assert asked(alive) == "x"
        assert hub.hub.stats().pong_timeouts == 1
    assert "pong timeout" in hub.notes.end()[1]


@needs_epoll
def test_what_a_callback_sets_in_its_context_is_for_its_client_alone() -> None:
    whose: contextvars.ContextVar[str] = contextvars.ContextVar("whose", default="nobody's")

    def on_message(client: Client, message: Message) -> None:
        client.send(Message("done", data=whose.get()))
        whose.set(message.data)

    with live(on_message=on_message) as hub, hub.peer() as one, hub.peer() as other:
        for peer, word, before in (
            (one, "one's", "nobody's"), (other, "other's", "nobody's"),
            (one, "x", "one's"), (other, "x", "other's"),
        ):  # fmt: skip
            assert asked(peer, word) == before


@needs_epoll
def test_stop_from_a_callback_ends_all() -> None:
    def stop(client: Client, message: Message) -> None:
        hub.hub.stop()

    with live(on_message=stop) as hub, hub.peer() as one, hub.peer() as two:
        one.send_json({"type": "work"})
        for peer in (one, two):
            assert peer.recv_close()[0] == 1001
            peer.send_close(1001)
        wait_until(lambda: not hub.hub.running)


@needs_epoll
def test_on_connect_that_blocks_delays_nobody_else(gates: Gates) -> None:
    def on_connect(client: Client) -> None:
        if client.id == first:
            gates.entered.release()
            assert gates.opened.wait(TIMEOUT)

    with live() as hub, hub.peer():
        first = hub.client().id + 1
        hub.hub.on_connect(on_connect)
        with hub.peer(), hub.subscribed("a") as other:
            assert gates.entered.acquire(timeout=TIMEOUT)
            hub.hub.send_to_channel("a", Message("event", data="x"))
            assert other.recv_json()["data"] == "x"
            gates.opened.set()


@needs_epoll
def test_a_crowd_whose_on_connect_waits_keeps_no_threads(gates: Gates) -> None:
    def on_connect(client: Client) -> None:
        gates.entered.release()
        assert gates.opened.wait(TIMEOUT)

    with lingers(3600.0), live(on_connect=on_connect) as hub, contextlib.ExitStack() as stack:
        before = threading.active_count()
        peers = [stack.enter_context(hub.peer()) for _ in range(20)]
        for peer in peers:
            peer.send_frame(PING, b"x")  # there when the callback returns
            assert gates.entered.acquire(timeout=TIMEOUT)
        gates.opened.set()
        for peer in peers:
            assert peer.recv_frame().opcode == PONG
        wait_until(lambda: threading.active_count() < before + 10)


@needs_epoll
def test_no_connection_waits_for_the_hub_thread_to_begin_nor_has_a_thread() -> None:
    """So is it on the request threads of a server that is not ours, and with callbacks."""
    told: list[tuple[str, int]] = []
    everybody = threading.Semaphore(0)

    def on_connect(client: Client) -> None:
        told.append((threading.current_thread().name, client.id))
        everybody.release()

    with Hub(HubConfig(on_connect=on_connect)) as hub, contextlib.ExitStack() as stack:
        before = threading.active_count()
        with parked(hub):
            peers = []
            for _ in range(20):
                near, far = socket.socketpair()
                stack.enter_context(far)
                far.settimeout(TIMEOUT)
                hub.connect(near, greeting=b"101").start()
                peers.append(far)
            assert threading.active_count() <= before + 2  # those that watch
            assert told == []
            peers[0].sendall(RawPeer.frame(TEXT, b'{"type":"subscribe","channel":"a","id":1}'))
        for _ in peers:
            assert everybody.acquire(timeout=TIMEOUT)
        for far in peers:
            assert far.recv(3) == b"101"
        assert len({number for _, number in told}) == len(peers) == hub.client_count()
        assert all(name == f"ws-hub:reader:{number}" for name, number in told)
        assert RawPeer.on(peers[0]).recv_json()["id"] == 1
        for far in peers:
            far.close()
        wait_until(lambda: hub.client_count() == 0)


@needs_epoll
def test_a_client_that_is_refused_late_has_neither_callback(caplog: Any) -> None:
    told: list[str] = []
    config = HubConfig(
        handshake_timeout=0.05,
        on_connect=lambda client: told.append("connect"),
        on_disconnect=lambda client, code, reason: told.append("disconnect"),
    )
    near, far = socket.socketpair()
    with Hub(config) as hub, far:
        far.settimeout(TIMEOUT)
        with parked(hub):
            connection = hub.connect(near, greeting=b"101")
            connection.start()
            assert connection.join(TIMEOUT)
            assert far.recv(100).startswith(b"HTTP/1.1 503 ")
        wait_until(lambda: hub.client_count() == 0)
        assert hub.stats().refused == 1
    assert told == []
    assert "the hub thread has not come to it within 0.05 s" in caplog.text


@needs_epoll
def test_a_client_that_leaves_before_it_is_admitted_is_told_of_twice_or_not_at_all() -> None:
    told: list[tuple[str, int]] = []
    config = HubConfig(
        on_connect=lambda client: told.append(("connect", client.id)),
        on_disconnect=lambda client, code, reason: told.append(("disconnect", client.id)),
    )
    with Hub(config) as hub:
        with parked(hub):
            connections = []
            for number in range(10):
                near, far = socket.socketpair()
                connections.append(hub.connect(near, greeting=b"101"))
                connections[-1].start()
                if number % 2:
                    far.sendall(b"x")
                far.close()
        for each in connections:
            assert each.join(TIMEOUT)
        assert hub.client_count() == 0
    for each in connections:
        of_it = [what for what, number in told if number == each.id]
        assert of_it in ([], ["connect", "disconnect"])


@contextlib.contextmanager
def unwatched() -> Iterator[None]:
    """Have an epoll take nothing."""
    make = select.epoll

    class Full:
        def __init__(self) -> None:
            self._epoll = make()

        def register(self, fd: int, events: int) -> None:
            raise OSError(errno.ENOSPC, "no more may be watched")

        def close(self) -> None:
            self._epoll.close()

    with patched(readers.select, "epoll", Full):
        yield


@contextlib.contextmanager
def each_has_a_thread(how: str) -> Iterator[None]:
    """Have the system lack what the shared threads need."""
    if how == "no epoll":
        with no_epoll():
            yield
        return

    def full(epoll: select.epoll, fd: int) -> None:
        raise OSError(errno.ENOSPC, "no more may be watched")

    if how == "no watch":
        with unwatched():
            yield
        return
    with patched(readers, "wait_for_input", full):
        yield


@needs_epoll
@pytest.mark.parametrize("how", ["no epoll", "no watch", "no room"])
@pytest.mark.parametrize("callbacks", [True, False])
def test_where_threads_cannot_be_shared_each_client_has_its_own(
    how: str, callbacks: bool, gates: Gates
) -> None:
    settings: dict[str, Any] = {} if callbacks else {"on_connect": None, "on_disconnect": None}
    with (
        each_has_a_thread(how),
        live(on_message=gates, **settings) as hub,
        hub.peer() as one,
        hub.peer() as two,
    ):
        assert asked(one) == "x"
        wait_until(lambda: len(reading()) == 2)
        one.send_json({"type": "work", "data": "block"})
        assert gates.entered.acquire(timeout=TIMEOUT)
        assert asked(two) == "x"
        gates.opened.set()
    wait_until(lambda: not reading())


@needs_epoll
def test_a_connection_that_can_have_no_thread_and_needs_one_is_refused() -> None:
    with (
        no_epoll(),
        live() as hub,
        no_threads("ws-hub:reader"),
        hub.peer(handshake=False) as refused,
    ):
        with contextlib.suppress(ConnectionError):
            refused.send_raw(refused.request())
        assert refused.read_response().status == 503


@needs_epoll
def test_clients_come_and_go_beside_callbacks_that_block(gates: Gates, hasty_threads: None) -> None:
    """Descriptors are reused at once; none may be waited for, or read, as another's."""
    with live(on_message=gates, on_connect=None, on_disconnect=None) as hub:

        def visits(number: int) -> None:
            for turn in range(15):
                with hub.peer() as peer:
                    subscribe(peer, f"{number}")
                    word = f"{number}:{turn}"
                    assert asked(peer, word) == word
                    if turn % 3 == 0:
                        peer.sock.setsockopt(
                            socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0"
                        )

        with hub.peer() as blocked:
            blocked.send_json({"type": "work", "data": "block"})
            assert gates.entered.acquire(timeout=TIMEOUT)
            with at_once(*[lambda number=number: visits(number) for number in range(6)]):
                pass
            gates.opened.set()
            assert blocked.recv_json()["data"] == "block"
        wait_until(lambda: hub.hub.client_count() == 0)


@needs_epoll
def test_silence_ends_a_client_that_had_a_thread_when_it_was_to_be_looked_at(gates: Gates) -> None:
    with (
        lingers(0.05),
        live(on_message=gates, heartbeat_interval=0.1, pong_timeout=0.3) as hub,
        hub.peer() as one,
        hub.peer() as later,
    ):
        one.send_json({"type": "work", "data": "block"})
        assert gates.entered.acquire(timeout=TIMEOUT)
        later.recv_eof()
        gates.opened.set()
        assert one.recv_json()["data"] == "block"
        wait_until(lambda: not reading())
        one.recv_eof()
        assert hub.hub.stats().pong_timeouts == 2


@needs_epoll
def test_clients_that_wait_for_callbacks_at_the_end_of_the_hub_are_told_of_after_them(
    gates: Gates,
) -> None:
    """Without another thread, two callbacks hold up all others."""
    with live(on_message=gates, close_timeout=0.1) as hub, contextlib.ExitStack() as stack:
        stack.callback(gates.opened.set)
        peers = [stack.enter_context(hub.peer()) for _ in range(4)]
        with no_threads("ws-hub:reader"):
            for peer in peers[:2]:
                peer.send_json({"type": "work", "data": "block"})
                assert gates.entered.acquire(timeout=TIMEOUT)
            hub.hub.stop()
            gates.opened.set()
            for _ in peers:
                assert hub.notes.end()[0] == 1001


@needs_epoll
def test_without_another_thread_all_that_came_together_is_handled(gates: Gates) -> None:
    """More than is handled in one turn: no event tells of the rest."""
    with live(on_message=gates, max_message_size=100) as hub, hub.peer() as one, hub.peer() as two:
        with no_threads("ws-hub:reader"):
            one.send_json({"type": "work", "data": "block"})
            assert gates.entered.acquire(timeout=TIMEOUT)
            words = [f"{number:>70}" for number in range(8)]
            frames = [b'{"type":"work","data":"%s"}' % each.encode() for each in words]
            two.send_raw(b"".join(RawPeer.frame(TEXT, each) for each in frames))
            assert [two.recv_json()["data"] for _ in words] == words
        gates.opened.set()


@needs_epoll
def test_a_client_that_would_keep_the_thread_that_accepts_is_disconnected() -> None:
    with live(message_timeout=None) as hub, no_threads("ws-hub:accept"):
        stack = contextlib.ExitStack()

        def half() -> RawPeer | None:
            """A client that has sent half a message; None when its request came in pieces."""
            peer = stack.enter_context(hub.peer(handshake=False))
            try:
                peer.send_raw(peer.request() + RawPeer.frame(TEXT, b"{}")[:1])
                return peer if peer.read_response().status == 101 else None
            except ConnectionError:
                return None

        with stack:
            wait_until(half)  # has the thread that was ready to accept
            last = wait_until(half)
            assert last.recv_eof() == b""
            wait_until(half)


class Together:
    """Callbacks that wait for a moment each, as for a database; counts how many do at once."""

    def __init__(self) -> None:
        self.now: set[object] = set()  # changed by single calls
        self.most = 0

    def __call__(self, client: Client, *_: object) -> None:
        self.now.add(client)
        self.most = max(self.most, len(self.now))
        threading.Event().wait(0.004)
        self.now.discard(client)


@needs_epoll
def test_callbacks_that_wait_for_a_moment_do_not_wait_for_each_other() -> None:
    """None takes so long that it is seen to hold up the others, but all of them would."""
    together = Together()

    def work(client: Client, message: Message) -> None:
        together(client)
        echo(client, message)

    with live(on_message=work) as hub, contextlib.ExitStack() as stack:
        peers = [stack.enter_context(hub.peer()) for _ in range(20)]
        for _ in range(3):
            for peer in peers:
                peer.send_json({"type": "work", "data": "x"})
            for peer in peers:
                assert peer.recv_json()["data"] == "x"
        assert together.most > 5


@needs_epoll
def test_many_clients_that_fall_silent_are_told_of_together() -> None:
    together = Together()
    with (
        live(on_disconnect=together, heartbeat_interval=0.3, pong_timeout=0.7) as hub,
        contextlib.ExitStack() as stack,
    ):
        for _ in range(40):
            stack.enter_context(hub.peer())
        wait_until(lambda: hub.hub.stats().pong_timeouts == 40)
        hub.empty()
        assert together.most > 5


@needs_epoll
def test_a_client_that_talks_while_all_others_are_quiet_has_a_thread() -> None:
    with live(on_message=echo) as hub, hub.peer() as one, hub.peer() as other, lingers(0.05):
        name = f"ws-hub:reader:{hub.client().id - 1}"
        while name not in reading():
            assert asked(one) == "x"
        assert asked(other) == "x"
        wait_until(lambda: not reading())
        for _ in range(100):  # now both do
            one.send_json({"type": "work", "data": "1"})
            other.send_json({"type": "work", "data": "2"})
            assert one.recv_json()["data"] == "1"
            assert other.recv_json()["data"] == "2"
