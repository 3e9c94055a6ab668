"""One connection as the hub sees it: its threads, its callbacks, its end."""

from __future__ import annotations

import contextlib
import json
import socket
import struct
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from wsproto import connection as wsproto
from wsproto.events import CloseConnection, Pong, TextMessage

from tests.delivery import LoneHub, deliver
from tests.interventions import no_threads, short_writes
from tests.support import TIMEOUT, fill, messages_in, reset, small_pair, tcp_pair
from ws_hub import threads
from ws_hub.config import HubConfig
from ws_hub.connection.client import Client
from ws_hub.connection.connection import Connection
from ws_hub.connection.transport import Transport
from ws_hub.connection.writer_starter import ThreadStarter
from ws_hub.errors import ConnectionClosed, MessageEncodeError, SendTimeout
from ws_hub.protocol.frames import text_frame
from ws_hub.protocol.handshake import refusal
from ws_hub.protocol.message import Message, encode
from ws_hub.protocol.publication import Batch, publish

TEXT, BINARY, CLOSE, PING, PONG = 1, 2, 8, 9, 10
NO_ROOM = refusal("503 Service Unavailable", "no", ("Retry-After", "1"))
GREETING = b"HTTP/1.1 101 Switching Protocols\r\n\r\n"


def frame(opcode: int, payload: bytes = b"") -> bytes:
    """A short frame as a client sends it."""
    assert len(payload) < 126
    return bytes((0x80 | opcode, 0x80 | len(payload))) + b"\0\0\0\0" + payload


def closing(code: int, reason: str = "") -> bytes:
    return frame(CLOSE, struct.pack("!H", code) + reason.encode())


class Stage(LoneHub):
    """A connection on one end of a socket pair, and what it asks of the hub, noted."""

    def __init__(self, near: socket.socket, far: socket.socket, **settings: Any) -> None:
        super().__init__()
        self.near, self.far = near, far
        self.notes: list[tuple[Any, ...]] = []
        self.opens = True
        self.lives = False  # else a test steps the writer
        self.on_message: Callable[[Connection, str | bytes], None] = lambda connection, data: None
        self.connected, self.over = threading.Event(), threading.Event()
        self.writers: list[threads.DeferredThread] = []
        # From another thread, as it is meant: the calling one has the transport's lock.
        self.begin: Callable[[threads.DeferredThread], object] = lambda writer: threading.Thread(
            target=writer.start
        ).start()
        settings.setdefault("close_timeout", 1.0)
        self.on_connect = (self._on_connect,)
        self.on_disconnect = (lambda client, code, reason: self.note("disconnected", code, reason),)
        self.config = HubConfig(**settings)
        self.transport = Transport(
            near,
            max_message_size=self.config.max_message_size,
            max_fragments=self.config.max_fragments,
        )
        self.connection = Connection(
            1, self.transport, self.config, self, remote_address="here:1", greeting=GREETING
        )

    def note(self, *words: Any) -> None:
        self.notes.append(words)

    def _on_connect(self, client: Client) -> None:
        self.note("connected")
        self.connected.set()

    # --- ConnectionHub ---------------------------------------------------------------------

    def opened(self, connection: Connection) -> bool:
        self.note("opened")
        if not self.opens:
            connection.refuse(NO_ROOM)
        return self.opens

    def admitted(self, connection: Connection, patience: float | None = None) -> bool:
        """Play the hub thread, which the reader waits for."""
        if not self.admits:
            connection.refuse(NO_ROOM)
        return super().admitted(connection, patience)

    def received(self, connection: Connection, data: str | bytes) -> None:
        self.note("received", data)
        self.on_message(connection, data)

    def left(self, connection: Connection, *, wait: bool) -> None:
        self.note("left")

    def reader_ended(self, connection: Connection) -> None:
        self.note("ended")
        self.over.set()

    def start_later(
        self, name: str, target: Callable[[], None], step: Callable[[], bool]
    ) -> threads.DeferredThread | None:
        writer = threads.DeferredThread(name, target, step)
        self.writers.append(writer)
        if self.lives:
            self.begin(writer)
        return writer

    # --- the test's side -------------------------------------------------------------------

    def start(self) -> None:
        self.lives = True
        self.connection.start()
        assert self.connected.wait(TIMEOUT)

    def ended(self) -> list[tuple[Any, ...]]:
        """What was noted, when the client is over."""
        assert self.over.wait(TIMEOUT)
        assert self.connection.join(TIMEOUT)
        return self.notes

    def read(self) -> bytes:
        """Everything that the peer gets until the end of the connection."""
        data = b""
        self.far.settimeout(TIMEOUT)
        while chunk := self.far.recv(1 << 16):
            data += chunk
        return data


