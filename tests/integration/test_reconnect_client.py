"""The client over real sockets: its life, its callbacks, its threads; and an independent server."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Iterator
from typing import Any

import pytest
import websockets.sync.server as independent

from tests.integration.clients import Seen
from tests.integration.gohub import RawServer, ServerPeer
from tests.support import TIMEOUT, wait_until
from ws_hub import (
    ConnectionState,
    MaxRetriesExceeded,
    Message,
    MessageDecodeError,
    MessageEncodeError,
    NotConnected,
    ReconnectConfig,
    ReconnectingClient,
)
from ws_hub.errors import ConfigError, ConnectionClosed, HandshakeRefused, InvalidName


@pytest.fixture
def nobody() -> Iterator[str]:
    """A URL that refuses connections."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        yield f"ws://127.0.0.1:{sock.getsockname()[1]}/ws"


def hold(peer: ServerPeer) -> None:
    """Accept, and read to the end."""
    peer.accept()
    while peer.recv_frame().opcode != 0x8:
        pass
    peer.send_close()


# --- what it is made from ------------------------------------------------------------------


def test_a_url_and_settings_make_a_client() -> None:
    client = ReconnectingClient("ws://127.0.0.1:9/ws", initial_backoff=0.5, max_backoff=3.0)
    assert [client.calculate_backoff(n) for n in (0, 1, 2, 3, 4, 99)] == [0.5, 0.5, 1, 2, 3, 3]
    assert client.state is ConnectionState.DISCONNECTED


def test_settings_beside_a_config_are_refused() -> None:
    with pytest.raises(ConfigError, match="origin"):
        ReconnectingClient(ReconnectConfig(url="ws://a/"), origin="x")


@pytest.mark.parametrize(
    ("url", "settings"),
    [
        ("ws:///path", {}),
        ("ws://host:99999/", {}),
        ("ws://user:secret@host/", {}),
        ("ws://[::1/", {}),
        ("ws://" + "a" * 64 + ".example/", {}),
        ("ws://host/", {"headers": {"X": "a\r\nY: b"}}),
        ("ws://host/", {"headers": {"X": 3}}),
        ("ws://host/", {"origin": "http://a\n"}),
        ("ws://host/", {"subprotocols": ["a\r\n"]}),
    ],
)
def test_a_url_that_cannot_work_is_a_config_error(url: str, settings: dict[str, Any]) -> None:
    with pytest.raises(ConfigError) as caught:
        ReconnectingClient(url, **settings)
    assert "secret" not in str(caught.value)


# --- callbacks -----------------------------------------------------------------------------


def test_callbacks_run_in_order_on_the_thread_that_called_connect() -> None:
    def serve(peer: ServerPeer) -> None:
        peer.accept()
        peer.recv_json("ping")
        for n in range(3):
            peer.send_json({"type": "event", "data": n})
        peer.send_close(1012, "restart")
        peer.recv_end()

    with RawServer(serve) as server, Seen(server.url, max_retries=2, stable_after=100) as seen:
        threads = set()
        seen.hook = lambda event: threads.add(threading.current_thread().name)
        seen.connect()
        error = seen.outcome()
        assert isinstance(error, MaxRetriesExceeded)
        assert isinstance(error.__cause__, ConnectionClosed)
        assert error.__cause__.code == 1012
    names = [event[0] for event in seen.events]
    once = ["message", "message", "message", "disconnect"]
    assert names == ["connect", *once, *["connect", "reconnect", *once] * 2]
    assert seen.of("disconnect") == [
        ("disconnect", 1012, "restart", True),
        ("disconnect", 1012, "restart", True),
        ("disconnect", 1012, "restart", False),
    ]
    assert [event[1] for event in seen.of("reconnect")] == [1, 1]
    assert seen.data() == [0, 1, 2] * 3
    assert threads == {"connector"}


def test_a_callback_that_raises_is_reported_and_stops_nothing(
    caplog: pytest.LogCaptureFixture,
) -> None:
    def serve(peer: ServerPeer) -> None:
        peer.accept()
        for n in range(3):
            peer.send_json({"type": "event", "data": n})
        peer.recv_end()

    with RawServer(serve) as server, Seen(server.url) as seen:

        def fail(event: tuple[Any, ...]) -> None:
            raise ValueError(f"no {event[0]}")

        seen.hook = fail
        seen.start()
        seen.wait_data(0, 1, 2)
        wait_until(lambda: len(seen.of("error")) == 4)
        assert [str(event[1]) for event in seen.of("error")] == ["no connect"] + ["no message"] * 3
    assert "on_message of the client" in caplog.text
    assert "ValueError: no error" in caplog.text  # on_error itself raised: logged, no loop


