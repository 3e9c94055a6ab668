"""The wrong ways that newcomers take: each shows a text that leads on.

Without logging set up a warning reaches stderr; the servers here are processes of their own.
"""

from __future__ import annotations

import queue
import socket
import subprocess
import sys

import pytest

from tests.integration.apps.launch import Running, command, server
from tests.support import TIMEOUT, RawPeer, Response, free_port, wait_until
from ws_hub import (
    Hub,
    HubConfig,
    HubNotRunning,
    InvalidName,
    Message,
    MessageEncodeError,
    ReconnectConfig,
    ReconnectingClient,
    middleware,
    serve,
)

ALONE = "what is published in one does not reach the clients of the others. Connect them"


def refused(running: Running, path: str = "/ws", origin: str | None = None) -> Response:
    with RawPeer(running.host, running.port, path, handshake=False) as peer:
        peer.send_raw(peer.request([("Origin", origin)] if origin else []))
        return peer.read_response()


def warned(running: Running, text: str) -> list[str]:
    return [line for line in running.log().splitlines() if text in line]


# --- no start() ----------------------------------------------------------------------------


def test_publishing_without_start_says_to_call_start() -> None:
    with pytest.raises(HubNotRunning, match=r"not running: call start\(\) before this"):
        Hub().send_event("saved")


def test_a_handshake_without_start_is_answered_and_logged_once_with_what_to_call() -> None:
    with server("werkzeug") as running:
        for _ in range(2):
            response = refused(running, "/closed")
            assert (response.status, response.body) == (503, b"the hub is not running\n")
        text = "the hub was not started in this process"
        assert wait_until(lambda: warned(running, text))
        assert refused(running, "/closed").status == 503
        running.stop()
        (line,) = warned(running, text)
    assert "Call hub.start() in the process that serves" in line


# --- a hub in a process that serves nobody ---------------------------------------------------


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("hub.send_event('saved')", "it has published 1 messages, and had no client"),
        ("hub.listen('c', print); hub.send_event('saved', channel='c')", ""),
        ("hub.stop()", ""),
    ],
)
def test_a_process_whose_hub_has_no_clients_says_so_at_its_end(line: str, says: str) -> None:
    program = f"from ws_hub import Hub\nhub = Hub().start()\n{line}\n"
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=TIMEOUT
    )
    assert done.returncode == 0
    assert says in done.stderr and bool(done.stderr) is bool(says)


# --- another port, or a file ---------------------------------------------------------------


@pytest.mark.parametrize(
    ("origin", "advice"),
    [
        ("http://localhost:PORT", "If that page is yours, set HubConfig(allowed_origins=...)"),
        ("http://127.0.0.1:5000", "If that page is yours, set HubConfig(allowed_origins=...)"),
        ("null", "A page opened as a file has that origin: serve it from here"),
        ("file://", "A page opened as a file has that origin: serve it from here"),
    ],
)
def test_fault_104_a_page_from_elsewhere_gets_403_and_the_log_has_both_origins(
    origin: str, advice: str
) -> None:
    with server("werkzeug") as running:
        origin = origin.replace("PORT", str(running.port))
        for _ in range(2):
            response = refused(running, origin=origin)
            assert response.status == 403
            assert response.body == b"this Origin is not allowed to connect\n"
        running.stop()
        (line,) = warned(running, "refused with 403")
    assert f"the origin {origin!r}" in line
    assert f"connect to '127.0.0.1:{running.port}'" in line
    assert advice in line


def test_each_of_the_first_few_origins_is_logged_once() -> None:
    with server("werkzeug") as running:
        for number in [*range(1, 12), 1]:
            assert refused(running, origin=f"http://page{number}.example").status == 403
        running.stop()
        lines = warned(running, "refused with 403")
    assert [f"'http://page{number}.example'" in line for number, line in enumerate(lines, 1)] == (
        [True] * 8
    )