@pytest.fixture
def stage() -> Iterator[Stage]:
    with small_pair(1 << 16) as (near, far):
        found = Stage(near, far)
        yield found
        found.connection.abort()
        assert found.connection.join(TIMEOUT)


def answers(data: bytes) -> list[Any]:
    """What a peer makes of a stream that begins with the greeting."""
    assert data.startswith(GREETING)
    parser = wsproto.Connection(wsproto.ConnectionType.CLIENT)
    parser.receive_data(data[len(GREETING) :])
    found: list[Any] = []
    for event in parser.events():
        if isinstance(event, TextMessage):
            found.append(json.loads(event.data))
        elif isinstance(event, Pong):
            found.append(bytes(event.payload))
        elif isinstance(event, CloseConnection):
            found.append((int(event.code), event.reason or ""))
    return found


# --- a life --------------------------------------------------------------------------------


def test_callbacks_run_in_the_order_of_a_connections_life(stage: Stage) -> None:
    stage.start()
    stage.far.sendall(frame(TEXT, b"one") + frame(BINARY, b"\0") + closing(1000, "bye"))
    assert stage.ended() == [
        ("opened",),
        ("connected",),
        ("received", "one"),
        ("received", b"\0"),
        ("left",),
        ("disconnected", 1000, "bye"),
        ("ended",),
    ]
    assert answers(stage.read()) == [(1000, "")]
    assert stage.transport.fileno() == -1


def test_pings_are_answered_during_a_blocking_callback(stage: Stage) -> None:
    # By the writer, whoever reads: here the pong goes out before the callback begins.
    go = threading.Event()
    stage.on_message = lambda connection, data: go.wait(TIMEOUT) and None
    stage.start()
    stage.far.sendall(frame(PING, b"alive") + frame(TEXT, b"work"))
    data = b""
    while not data.endswith(b"alive"):
        data += stage.far.recv(100)
    go.set()
    assert answers(data) == [b"alive"]


def test_an_unsolicited_pong_is_only_a_sign_of_life(stage: Stage) -> None:
    stage.start()
    stage.far.sendall(frame(PONG, b"x") + closing(1000))
    assert [words[0] for words in stage.ended()][2:] == ["left", "disconnected", "ended"]


def test_a_refused_client_gets_503_and_no_callback(stage: Stage) -> None:
    stage.admits = False
    stage.connection.start()
    assert stage.ended() == [("opened",), ("left",), ("ended",)]
    data = stage.read()
    assert data.startswith(b"HTTP/1.1 503 Service Unavailable\r\n")
    assert b"Retry-After: 1\r\n" in data


def test_a_client_of_a_stopping_hub_gets_503(stage: Stage) -> None:
    stage.opens = False
    stage.connection.start()
    assert stage.ended() == [("opened",), ("left",), ("ended",)]
    assert stage.read().startswith(b"HTTP/1.1 503 Service Unavailable\r\n")


def test_an_early_message_waits_for_the_admission(stage: Stage) -> None:
    stage.on_connect = ()
    stage.on_message = lambda connection, data: stage.note(
        "admitted", connection.membership.admitted
    )
    stage.far.sendall(frame(TEXT, b"early") + closing(1000))
    stage.connection.start()
    assert stage.ended()[:3] == [("opened",), ("received", "early"), ("admitted", True)]


def test_messages_of_a_refused_client_are_not_handled(stage: Stage) -> None:
    stage.on_connect = ()
    stage.admits = False
    stage.far.sendall(frame(TEXT, b"early"))
    stage.connection.start()
    assert stage.ended() == [("opened",), ("left",), ("ended",)]


def test_the_writer_thread_starts_with_the_first_backlog() -> None:
    with small_pair() as (near, far):
        stage = Stage(near, far)
        stage.start()
        assert far.recv(len(GREETING), socket.MSG_WAITALL) == GREETING
        assert not stage.writers
        filled = fill(near)
        assert stage.connection.offer(b"x", 1)
        (writer,) = stage.writers
        assert far.recv(filled + 1, socket.MSG_WAITALL)[-1:] == b"x"
        far.sendall(closing(1000))
        stage.ended()
        assert writer.join(0)