def test_bad_json_is_reported_and_the_connection_stays() -> None:
    def serve(peer: ServerPeer) -> None:
        peer.accept()
        peer.send_frame(0x1, b'{"type":"event","data":1}\nnot json\n\n[1]\n{"data":2}')
        peer.send_frame(0x2, b"\x00\x01")
        peer.send_json({"type": "event", "data": 2})
        peer.recv_end()

    with RawServer(serve) as server, Seen(server.url) as seen:
        seen.start()
        seen.wait_data(1, 2)
        errors = [event[1] for event in seen.of("error")]
        assert [type(error) for error in errors] == [MessageDecodeError] * 4
        assert server.accepted == 1


def test_a_failed_attempt_is_reported_and_retried(nobody: str) -> None:
    with Seen(nobody, max_retries=2).connect() as seen:
        error = seen.outcome()
    assert isinstance(error, MaxRetriesExceeded)
    assert isinstance(error.__cause__, ConnectionRefusedError)
    assert [type(event[1]) for event in seen.events] == [ConnectionRefusedError] * 3


# --- sending -------------------------------------------------------------------------------


def test_send_while_disconnected_raises_not_connected(nobody: str) -> None:
    client = ReconnectingClient(nobody)
    with pytest.raises(NotConnected):
        client.send(Message("event"))


def test_send_of_a_message_without_json_form_raises() -> None:
    with pytest.raises(MessageEncodeError):
        ReconnectingClient("ws://127.0.0.1:9/ws").send(Message("event", data={1}))


@pytest.mark.parametrize(
    ("channel", "since", "error"),
    [
        ("", None, InvalidName),
        (3, None, TypeError),
        ("\ud800", None, MessageEncodeError),
        ("a", -1, ValueError),
    ],
)
def test_a_subscription_that_cannot_be_encoded_is_refused_and_not_kept(
    channel: Any, since: Any, error: type[Exception]
) -> None:
    client = ReconnectingClient("ws://127.0.0.1:9/ws")
    with pytest.raises(error):
        client.subscribe(channel, since=since)
    assert not client.subscriptions()