def test_a_port_that_is_taken_is_named_with_what_to_pass() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        text = rf"cannot serve on 127.0.0.1:{port}: Address already in use.*another port or 0"
        with pytest.raises(OSError, match=text):
            serve(Hub(), port=port)


def test_a_client_of_another_port_is_told_the_address_that_answers_nothing() -> None:
    errors: queue.Queue[Exception] = queue.Queue()  # guards: itself.
    port = free_port()
    config = ReconnectConfig(url=f"ws://127.0.0.1:{port}/ws", on_error=errors.put)
    with ReconnectingClient(config) as client:
        assert "refused" in str(errors.get(timeout=TIMEOUT))
        with pytest.raises(ConnectionError, match=rf"127.0.0.1:{port}/ws, so nothing was sent"):
            client.send({"type": "x"})


# --- swapped arguments, and a dict ---------------------------------------------------------


def test_swapped_arguments_are_shown_as_they_should_be() -> None:
    hub = Hub()
    with pytest.raises(TypeError, match=r"middleware\(app, hub\) takes a Hub as hub"):
        middleware(hub, lambda environ, start_response: [])  # type: ignore[arg-type]
    with pytest.raises(TypeError, match=r"send_event\(\"saved\", data\)"):
        hub.send_event({"id": 7}, "saved")  # type: ignore[arg-type]
    for message in Message("a"), {"type": "a"}:
        with pytest.raises(TypeError, match=r"channel first: send_to_channel\('news', message\)"):
            hub.send_to_channel(message, "news")  # type: ignore[call-overload]


def test_a_dict_for_a_message_or_the_settings_is_answered_by_an_example() -> None:
    hub = Hub()
    with pytest.raises(MessageEncodeError, match=r"pass \{\"type\": \"event\".*or call send_event"):
        hub.broadcast({"id": 7})
    with pytest.raises(TypeError, match=r"Hub\(HubConfig\(...\)\)"):
        Hub({"queue_size": 7})  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="takes a URL or a ReconnectConfig"):
        ReconnectingClient({"url": "ws://localhost"})  # type: ignore[arg-type]
    assert Hub(HubConfig(queue_size=7)).config.queue_size == 7


# --- a pattern for a channel ---------------------------------------------------------------


def test_a_pattern_for_a_channel_asks_for_whole_names() -> None:
    with Hub() as hub:
        for call in (
            lambda: hub.listen("chat:*", print),
            lambda: hub.send_event("saved", 1, channel="chat:*"),
            lambda: hub.history("chat:*"),
        ):
            with pytest.raises(InvalidName, match=r"'chat:\*' is refused: a \* makes it a pattern"):
                call()


# --- two gunicorn workers ------------------------------------------------------------------


@pytest.mark.parametrize("workers", [1, 2])
def test_the_hooks_warn_of_several_workers_once_at_the_start(workers: int) -> None:
    options = ["--config", "python:ws_hub.gunicorn", "--workers", str(workers)]
    with server("gthread", options=options) as running:
        with RawPeer(running.host, running.port):
            pass
        assert running.stop() == 0
        lines = warned(running, ALONE)
    assert len(lines) == workers - 1, running.log()
    assert all(f"gunicorn has {workers} workers" in line for line in lines)
    assert all("[WARNING]" in line for line in lines)  # in gunicorn's own log


@pytest.mark.parametrize("workers", [1, 2])
def test_without_hooks_the_flask_extension_warns_with_the_first_request(workers: int) -> None:
    argv = [sys.executable, "-m", "gunicorn", "--bind", "127.0.0.1:0", "--worker-class", "gthread"]
    argv += ["--threads", "2", "--workers", str(workers), "--chdir", "examples", "flask_app:app"]
    with command(argv) as running:
        assert running.get("/ws_hub.js").status == 200
        if workers == 2:
            wait_until(lambda: warned(running, ALONE))
        assert running.stop() == 0
        lines = warned(running, ALONE)
    assert len(lines) == workers - 1, running.log()