def test_fault_42_without_a_writer_thread_the_starter_writes(
    caplog: pytest.LogCaptureFixture,
) -> None:
    with no_threads("ws-hub:writer"), small_pair() as (near, far):
        stage, starter = Stage(near, far), ThreadStarter("ws-hub:starter")
        stage.begin = starter.post
        stage.start()
        fill(near)
        assert stage.connection.offer(b"x", 1)
        stage.connection.close(4000)
        data = b""
        while not data.endswith(b"x\x88\x02\x0f\xa0"):
            data += far.recv(1 << 16)
        far.sendall(closing(4000))
        assert ("disconnected", 4000, "") in stage.ended()
        starter.close()
        assert starter.join(TIMEOUT)
        assert "ws-hub:writer:1 cannot be started" in caplog.text


def test_fault_42_without_a_thread_to_read_starting_raises(stage: Stage) -> None:
    with no_threads("ws-hub:reader"), pytest.raises(RuntimeError):
        stage.connection.start()
    assert stage.connection.join(0)


def test_silence_beyond_the_pong_timeout_ends_it() -> None:
    with small_pair(1 << 16) as (near, far):
        stage = Stage(near, far, heartbeat_interval=0.01, pong_timeout=0.03)
        stage.start()
        text = "pong timeout: nothing received for 0.03 s"
        assert ("disconnected", 1006, text) in stage.ended()
        assert stage.connection.last_error == text


def test_a_violation_is_named_in_the_close_frame(stage: Stage) -> None:
    stage.start()
    stage.far.sendall(frame(3))
    (code, reason) = answers(stage.read())[0]
    stage.far.close()
    notes = stage.ended()
    assert code == 1002
    assert ("disconnected", 1002, reason) in notes
    assert stage.connection.last_error == reason


def test_a_connection_that_is_lost_is_1006(stage: Stage) -> None:
    stage.start()
    assert stage.far.recv(len(GREETING), socket.MSG_WAITALL) == GREETING
    stage.far.close()
    assert ("disconnected", 1006, "connection lost") in stage.ended()


def test_the_peers_close_frame_prevails_over_a_failed_write() -> None:
    with tcp_pair() as (near, far):
        stage = Stage(near, far)
        stage.on_message = lambda connection, data: _break(stage)
        stage.start()
        stage.far.sendall(frame(TEXT, b"last") + closing(4000, "had enough"))
        assert ("disconnected", 4000, "had enough") in stage.ended()


def _break(stage: Stage) -> None:
    """Have the connection reset, and a write find that out, while the reader is busy."""
    reset(stage.far)
    batch = Batch([publish(encode(Message("x")), "", "drop")])
    while stage.connection.sender.cause is None:
        stage.connection.deliver(batch)


@pytest.mark.parametrize("code", [*range(990, 1020), 2999, 3000, 4999, 5000, 65535])
def test_a_close_frame_with_any_code_is_answered(code: int) -> None:
    with small_pair(1 << 16) as (near, far):
        stage = Stage(near, far)
        stage.start()
        far.sendall(closing(code))
        (answer,) = answers(stage.read())
        far.close()
        notes = stage.ended()
        assert answer[0] in (code, 1002)
        assert ("disconnected", answer[0]) in [words[:2] for words in notes]