def test_many_threads_send_and_every_message_arrives_whole() -> None:
    got: list[Any] = []
    everything = threading.Event()

    def serve(peer: ServerPeer) -> None:
        peer.accept()
        while len(got) < 8 * 50:
            got.append(peer.recv_json("event")["data"])
        everything.set()
        peer.recv_end()

    with RawServer(serve) as server, Seen(server.url) as seen:
        seen.start().connected()

        def send(worker: int) -> None:
            for n in range(50):
                seen.client.send(Message("event", data=[worker, n, "x" * (n * 40)]))

        threads = [threading.Thread(target=send, args=(worker,)) for worker in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(TIMEOUT)
        assert everything.wait(TIMEOUT)
    for worker in range(8):
        mine = [(n, len(text)) for who, n, text in got if who == worker]
        assert mine == [(n, n * 40) for n in range(50)]


def test_subscriptions_are_sent_again_before_on_connect_runs() -> None:
    asked: list[list[str]] = []

    def serve(peer: ServerPeer) -> None:
        peer.accept()
        peer.recv_json("ping")
        asked.append([peer.recv_json("subscribe")["channel"] for _ in range(2)])
        peer.recv_json("hello")
        peer.send_close(1001)
        peer.recv_end()

    with RawServer(serve) as server, Seen(server.url) as seen:

        def hello(event: tuple[Any, ...]) -> None:
            if event[0] == "connect":
                with contextlib.suppress(NotConnected):
                    seen.client.send(Message("hello"))

        seen.hook = hello
        for channel in ("a", "b", "c"):
            seen.client.subscribe(channel)
        seen.client.unsubscribe("c")
        assert set(seen.client.subscriptions()) == {"a", "b"}
        seen.start()
        wait_until(lambda: len(asked) >= 3)
    assert asked[:3] == [["a", "b"]] * 3


# --- iterating -----------------------------------------------------------------------------


def count_up(peer: ServerPeer) -> None:
    peer.accept()
    for n in range(5):
        peer.send_json({"type": "event", "data": n})
    peer.recv_end()


def test_an_iteration_starts_the_client_and_a_second_one_continues() -> None:
    with RawServer(count_up) as server:
        client = ReconnectingClient(server.url)
        first = next(iter(client))
        assert first.data == 0
        with client:
            rest = iter(client)
            assert [next(rest).data for _ in range(4)] == [1, 2, 3, 4]
        assert list(rest) == []
        assert list(client) == []


def test_an_iteration_waits_until_the_client_is_closed() -> None:
    with RawServer(count_up) as server:
        client = ReconnectingClient(server.url)
        got: list[Any] = []
        five = threading.Event()

        def follow() -> None:
            for message in client:
                got.append(message.data)
                if len(got) == 5:
                    five.set()

        thread = threading.Thread(target=follow)
        thread.start()
        assert five.wait(TIMEOUT)
        client.close()
        thread.join(TIMEOUT)
        assert not thread.is_alive()
        assert got == [0, 1, 2, 3, 4]


def test_an_iteration_ends_with_what_connect_would_raise(nobody: str) -> None:
    client = ReconnectingClient(nobody, max_retries=1, initial_backoff=0.01, max_backoff=0.01)
    with pytest.raises(MaxRetriesExceeded):
        list(client)


def test_the_last_messages_come_before_the_end() -> None:
    def serve(peer: ServerPeer) -> None:
        peer.accept()
        for n in range(5):
            peer.send_json({"type": "event", "data": n})
        peer.send_close(4403, "not for you")
        peer.recv_end()

    with RawServer(serve) as server:
        got = []
        with pytest.raises(ConnectionClosed) as caught:
            for message in ReconnectingClient(server.url):
                got.append(message.data)
        assert got == [0, 1, 2, 3, 4]
        assert (caught.value.code, caught.value.reason) == (4403, "not for you")


def test_iterating_a_client_with_on_message_raises() -> None:
    with pytest.raises(RuntimeError, match="on_message"):
        next(iter(ReconnectingClient("ws://127.0.0.1:9/", on_message=print)))


def test_messages_without_a_consumer_are_bounded_and_counted() -> None:
    sent = threading.Event()

    def serve(peer: ServerPeer) -> None:
        peer.accept()
        for n in range(20):
            peer.send_json({"type": "event", "data": n})
        peer.send_frame(0x9, b"are you there")
        while peer.recv_frame().opcode != 0xA:
            pass
        sent.set()
        while peer.recv_frame().opcode != 0x8:
            pass

    with RawServer(serve) as server, Seen(server.url, messages=False, queue_size=4) as seen:
        seen.start()
        assert sent.wait(TIMEOUT)
        messages = iter(seen.client)
        assert [next(messages).data for _ in range(4)] == [0, 1, 2, 3]
        (lost,) = seen.wait("error")
        assert lost.count == 16


# --- starting and ending -------------------------------------------------------------------


def test_two_threads_cannot_connect_one_client() -> None:
    with RawServer(hold) as server, Seen(server.url).connect() as seen:
        seen.connected()
        with pytest.raises(RuntimeError, match="another thread"):
            seen.client.connect()
        assert seen.client.start() is seen.client  # it runs, and that is what is wanted
        assert server.accepted == 1


def test_a_closed_client_stays_closed(nobody: str) -> None:
    with Seen(nobody) as seen:
        seen.client.close()
        seen.client.close()
        seen.client.connect()
        seen.client.start()
        assert not seen.events
        with pytest.raises(NotConnected):
            seen.client.send(Message("event"))


def test_connect_returns_when_the_client_is_closed_and_the_server_is_told() -> None:
    codes: list[tuple[int, str]] = []

    def serve(peer: ServerPeer) -> None:
        peer.accept()
        codes.append(peer.recv_close())
        peer.send_close(1000)

    with RawServer(serve) as server, Seen(server.url).connect() as seen:
        seen.connected()
        seen.wait("connect")
        seen.close_at_once()
        assert seen.outcome() is None
        assert seen.of("disconnect") == [("disconnect", 1000, "", False)]
        assert seen.client.state is ConnectionState.DISCONNECTED
    assert codes == [(1000, "")]


def test_connect_can_be_called_again_after_it_gave_up(nobody: str) -> None:
    with Seen(nobody, max_retries=1) as seen:
        for _ in range(2):
            with pytest.raises(MaxRetriesExceeded):
                seen.client.connect()
        assert len(seen.of("error")) == 4


def test_a_started_client_that_gives_up_logs_it(
    nobody: str, caplog: pytest.LogCaptureFixture
) -> None:
    with Seen(nobody + "?token=secret", max_retries=1) as seen:
        seen.start()
        wait_until(lambda: "gave up" in caplog.text)
    assert "secret" not in caplog.text


def test_the_threads_have_names() -> None:
    with RawServer(hold) as server:
        before = set(threading.enumerate())
        with Seen(server.url) as seen:
            seen.start().connected()
            new = [each.name for each in threading.enumerate() if each not in before]
            names = [name for name in new if name.startswith("ws-hub:")]
            assert sorted(name.rpartition(":")[0] for name in names) == [
                "ws-hub:connect",
                "ws-hub:receive",
            ], names


def test_an_exception_that_is_not_ours_ends_connect_and_leaves_nothing() -> None:
    with RawServer(hold) as server, Seen(server.url) as seen:

        def interrupt(event: tuple[Any, ...]) -> None:
            if len(seen.of("connect")) == 1:
                raise KeyboardInterrupt

        seen.hook = interrupt
        with pytest.raises(KeyboardInterrupt):
            seen.client.connect()
        assert seen.client.state is ConnectionState.DISCONNECTED
        # And it can go on.
        seen.connect()
        seen.wait("connect", 2)
        seen.client.close()
        assert seen.outcome() is None


# --- an independent server -----------------------------------------------------------------


@contextlib.contextmanager
def echo_server(port: int = 0) -> Iterator[int]:
    """The `websockets` package's threaded server; yields its port."""
    connections: list[independent.ServerConnection] = []

    def echo(connection: independent.ServerConnection) -> None:
        connections.append(connection)
        for text in connection:
            connection.send(text)

    with independent.serve(echo, "127.0.0.1", port) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield server.socket.getsockname()[1]
        finally:
            server.shutdown()
            for connection in connections:  # older releases leave them open
                connection.close(1001)
            thread.join(TIMEOUT)


@pytest.mark.leaves(files=["^pipe:"], why="websockets before 17 keeps the pipe of its shutdown")
def test_an_independent_server_and_its_restart() -> None:
    with contextlib.ExitStack() as stack:
        with echo_server() as port:
            seen = stack.enter_context(Seen(f"ws://127.0.0.1:{port}/"))
            seen.start().connected()
            text = "ü\u2028 " + "x" * 200_000
            seen.client.send(Message("event", data=text))
            seen.wait_data(text, kind="event")
        assert seen.wait("disconnect") == (1001, "", True)
        with echo_server(port):
            seen.wait("reconnect")
            seen.client.send(Message("event", data="again"))
            seen.wait_data(text, "again", kind="event")
            seen.client.close()


def test_the_request_carries_what_is_configured_and_nothing_else() -> None:
    seen_headers: list[dict[str, str]] = []
    lines: list[str] = []

    def serve(peer: ServerPeer) -> None:
        peer.accept("Sec-WebSocket-Protocol: b")
        seen_headers.append(peer.headers)
        lines.append(peer.request_line)
        while peer.recv_frame().opcode != 0x8:
            pass

    headers = {"Authorization": "Bearer x", "Cookie": "sid=1", "Host": "example.com"}
    with RawServer(serve) as server:
        url = server.url + "?a=1"
        with Seen(url, headers=headers, origin="https://o", subprotocols=["a", "b"]) as seen:
            seen.start().connected()
    (got,) = seen_headers
    assert lines == ["GET /ws?a=1 HTTP/1.1"]
    assert got["authorization"] == "Bearer x"
    assert got["cookie"] == "sid=1"
    assert got["host"] == "example.com"
    assert got["origin"] == "https://o"
    assert got["sec-websocket-protocol"] == "a,b"
    assert "sec-websocket-extensions" not in got


def test_the_dialer_of_the_config_is_used() -> None:
    import websocket

    def dial(config: ReconnectConfig) -> Any:
        return websocket.create_connection(config.url, suppress_origin=True)

    with RawServer(count_up) as server, Seen(server.url, dialer=dial) as seen:
        seen.start()
        seen.wait_data(0, 1, 2, 3, 4)


def test_a_dialer_that_raises_is_a_failed_attempt(caplog: pytest.LogCaptureFixture) -> None:
    def dial(config: ReconnectConfig) -> Any:
        raise LookupError("no idea")

    with Seen("ws://127.0.0.1:9/", dialer=dial, max_retries=1).connect() as seen:
        error = seen.outcome()
    assert isinstance(error, MaxRetriesExceeded)
    assert isinstance(error.__cause__, ConnectionError)
    assert "LookupError: no idea" in caplog.text


def test_a_refused_handshake_is_told_apart() -> None:
    def serve(peer: ServerPeer) -> None:
        peer.read_request()
        peer.send_raw(b"HTTP/1.1 401 Unauthorised\r\nContent-Length: 5\r\n\r\nno!!!")

    with RawServer(serve) as server, Seen(server.url).connect() as seen:
        error = seen.outcome()
        assert isinstance(error, HandshakeRefused)
        assert (error.status, error.reason) == (401, "Unauthorised")
        assert server.accepted == 1
        assert seen.events == [("error", error)]
