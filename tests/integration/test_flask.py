"""The Flask extension under Flask's own server and gunicorn, and the example that shows it."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import urllib.request
import uuid
from collections.abc import Iterator
from typing import Any

import pytest

from tests.integration.apps.launch import ROOT, START, Running, command
from tests.integration.test_fork import in_child
from tests.support import TIMEOUT, RawPeer, wait_until
from ws_hub import AuthResult, Client, Hub, HubConfig, HubNotRunning, Message, serve

flask = pytest.importorskip("flask")
from ws_hub.flask import FlaskSessionAuth, HubExtension  # noqa: E402 - needs Flask

EXAMPLE = str(ROOT / "examples" / "flask_app.py")
SERVERS = {
    "flask run": ["flask", "--app", EXAMPLE, "run", "--port", "0"],
    "flask run, reloader": ["flask", "--app", EXAMPLE, "run", "--port", "0", "--debug"],
    "gunicorn": [
        "gunicorn", "--bind", "127.0.0.1:0", "--worker-class", "gthread", "--threads", "2",
        "--preload", "--chdir", "examples", "flask_app:app",
    ],
}  # fmt: skip


def post(running: Running, path: str, value: Any) -> Any:
    request = urllib.request.Request(
        f"http://{running.host}:{running.port}{path}",
        json.dumps(value).encode(),
        {"Content-Type": "application/json"},
    )
    with urllib.request.urlopen(request, timeout=TIMEOUT) as response:
        return json.loads(response.read())


@pytest.mark.parametrize("kind", SERVERS)
def test_the_example_pushes_from_a_view_to_every_client(kind: str) -> None:
    with command([sys.executable, "-m", *SERVERS[kind]]) as running:
        with (
            RawPeer(running.host, running.port) as one,
            RawPeer(running.host, running.port) as two,
        ):
            assert post(running, "/say", "hello") == {"listening": 2}
            for peer in (one, two):
                assert peer.recv_json()["data"] == {"event": "said", "data": "hello"}
            assert one.close() == (1000, "")
        lines = [line for line in running.complaints() if "development server" not in line]
        assert lines == []


def make(**options: Any) -> tuple[Any, HubExtension]:
    app = flask.Flask(__name__)
    extension = HubExtension(app, **options)

    @app.get("/")
    def index() -> str:
        return "hello"

    return app, extension


@pytest.fixture
def stopped() -> Iterator[list[HubExtension]]:
    made: list[HubExtension] = []
    yield made
    for extension in made:
        extension.hub.stop()


def test_the_hub_starts_with_the_first_request(stopped: list[HubExtension]) -> None:
    app, extension = make()
    stopped.append(extension)
    with pytest.raises(HubNotRunning):
        extension.hub.send_event("too early")
    assert app.test_client().get("/").text == "hello"
    assert extension.hub.running
    assert app.test_client().get("/ws").status_code == 426
    assert app.extensions["ws_hub"] is extension


def test_many_first_requests_start_it_once(stopped: list[HubExtension]) -> None:
    app, extension = make()
    stopped.append(extension)
    together = threading.Barrier(8)

    def visit() -> None:
        together.wait(TIMEOUT)
        app.test_client().get("/")

    threads = [threading.Thread(target=visit) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(TIMEOUT)
    assert [t.name for t in threading.enumerate()].count("ws-hub:run") == 1


def test_a_hub_that_was_stopped_is_not_started_by_a_late_request() -> None:
    app, extension = make()
    app.test_client().get("/")
    extension.hub.stop()
    assert app.test_client().get("/").status_code == 200
    assert not extension.hub.running


def test_a_hub_and_a_path_of_ones_own_and_init_app(stopped: list[HubExtension]) -> None:
    connected = threading.Event()
    hub = Hub(HubConfig(on_connect=lambda client: connected.set()))
    extension = HubExtension(path="/live", hub=hub)
    stopped.append(extension)
    app = flask.Flask(__name__)
    extension.init_app(app)
    other = flask.Flask("other")
    extension.init_app(other, path="/elsewhere")
    for wsgi, path in ((app, "/live"), (other, "/elsewhere")):
        with serve(Hub(), app=wsgi) as site, RawPeer(site.host, site.port, path) as peer:
            assert connected.wait(TIMEOUT)
            extension.hub.send_event("both")
            assert peer.recv_json()["data"]["event"] == "both"
            connected.clear()
    with pytest.raises(RuntimeError, match="already"):
        HubExtension(app)


def test_the_hub_of_an_application_has_decorators(stopped: list[HubExtension]) -> None:
    app, extension = make()
    stopped.append(extension)
    hub = extension.hub

    @hub.on("count")
    def count(client: Client, message: Message) -> int:
        return hub.client_count()

    @hub.on_subscribe("room:*")
    def welcome(client: Client, channel: str) -> None:
        hub.send_event("welcome", client.id, channel=channel)

    with serve(Hub(), app=app, path="/of-the-server") as site:
        app.test_client().get("/")  # starts it
        with RawPeer(site.host, site.port) as peer:
            peer.send_json({"type": "count", "id": 1})
            assert peer.recv_json()["data"] == 1
            peer.send_json({"type": "subscribe", "channel": "room:1"})
            assert peer.recv_json()["data"]["event"] == "welcome"


def test_a_forked_child_starts_its_own(stopped: list[HubExtension]) -> None:
    app, extension = make()
    stopped.append(extension)
    app.test_client().get("/")

    def visit() -> None:
        assert not extension.hub.running
        app.test_client().get("/")
        assert extension.hub.running
        extension.hub.stop()

    in_child(visit)
    assert extension.hub.running


def test_a_hub_that_cannot_start_does_not_take_the_pages_with_it(
    monkeypatch: pytest.MonkeyPatch, stopped: list[HubExtension]
) -> None:
    app, extension = make()
    stopped.append(extension)

    def refuse() -> None:
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as patch:
        patch.setattr(extension.hub, "start", refuse)
        assert app.test_client().get("/").text == "hello"
    assert app.test_client().get("/").text == "hello"
    wait_until(lambda: extension.hub.running)


def test_without_flask_the_error_names_the_extra() -> None:
    code = "import sys; sys.modules['flask'] = None; import ws_hub; import ws_hub.flask"
    ended = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=START
    )
    assert ended.returncode == 1
    assert "pip install 'ws-hub[flask]'" in ended.stderr


# --- sessions ------------------------------------------------------------------------------


def with_sessions(stopped: list[HubExtension], auth: FlaskSessionAuth) -> tuple[Any, Hub]:
    hub = Hub(HubConfig(authenticator=auth))
    app, extension = make(hub=hub)
    stopped.append(extension)

    @app.get("/login/<user>")
    def login(user: str) -> str:
        flask.session["user_id"] = int(user) if user.isdigit() else user
        return "in"

    return app, hub


def logged_in(app: Any, user: str) -> tuple[str, str]:
    response = app.test_client().get(f"/login/{user}")
    return "Cookie", response.headers["Set-Cookie"].partition(";")[0]


def status(site: Any, *headers: tuple[str, str]) -> int:
    with RawPeer(site.host, site.port, handshake=False) as peer:
        peer.send_raw(peer.request(headers))
        return peer.read_response().status


@pytest.mark.parametrize("user", ["ann", 7, uuid.UUID(int=7)], ids=repr)
def test_a_user_id_in_the_session_is_a_text_an_int_or_a_uuid(user: Any) -> None:
    app = flask.Flask(__name__)
    app.secret_key = "tests only"
    with app.test_request_context():
        flask.session["user_id"] = user
        assert FlaskSessionAuth()({}) == AuthResult(True, str(user))


@pytest.mark.parametrize("user", [True, b"ann", {"id": 7}, ["ann"], 7.0], ids=repr)
def test_no_other_object_in_the_session_is_a_user_by_its_text(
    user: Any, caplog: pytest.LogCaptureFixture
) -> None:
    app = flask.Flask(__name__)
    app.secret_key = "tests only"
    with app.test_request_context():
        flask.session["user_id"] = user
        assert not FlaskSessionAuth()({}).valid
    kind = type(user).__name__
    text = f"session['user_id'] must be a user id, a text, an int or a UUID, and is a {kind}"
    assert text in caplog.text


def test_logged_in_user_connects_as_that_user(stopped: list[HubExtension]) -> None:
    app, hub = with_sessions(stopped, FlaskSessionAuth())
    app.secret_key = "tests only"
    with serve(Hub(), path="/none", app=app) as site:
        origin = ("Origin", f"http://127.0.0.1:{site.port}")
        assert status(site, origin) == 401
        assert status(site, origin, ("Cookie", "session=forged")) == 401
        cookie = logged_in(app, "7")
        assert status(site, cookie) == 403  # no browser, or a page that hides where it is from
        assert status(site, cookie, ("Origin", "https://evil.example")) == 403
        with RawPeer(site.host, site.port, headers=[origin, cookie]) as peer:
            wait_until(lambda: hub.user_clients("7"))
            hub.send_to_user("7", Message("event", data="for you"))
            assert peer.recv_json()["data"] == "for you"


def test_a_function_may_look_at_the_session(stopped: list[HubExtension]) -> None:
    def validate(session: Any) -> AuthResult:
        return AuthResult(session.get("user_id") == "ann", "ann", {"from": "session"})

    app, hub = with_sessions(stopped, FlaskSessionAuth(validate=validate))
    app.secret_key = "tests only"
    with serve(Hub(), path="/none", app=app) as site:
        origin = ("Origin", f"http://127.0.0.1:{site.port}")
        assert status(site, origin, logged_in(app, "bob")) == 401
        with RawPeer(site.host, site.port, headers=[origin, logged_in(app, "ann")]):
            client = wait_until(lambda: hub.user_clients("ann"))[0]
            assert client.claims == {"from": "session"}


def test_missing_secret_key_refuses_all_and_is_logged(
    stopped: list[HubExtension], caplog: pytest.LogCaptureFixture
) -> None:
    app, _ = with_sessions(stopped, FlaskSessionAuth())
    with serve(Hub(), path="/none", app=app) as site:
        assert status(site) == 401
    assert "no secret key" in caplog.text
    assert not FlaskSessionAuth()({"REQUEST_METHOD": "GET"}).valid