def test_an_exception_while_handling_a_message_ends_this_client_alone(
    stage: Stage, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(connection: Connection, data: str | bytes) -> None:
        raise ZeroDivisionError

    stage.on_message = fail
    stage.start()
    stage.far.sendall(frame(TEXT, b"x"))
    assert [words[0] for words in stage.ended()][3:] == ["left", "disconnected", "ended"]
    assert "ws-hub:reader:1 died" in caplog.text


def test_a_client_can_run_on_the_calling_thread(stage: Stage) -> None:
    thread = threading.Thread(target=stage.connection.run)
    thread.start()
    assert stage.connected.wait(TIMEOUT)
    stage.far.sendall(closing(1000))
    thread.join(TIMEOUT)
    assert stage.notes[-1] == ("ended",)
    assert stage.connection.join(0)


def test_callbacks_are_not_needed(stage: Stage) -> None:
    stage.on_connect = ()
    stage.on_disconnect = ()
    stage.connection.start()
    stage.far.sendall(closing(1000))
    assert stage.ended() == [("opened",), ("left",), ("ended",)]


def test_a_call_that_is_queued_while_its_reader_makes_the_last_ones_gets_a_thread(
    stage: Stage,
) -> None:
    connection, asked = stage.connection, list[bool]()

    def call() -> None:
        asked.append(connection.queue_call(lambda: None))

    assert not connection.queue_call(call)  # the reader is busy with being admitted
    connection.rest()
    assert asked == [True]
    assert connection.queue_call(call)


# --- closing -------------------------------------------------------------------------------


def test_close_sends_the_queue_and_then_the_close_frame(stage: Stage) -> None:
    stage.start()
    stage.connection.send(Message("last"))
    stage.connection.close(4000, "that is all")
    stage.connection.close(1000, "too late")
    stage.far.sendall(closing(4000))
    assert ("disconnected", 4000, "that is all") in stage.ended()
    last, answer = answers(stage.read())
    assert (last["type"], answer) == ("last", (4000, "that is all"))


@pytest.mark.parametrize("code", [0, 999, 1004, 1006, 1015, 5000])
def test_a_code_that_must_not_be_sent_is_refused_and_nothing_happens(
    stage: Stage, code: int
) -> None:
    stage.start()
    with pytest.raises(ValueError, match="must not be sent"):
        stage.connection.close(code)
    stage.connection.send(Message("goes on"))
    stage.far.sendall(closing(1000))
    assert ("disconnected", 1000, "") in stage.ended()


def test_a_callback_may_close_its_own_client(stage: Stage) -> None:
    stage.on_message = lambda connection, data: connection.close(4001, "enough")
    stage.start()
    stage.far.sendall(frame(TEXT, b"x") + closing(4001))
    assert ("disconnected", 4001, "enough") in stage.ended()


def test_a_peer_that_does_not_answer_a_close_is_cut() -> None:
    with small_pair(1 << 16) as (near, far):
        stage = Stage(near, far, close_timeout=0.01)
        stage.start()
        stage.connection.close(1001, "away")
        assert stage.closed == [stage.connection]
        while not stage.over.wait(0.01):
            stage.connection.expire()  # as the hub thread does in time
        assert ("disconnected", 1001, "away") in stage.ended()
        assert answers(stage.read()) == [(1001, "away")]


def test_aborting_ends_it_without_a_close_frame(stage: Stage) -> None:
    stage.start()
    stage.connection.abort()
    assert ("disconnected", 1006, "connection lost") in stage.ended()
    assert stage.read() in (GREETING, b"")


# --- sending -------------------------------------------------------------------------------


def test_sent_messages_have_timestamps_and_keep_their_order(stage: Stage) -> None:
    stage.start()
    for number in range(20):
        stage.connection.send(Message("x", data=number), timeout=5)
    stage.far.sendall(closing(1000))
    stage.ended()
    *messages, _ = answers(stage.read())
    assert [each["data"] for each in messages] == list(range(20))
    assert all(each["timestamp"].endswith("Z") for each in messages)


def test_data_without_a_json_form_is_not_sent(stage: Stage) -> None:
    with pytest.raises(MessageEncodeError):
        stage.connection.send(Message("x", data=float("inf")))


def stalled(
    near: socket.socket, far: socket.socket, *, outbox_messages: int = 1, **settings: Any
) -> Stage:
    """A client, not started, whose socket has no room, and its outbox but for more messages."""
    stage = Stage(near, far, outbox_messages=outbox_messages, **settings)
    stage.connection.accept()
    fill(near)
    assert stage.connection.offer(b"x", 1)
    return stage


def test_sending_to_a_full_outbox_raises_when_the_time_is_up() -> None:
    with small_pair() as (near, far):
        stage = stalled(near, far)
        with pytest.raises(
            SendTimeout, match=r"send to <Client 1 'here:1'>: its outbox was full for 0 s"
        ):
            stage.connection.send(Message("x"), timeout=0)
        assert stage.connection.waiting == (1, 1)


def test_sending_after_a_close_raises_its_code_and_reason(stage: Stage) -> None:
    stage.start()
    stage.connection.close(4000, "go")
    with pytest.raises(ConnectionClosed) as caught:
        stage.connection.send(Message("x"))
    assert (caught.value.code, caught.value.reason) == (4000, "go")


def test_sending_to_a_lost_connection_raises_1006(stage: Stage) -> None:
    stage.start()
    stage.far.sendall(closing(1000))
    stage.ended()
    with pytest.raises(ConnectionClosed) as caught:
        stage.connection.send(Message("x"))
    assert caught.value.code == 1006


def test_a_client_that_reads_no_replies_is_cut_after_the_write_timeout() -> None:
    with small_pair() as (near, far):
        stage = stalled(near, far, write_timeout=0.01)
        stage.connection.reply(Message("answer"))
        assert stage.connection.sender.cause == (1013, "answers are not read")
        assert stage.counted == ["slow_disconnects"]


def test_a_client_that_reads_no_answers_of_the_hub_is_disconnected() -> None:
    with small_pair() as (near, far):
        stage = stalled(near, far)
        enough = 2 * stage.config.max_subscriptions  # an ack and a `lagged` of each channel
        for _ in range(enough):
            stage.connection.notify(Message("answer"))
        assert stage.connection.sender.cause is None
        for _ in range(enough):
            stage.connection.notify(Message("answer"))
        assert stage.connection.sender.cause == (1013, "answers are not read")
        assert stage.counted == ["slow_disconnects"]


def test_answers_reach_a_client_that_reads(stage: Stage) -> None:
    stage.start()
    stage.connection.reply(Message("reply"))
    stage.connection.notify(Message("told"))
    stage.far.sendall(closing(1000))
    stage.ended()
    assert [each["type"] for each in answers(stage.read())[:2]] == ["reply", "told"]


# --- deliveries ----------------------------------------------------------------------------


def test_a_batch_is_delivered_whole(stage: Stage) -> None:
    stage.start()
    batch = Batch([publish(encode(Message("x", data=number)), "", "drop") for number in range(3)])
    assert not stage.connection.deliver(batch)
    stage.far.sendall(closing(1000))
    stage.ended()
    assert [each["data"] for each in answers(stage.read())[:3]] == [0, 1, 2]


def test_a_batch_is_refused_from_the_first_message_without_room() -> None:
    with small_pair() as (near, far):
        stage = stalled(near, far, outbox_messages=3)
        batch = Batch(
            [publish(encode(Message("x", data=number)), "", "drop") for number in range(4)]
        )
        refused = stage.connection.deliver(batch)
        assert [each.message.data for each in refused] == [2, 3]
        assert stage.connection.dropped == 2


def test_a_delivery_behind_a_backlog_is_queued() -> None:
    with small_pair() as (near, far):
        stage = stalled(near, far, outbox_messages=10, outbox_bytes=1 << 20)
        batches = [Batch([publish(text, "", "drop")] * 2) for text in (b"a", b"b")]
        assert not any(stage.connection.deliver(batch) for batch in batches)
        assert stage.connection.waiting[0] == 5


def test_a_delivery_to_an_ended_client_is_not_counted_as_dropped() -> None:
    with small_pair() as (near, far):
        stage = Stage(near, far)
        far.close()
        batch = Batch([publish(b"x", "", "drop")])
        while stage.connection.sender.cause is None:
            assert not stage.connection.deliver(batch)
            stage.connection.sender.turn()
        assert not stage.connection.deliver(batch)
        assert stage.connection.dropped == 0


@settings(max_examples=30, deadline=None)
@given(
    st.integers(0, 2**32),
    st.sampled_from([3, 100, 700, 5000]),
    st.lists(st.tuples(st.integers(0, 700), st.booleans(), st.booleans()), max_size=40),
)
def test_whatever_the_kernel_takes_each_frame_is_delivered_whole_and_in_order(
    seed: int, most: int, steps: list[tuple[int, bool, bool]]
) -> None:
    # Delivered by the hub or sent alone, with a peer that stops and goes.
    with short_writes(seed, most), small_pair(1 << 16) as (near, far):
        stage = Stage(near, far)
        sender, sent = stage.connection.sender, list[str]()
        far.setblocking(False)

        def read() -> bytes:
            with contextlib.suppress(BlockingIOError):
                return far.recv(1 << 20)
            return b""

        def drain() -> bytes:
            found = b""
            while sender.waiting[1]:
                sender.turn()
                found += read()
            return found + read()

        data = drain()  # the greeting
        for number, (size, alone, reads) in enumerate(steps):
            sent.append(f"{number}:{'x' * size}")
            if alone:
                assert sender.offer(text_frame(sent[-1].encode()), 1)
            else:
                batch = Batch([publish(sent[-1].encode(), "", "drop")])
                assert not deliver(stage.connection, batch)
            assert sender.cause is None
            assert (stage.transport.direct.fd >= 0) == (not sender.waiting[1])
            if reads:
                data += drain()
        data += drain()
    assert data.startswith(GREETING)
    assert messages_in(data[len(GREETING) :]) == sent


def test_subscriptions_lists_the_clients_channels(stage: Stage) -> None:
    stage.channels.enter(stage.connection)
    stage.channels.add(stage.connection, "news", 10)
    stage.channels.add(stage.connection, "chat", 10)
    assert stage.connection.subscriptions() == ["news", "chat"]


def test_a_forked_child_closes_the_descriptor_without_writing(stage: Stage) -> None:
    peer_sees = text_frame(b"from the parent")
    parents = stage.near.dup()
    with parents:
        with stage.transport.lock:  # held by a thread that the child does not have
            stage.connection.forget()
        parents.sendall(peer_sees)
        assert stage.far.recv(100) == peer_sees
