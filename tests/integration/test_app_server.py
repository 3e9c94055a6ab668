"""The server for applications under test: Flask, an attached route, plain WSGI, and its end."""

from __future__ import annotations

import socket
import sys
import threading
import urllib.request
from collections.abc import Callable, Iterable
from typing import Any

import pytest
from flask import Flask, session
from flask_sock import Sock

from tests.support import wait_until
from ws_hub import Client, Hub, HubConfig, Message, middleware
from ws_hub.flask import FlaskSessionAuth, HubExtension
from ws_hub.testing import AppServer, HubClient, assert_no_leaks

Connect = Callable[..., HubClient]


def flask_app(hub: Hub) -> Flask:
    app = Flask(__name__)
    app.secret_key = "secret"
    HubExtension(app, path="/live", hub=hub)

    @app.post("/builds/<build>")
    def build(build: str) -> str:
        hub.send_event("started", {"build": build}, channel="builds")
        return "ok"

    @app.post("/login/<user>")
    def login(user: str) -> str:
        session["user_id"] = user
        return "ok"

    return app


def test_a_flask_application_is_served_to_a_client(hub: Hub, hub_client: Connect) -> None:
    app = flask_app(hub)
    client = hub_client(app, path="/live")
    client.subscribe("builds")

    assert app.test_client().post("/builds/7").status_code == 200
    assert client.expect(channel="builds").data == {"event": "started", "data": {"build": "7"}}
    client.expect_nothing()


def test_clients_of_one_application_share_its_server(hub: Hub, hub_client: Connect) -> None:
    app = flask_app(hub)
    first, second = hub_client(app, path="/live"), hub_client(app, path="/live")
    hub.broadcast(Message("event", data=1))

    assert first.url == second.url
    assert first.expect(data=1) and second.expect(data=1)


def test_a_client_has_the_session_of_a_flask_test_client(hub_client: Connect) -> None:
    with Hub(HubConfig(authenticator=FlaskSessionAuth())) as hub:
        app = flask_app(hub)
        browser = app.test_client()
        browser.post("/login/anna")
        cookie = browser.get_cookie("session")
        assert cookie is not None
        hub_client(app, path="/live", headers={"Cookie": f"session={cookie.value}"}).round_trip()

        assert [each.user_id for each in hub.all_clients()] == ["anna"]


def test_a_route_that_attaches_ends_with_its_client(hub: Hub) -> None:
    app = Flask(__name__)
    returned = threading.Event()

    @Sock(app).route("/ws")  # type: ignore[untyped-decorator]
    def live(ws: Any) -> None:
        hub.attach(ws)
        returned.set()

    with assert_no_leaks(), AppServer(app) as server:
        with HubClient(server.url) as client:
            client.subscribe("news")
            hub.send_to_channel("news", Message("event", data=1))
            assert client.expect(channel="news").data == 1
            client.expect_nothing()
        assert returned.wait(10)


def test_a_wsgi_application_is_served_and_its_requests_end_with_it(hub: Hub) -> None:
    entered, release = threading.Event(), threading.Event()

    def app(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        entered.set()
        release.wait()
        start_response("200 OK", [("Content-Type", "text/plain")])
        return [b"done"]

    answers: list[bytes] = []

    def ask() -> None:
        with urllib.request.urlopen(f"http://{server.host}:{server.port}/") as answer:
            answers.append(answer.read())

    with assert_no_leaks():
        server = AppServer(middleware(app, hub))
        with HubClient(server.url) as client:
            client.round_trip()
            thread = threading.Thread(target=ask)
            thread.start()
            assert entered.wait(10)
            closer = threading.Thread(target=server.close)
            closer.start()
            release.set()
            closer.join()
            thread.join()
        server.close()
    assert answers == [b"done"]
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection((server.host, server.port))


def test_the_hub_of_the_application_goes_on(hub: Hub) -> None:
    gone: list[Client] = []
    app = flask_app(hub)
    for _ in range(2):
        with AppServer(app, "/live") as server, HubClient(server.url) as client:
            client.round_trip()
            gone += hub.all_clients()
        wait_until(lambda: hub.client_count() == 0)
    assert len(gone) == 2
    assert hub.running


def test_without_werkzeug_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "werkzeug.serving", None)

    with pytest.raises(ImportError, match=r"AppServer needs Werkzeug.*pip install 'ws-hub\[flask"):
        AppServer(lambda environ, start_response: [])
