"""The Flask extension: its settings, its files, the contexts of callbacks, its log and commands."""

from __future__ import annotations

import dataclasses
import json
import logging
import queue
import re
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.integration.apps.launch import START, Running, command
from tests.support import TIMEOUT, RawPeer, wait_until
from ws_hub import (
    AuthResult,
    BearerTokenAuth,
    ChannelRule,
    Client,
    ConfigError,
    Hub,
    HubConfig,
    Message,
    serve,
)

flask = pytest.importorskip("flask")
flask_login = pytest.importorskip("flask_login")
flask_sock = pytest.importorskip("flask_sock")
from werkzeug.middleware.proxy_fix import ProxyFix  # noqa: E402

from ws_hub.flask import FlaskSessionAuth, HubExtension  # noqa: E402 - needs Flask
from ws_hub.testing import AppServer  # noqa: E402 - needs Flask
from ws_hub.wsgi import servers  # noqa: E402

Make = Callable[..., tuple[Any, HubExtension]]


@pytest.fixture
def make() -> Iterator[Make]:
    """Makes applications with an extension, whose hubs stop at the end."""
    made: list[HubExtension] = []

    def make(config: dict[str, Any] | None = None, **options: Any) -> tuple[Any, HubExtension]:
        app = flask.Flask("shop")
        app.secret_key = "tests only"
        app.config.update(config or {})
        extension = HubExtension(app, **options)
        made.append(extension)
        return app, extension

    yield make
    for extension in made:
        extension.hub.stop()


def origin(site: Any) -> tuple[str, str]:
    return "Origin", f"http://127.0.0.1:{site.port}"


# --- settings ------------------------------------------------------------------------------


def test_each_field_of_the_hub_is_a_key_of_the_config(make: Make) -> None:
    rules = [{"pattern": "chat:*", "history_messages": 5}, ChannelRule(pattern="*")]
    _, extension = make({
        "WS_HUB_HEARTBEAT_INTERVAL": 5,
        "WS_HUB_MAX_CONNECTIONS": 7,
        "WS_HUB_PACE_BYTES": None,
        "WS_HUB_RULES": rules,
        "ws_hub_other": "keys of Flask are upper case",
    })  # fmt: skip
    config = extension.hub.config
    assert (config.heartbeat_interval, config.max_connections, config.pace_bytes) == (5, 7, None)
    assert config.rules == (ChannelRule(pattern="chat:*", history_messages=5), rules[1])


def test_what_the_hub_has_is_asked_of_the_extension_in_vain(make: Make) -> None:
    _, extension = make({})
    with pytest.raises(AttributeError, match=r"hub = HubExtension\(app\)\.hub"):
        extension.send_event("x")  # type: ignore[attr-defined]
    with pytest.raises(AttributeError, match="has no attribute 'send_evnt'$"):
        extension.send_evnt("x")  # type: ignore[attr-defined]
    assert not hasattr(extension, "send_event")


def test_the_environment_sets_keys_of_the_config(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FLASK_WS_HUB_MAX_CONNECTIONS", "500")
    monkeypatch.setenv("FLASK_WS_HUB_VIEWER_PREFIX", "/live")
    app = flask.Flask(__name__)
    app.config.from_prefixed_env()
    assert HubExtension(app).hub.config.max_connections == 500
    assert paths(app)["ws_hub.viewer"].startswith("/live/")


@pytest.mark.parametrize(
    ("key", "value", "says"),
    [
        ("WS_HUB_MAX_CONECTIONS", 5, "WS_HUB_MAX_CONECTIONS; did you mean WS_HUB_MAX_CONNECTIONS"),
        ("WS_HUB_JSPATH", None, "did you mean WS_HUB_JS_PATH"),
        ("WS_HUB_AUTH", print, "did you mean WS_HUB_AUTHENTICATOR"),
        ("WS_HUB_AUTHENTICATION", print, "did you mean WS_HUB_AUTHENTICATOR"),
        ("WS_HUB_CHANNEL_AUTHORIZER", print, "did you mean WS_HUB_CHANNEL_AUTHORISER"),
        ("WS_HUB_CORS_ALLOWED_ORIGINS", "*", "did you mean WS_HUB_ALLOWED_ORIGINS"),
        ("WS_HUB_CORS_ORIGINS", "*", "did you mean WS_HUB_ALLOWED_ORIGINS"),
        ("WS_HUB_URL", "/live", "did you mean WS_HUB_PATH"),
        ("WS_HUB_VIEWER", "/live", "did you mean WS_HUB_VIEWER_PREFIX"),
        ("WS_HUB_MAX_CLIENTS", 5, "did you mean WS_HUB_MAX_CONNECTIONS"),
        ("WS_HUB_PING_INTERVAL", 5, "did you mean WS_HUB_HEARTBEAT_INTERVAL"),
        ("WS_HUB_HISTORY_MESSAGES", 5, "did you mean WS_HUB_RULES"),
        ("WS_HUB_REPLAY", True, "did you mean WS_HUB_RULES"),
        ("WS_HUB_PONG_TIMEOUT", 1, "pong_timeout must be above heartbeat_interval"),
        ("WS_HUB_MAX_CONNECTIONS", "9", "max_connections"),
        ("WS_HUB_RULES", [{"patern": "a"}], "WS_HUB_RULES.*patern.*use pattern"),
        ("WS_HUB_RULES", {"pattern": "a"}, r'WS_HUB_RULES.*list.*write .*\[{"pattern": "chat:\*"'),
        ("WS_HUB_RULES", ["chat:*"], r'WS_HUB_RULES.*hold.*write .*\[{"pattern": "chat:\*"'),
        ("WS_HUB", {"rules": []}, "WS_HUB sets nothing: use .* WS_HUB_RULES"),
        ("WSHUB_RULES", [], "WSHUB_RULES sets nothing: use .* WS_HUB_RULES"),
        ("WS_HUB_AUTHENTICATOR", FlaskSessionAuth, r"not the class .* pass FlaskSessionAuth\("),
        ("WS_HUB_PATH", "live", "path must be a path"),
        ("WS_HUB_JS_PATH", 3, "js_path must be a path"),
        ("WS_HUB_VIEWER_PREFIX", "/", "viewer_prefix must be a path below the root"),
    ],
)
def test_a_wrong_key_is_refused_by_name(key: str, value: object, says: str) -> None:
    app = flask.Flask(__name__)
    app.config[key] = value
    with pytest.raises(ConfigError, match=says):
        HubExtension(app)
    del app.config[key]
    HubExtension(app)  # nothing of the first attempt is left


def test_each_key_that_is_suggested_for_a_guess_exists() -> None:
    suggested = set()
    for guess in (
        "AUTH",
        "URL",
        "JS",
        "HISTORY_SIZE",
        "PROXY",
        "RATE_LIMIT",
        "ON_CLOSE",
        "REPLAY",
        "zz",
    ):
        app = flask.Flask(__name__)
        app.config[f"WS_HUB_{guess}"] = 5
        with pytest.raises(ConfigError) as raised:
            HubExtension(app)
        suggested.add(str(raised.value).rpartition("WS_HUB_")[2].rstrip("?").lower())
    fields = {field.name for field in dataclasses.fields(HubConfig)}
    assert suggested <= fields | {"path", "js_path", "viewer_prefix"}


def test_arguments_win_over_the_config_and_those_of_init_app_over_the_class(make: Make) -> None:
    app, _ = make({"WS_HUB_PATH": "/config"})
    assert paths(app)["ws_hub.ws"] == "/config"
    app, _ = make({"WS_HUB_PATH": "/config"}, path="/argument")
    assert paths(app)["ws_hub.ws"] == "/argument"
    app = flask.Flask(__name__)
    app.config["WS_HUB_JS_PATH"] = "/config.js"
    HubExtension(path="/class", js_path="/class.js").init_app(app, path="/init", js_path=None)
    assert paths(app)["ws_hub.ws"] == "/init"
    assert "ws_hub.js" not in paths(app)


def paths(app: Any) -> dict[str, str]:
    return {rule.endpoint: rule.rule for rule in app.url_map.iter_rules()}


def test_a_hub_that_was_given_keeps_its_settings(make: Make) -> None:
    hub = Hub(HubConfig(max_connections=3))
    _, extension = make({"WS_HUB_MAX_CONNECTIONS": 3}, hub=hub)
    assert extension.hub is hub
    with pytest.raises(ConfigError, match="WS_HUB_MAX_CONNECTIONS: the hub was given"):
        make({"WS_HUB_MAX_CONNECTIONS": 4}, hub=hub)
    with pytest.raises(ConfigError, match="WS_HUB_LENIENT"):
        make({"WS_HUB_LENIENT": True}, hub=hub)


def test_the_settings_come_with_the_application_and_the_hub_before(make: Make) -> None:
    extension = HubExtension()
    hub = extension.hub
    ended = threading.Event()
    hub.at_stop(ended.set)  # what was added to the hub stays
    app = flask.Flask(__name__)
    app.config["WS_HUB_MAX_SUBSCRIPTIONS"] = 1
    extension.init_app(app)
    assert extension.hub is hub
    assert hub.config.max_subscriptions == 1
    with serve(Hub(), path="/none", app=app) as site, RawPeer(site.host, site.port) as peer:
        for channel in ("a", "b"):
            peer.send_text(json.dumps({"type": "subscribe", "channel": channel, "id": channel}))
        answers = {answer["id"]: answer for answer in (peer.recv_json(), peer.recv_json())}
        assert answers["a"]["type"] == "ack"
        assert answers["b"]["code"] == "limit"
    hub.stop()
    assert ended.is_set()


def test_a_second_application_must_not_change_the_hub_of_the_first() -> None:
    extension = HubExtension()
    one, two, three = flask.Flask("one"), flask.Flask("two"), flask.Flask("three")
    one.config["WS_HUB_MAX_CONNECTIONS"] = two.config["WS_HUB_MAX_CONNECTIONS"] = 1
    three.config["WS_HUB_MAX_CONNECTIONS"] = 2
    extension.init_app(one)
    extension.init_app(two)
    with pytest.raises(ConfigError, match="WS_HUB_MAX_CONNECTIONS"):
        extension.init_app(three)
    # As in a suite that makes an application for each test.
    two.test_client().get("/")
    extension.hub.stop()
    extension.init_app(three)
    assert extension.hub.config.max_connections == 2
    three.test_client().get("/")
    assert extension.hub.running
    extension.hub.stop()


# --- what is served ------------------------------------------------------------------------


def test_the_browser_client_is_served_and_checked_again_by_its_tag(make: Make) -> None:
    app, _ = make()
    client = app.test_client()
    with app.test_request_context():
        assert flask.url_for("ws_hub.js") == "/ws_hub.js"
        assert flask.url_for("ws_hub.ws") == "/ws"
    answer = client.get("/ws_hub.js")
    assert answer.status_code == 200
    assert answer.data == Path("ws_hub/static/ws_hub.js").read_bytes()
    assert answer.content_type == "text/javascript; charset=utf-8"
    assert answer.headers["Cache-Control"] == "no-cache"
    again = client.get("/ws_hub.js", headers={"If-None-Match": answer.headers["ETag"]})
    assert (again.status_code, again.data) == (304, b"")
    head = client.head("/ws_hub.js")
    assert (head.status_code, head.data) == (200, b"")
    assert client.post("/ws_hub.js").status_code == 405


def test_each_place_moves_and_none_switches_it_off(make: Make) -> None:
    app, _ = make({"WS_HUB_PATH": "/live", "WS_HUB_JS_PATH": "/js/hub.js"})
    client = app.test_client()
    assert client.get("/live").status_code == 426
    assert client.get("/ws").status_code == 404
    assert client.get("/js/hub.js").status_code == 200
    assert client.get("/ws_hub.js").status_code == 404
    app, _ = make({"WS_HUB_PATH": None, "WS_HUB_JS_PATH": None})
    client = app.test_client()
    assert client.get("/ws").status_code == 404
    assert client.get("/ws_hub.js").status_code == 404


@pytest.mark.parametrize(
    ("js_path", "says"),
    [
        ("/js/hub.js", "is at '/js/hub.js' (WS_HUB_JS_PATH, js_path): write {{ url_for("),
        (None, "WS_HUB_JS_PATH (js_path) is None: set the path"),
    ],
)
def test_a_page_that_looks_for_the_client_elsewhere_is_logged_with_where_it_is(
    make: Make,
    js_path: str | None,
    says: str,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(servers, "logged", {})
    app, _ = make({"WS_HUB_JS_PATH": js_path})
    assert app.test_client().get("/static/ws_hub.js").status_code == 404
    (text,) = [each.getMessage() for each in caplog.records if "asked for" in each.getMessage()]
    assert text.startswith("'/static/ws_hub.js' was asked for, and the answer is '404 NOT FOUND'")
    assert says in text


@pytest.mark.parametrize("prefix", ["/admin/hub", "/admin/hub/"])
def test_the_viewer_is_served_below_its_prefix(make: Make, prefix: str) -> None:
    app, extension = make({"WS_HUB_VIEWER_PREFIX": prefix, "WS_HUB_PATH": "/live"})
    client = app.test_client()
    assert client.get("/admin/hub").headers["Location"] == "./hub/"
    page = client.get("/admin/hub/")
    assert page.content_type == "text/html; charset=utf-8"
    assert '"./../../live"' in page.text
    assert client.get("/admin/hub/static/viewer.js").status_code == 200
    assert client.get("/admin/hub/none").status_code == 404
    extension.hub.send_process_output("build", "a line")
    wait_until(extension.hub.kept_channels)
    assert client.get("/admin/hub/api/channels").json["channels"] == ["process:build"]
    assert make()[0].test_client().get("/admin/hub/").status_code == 404


def test_the_applications_hooks_guard_the_viewer(make: Make) -> None:
    app, _ = make(viewer_prefix="/hub")

    @app.before_request
    def guard() -> Any:
        if flask.request.endpoint == "ws_hub.viewer":
            flask.abort(403)

    client = app.test_client()
    assert client.get("/hub/").status_code == client.get("/hub/static/viewer.js").status_code == 403
    assert client.get("/ws_hub.js").status_code == 200


# --- contexts ------------------------------------------------------------------------------


def test_each_callback_runs_in_a_context_with_the_request_of_the_handshake(make: Make) -> None:
    seen: queue.Queue[tuple[Any, ...]] = queue.Queue()

    def note(name: str) -> None:
        request = flask.request
        flask.g.setdefault("before", []).append(name)
        shop = flask.current_app.name, flask.session.get("user_id"), request.args.get("shop")
        seen.put((name, *shop, request.path, request.get_data(), list(flask.g.before)))

    def may(client: Client, channel: str) -> bool:
        note("may")
        return True

    def authenticate(environ: Any) -> AuthResult:
        note("authenticate")
        return AuthResult(True, "ann")

    app, extension = make({
        "WS_HUB_AUTHENTICATOR": authenticate,
        "WS_HUB_CHECK_ORIGIN": lambda environ: note("origin") is None,
        "WS_HUB_ON_CONNECT": lambda client: note("connect"),
        "WS_HUB_ON_MESSAGE": lambda client, message: note("message"),
        "WS_HUB_ON_DISCONNECT": lambda client, code, reason: note("disconnect"),
        "WS_HUB_CHANNEL_AUTHORISER": may,
    })  # fmt: skip

    @app.teardown_appcontext
    def tear_down(error: BaseException | None) -> None:
        seen.put(("teardown", "before" in flask.g))

    with serve(Hub(), path="/none", app=app) as site:
        headers = [origin(site), cookie_of(app, user_id="ann")]
        with RawPeer(site.host, site.port, "/ws?shop=3", headers=headers) as peer:
            peer.send_text('{"type": "subscribe", "channel": "a", "id": 1}')
            peer.send_text('{"type": "special"}')
            assert peer.recv_json()["type"] == "ack"
            peer.close()
        for name in ("origin", "authenticate", "connect", "may", "message", "disconnect"):
            # One `g` for each call: nothing of another one is in it.
            expected = (name, "shop", "ann", "3", "/ws", b"", [name])
            assert seen.get(timeout=TIMEOUT) == expected
            assert seen.get(timeout=TIMEOUT) == ("teardown", True)
        extension.hub.stop()
    assert seen.empty()


def cookie_of(app: Any, **values: Any) -> tuple[str, str]:
    serializer = app.session_interface.get_signing_serializer(app)
    return "Cookie", f"session={serializer.dumps(values)}"


def test_what_is_for_no_client_runs_in_an_application_context(make: Make) -> None:
    seen: queue.Queue[tuple[str, str, bool]] = queue.Queue()

    def note(name: str) -> None:
        seen.put((name, flask.current_app.name, flask.has_request_context()))

    app, extension = make({
        "WS_HUB_ON_FIRST_SUBSCRIBER": lambda channel: note("first"),
        "WS_HUB_ON_LAST_UNSUBSCRIBE": lambda channel: note("last"),
    })  # fmt: skip
    app.test_client().get("/")
    hub = extension.hub
    hub.at_stop(lambda: note("stop"))
    listener = hub.listen("a", lambda message: note("listen"))
    assert seen.get(timeout=TIMEOUT) == ("first", "shop", False)
    hub.send_event("e", channel="a")
    assert seen.get(timeout=TIMEOUT) == ("listen", "shop", False)
    listener.close()
    assert seen.get(timeout=TIMEOUT) == ("last", "shop", False)
    hub.stop()
    assert seen.get(timeout=TIMEOUT) == ("stop", "shop", False)


def test_each_application_of_a_hub_has_its_own_context(make: Make) -> None:
    names: queue.Queue[str] = queue.Queue()
    hub = Hub(HubConfig(on_connect=lambda client: names.put(flask.current_app.name)))
    extension = HubExtension(hub=hub)
    for name in ("one", "two"):
        app = flask.Flask(name)
        extension.init_app(app)
        with serve(Hub(), path="/none", app=app) as site, RawPeer(site.host, site.port):
            assert names.get(timeout=TIMEOUT) == name
    hub.stop()


def test_the_user_of_flask_login_is_there_in_every_callback(make: Make) -> None:
    class User(flask_login.UserMixin):  # type: ignore[misc]
        def __init__(self, id: str) -> None:
            self.id = id

    seen: queue.Queue[str] = queue.Queue()

    def authenticate(environ: Any) -> AuthResult:
        user = flask_login.current_user
        if not user.is_authenticated:
            return AuthResult(False, error="not logged in")
        return AuthResult(True, user.get_id())

    app, _ = make({
        "WS_HUB_AUTHENTICATOR": authenticate,
        "WS_HUB_ON_MESSAGE": lambda client, message: flask_login.current_user.id,
        "WS_HUB_ON_DISCONNECT": lambda *_: seen.put(flask_login.current_user.id),
        "WS_HUB_ON_AUTH_FAILURE": lambda environ, result: seen.put(flask.request.path),
    })  # fmt: skip
    manager = flask_login.LoginManager(app)
    manager.session_protection = "strong"
    manager.user_loader(lambda id: User(id) if id != "gone" else None)

    @app.get("/login/<id>")
    def login(id: str) -> str:
        flask_login.login_user(User(id))
        return "in"

    with serve(Hub(), path="/none", app=app) as site:

        def logged_in(id: str) -> list[tuple[str, str]]:
            with RawPeer(site.host, site.port, handshake=False) as peer:
                head = f"GET /login/{id} HTTP/1.1\r\nHost: {site.host}:{site.port}\r\n"
                peer.send_raw(f"{head}User-Agent: tests\r\n\r\n".encode())
                found = peer.read_response().headers["set-cookie"]
            cookie = found.partition(";")[0]
            return [origin(site), ("Cookie", cookie), ("User-Agent", "tests")]

        with RawPeer(site.host, site.port, headers=logged_in("7")) as peer:
            peer.send_text('{"type": "mine", "id": 1}')
            assert peer.recv_json()["data"] == "7"
        assert seen.get(timeout=TIMEOUT) == "7"
        with RawPeer(site.host, site.port, handshake=False) as peer:
            peer.send_raw(peer.request(logged_in("gone")))
            assert peer.read_response().status == 401
        assert seen.get(timeout=TIMEOUT) == "/ws"


def test_the_token_of_a_first_message_is_checked_in_the_context_of_the_handshake(
    make: Make,
) -> None:
    def validate(token: str) -> AuthResult:
        return AuthResult(token == flask.request.args["shop"], "ann")

    app, extension = make({
        "WS_HUB_AUTHENTICATOR": BearerTokenAuth(validate),
        "WS_HUB_AUTH_BY_MESSAGE": True,
    })  # fmt: skip
    with serve(Hub(), path="/none", app=app) as site:
        with RawPeer(site.host, site.port, "/ws?shop=3") as peer:
            peer.send_text('{"type": "auth", "data": "3", "id": 1}')
            assert peer.recv_json()["type"] == "ack"
            assert [each.user_id for each in extension.hub.all_clients()] == ["ann"]


def test_behind_a_proxy_callbacks_see_what_proxy_fix_has_made_of_the_request(make: Make) -> None:
    app, extension = make({
        "WS_HUB_ON_MESSAGE": lambda client, message: [
            flask.request.url, client.remote_address.partition(":")[0]
        ],
    })  # fmt: skip
    app.wsgi_app = ProxyFix(app.wsgi_app, x_for=1, x_host=1, x_proto=1)
    headers = [
        ("X-Forwarded-For", "192.0.2.7"),
        ("X-Forwarded-Host", "shop.example"),
        ("X-Forwarded-Proto", "https"),
        ("Origin", "https://shop.example"),
    ]
    with serve(Hub(), path="/none", app=app) as site:
        with RawPeer(site.host, site.port, headers=headers) as peer:
            peer.send_text('{"type": "special", "id": 1}')
            assert peer.recv_json()["data"] == ["https://shop.example/ws", "192.0.2.7"]
    assert not extension.hub.config.trusted_proxies


def test_a_callback_that_raises_is_torn_down_with_its_error(
    make: Make, caplog: pytest.LogCaptureFixture
) -> None:
    errors: queue.Queue[BaseException | None] = queue.Queue()

    def fail(client: Client) -> None:
        raise LookupError("nothing there")

    app, _ = make({"WS_HUB_ON_CONNECT": fail})
    app.teardown_appcontext(errors.put)
    with serve(Hub(), path="/none", app=app) as site, RawPeer(site.host, site.port) as peer:
        assert isinstance(errors.get(timeout=TIMEOUT), LookupError)
        peer.send_text('{"type": "ping"}')
        assert peer.recv_json()["type"] == "pong"
    assert "nothing there" in caplog.text


def test_the_callbacks_of_an_attached_connection_have_contexts_too(make: Make) -> None:
    seen: queue.Queue[tuple[str, str, bool]] = queue.Queue()

    def note(name: str) -> None:
        before, flask.g.name = "name" in flask.g, name
        seen.put((name, flask.request.args["shop"], before))

    app, extension = make({
        "WS_HUB_PATH": None,
        "WS_HUB_ON_CONNECT": lambda client: note("connect"),
        "WS_HUB_ON_MESSAGE": lambda client, message: note("message"),
    })  # fmt: skip

    @flask_sock.Sock(app).route("/route")
    def route(ws: Any) -> None:
        flask.g.name = "the route"
        extension.hub.attach(ws)

    with AppServer(app) as server, RawPeer(server.host, server.port, "/route?shop=3") as peer:
        peer.send_text('{"type": "special"}')
        assert seen.get(timeout=TIMEOUT) == ("connect", "3", False)
        assert seen.get(timeout=TIMEOUT) == ("message", "3", False)


def test_the_session_authenticates_within_a_request_alone(make: Make) -> None:
    app, _ = make()
    auth = FlaskSessionAuth()
    assert auth({}).error == "the request has no Flask session"
    with app.test_request_context():
        assert auth({}).error == "not logged in"
        flask.session["user_id"] = 7
        assert auth({}).user_id == "7"
        assert auth({"ws_hub.token": "of a first message"}).valid is False


# --- the log -------------------------------------------------------------------------------


class Records(logging.Handler):
    """Keeps what it gets."""

    def __init__(self, level: int = logging.NOTSET) -> None:
        super().__init__(level)
        self.texts: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.texts.append(record.getMessage())


@pytest.fixture
def app_logger(make: Make) -> Iterator[logging.Logger]:
    app, _ = make()
    logger: logging.Logger = app.logger
    before = logger.handlers[:]
    logger.handlers.clear()
    yield logger
    logger.handlers[:] = before
    logger.propagate = True
    logger.setLevel(logging.NOTSET)
    del app


def warn(text: str) -> None:
    logging.getLogger("ws_hub.hub.hub").warning(text)


def test_a_record_reaches_each_handler_once(app_logger: logging.Logger) -> None:
    ours, errors, root = Records(), Records(logging.ERROR), Records()
    app_logger.addHandler(ours)
    app_logger.addHandler(errors)
    logging.getLogger().addHandler(root)
    try:
        warn("one")
        app_logger.addHandler(root)  # at both places
        warn("two")
        app_logger.setLevel(logging.ERROR)
        warn("three")
    finally:
        logging.getLogger().removeHandler(root)
    assert (ours.texts, errors.texts) == (["one", "two"], [])
    assert root.texts == ["one", "two", "three"]


def test_an_application_may_silence_the_hub(app_logger: logging.Logger) -> None:
    ours, silence = Records(), logging.NullHandler()
    app_logger.addHandler(ours)
    logging.getLogger("ws_hub").addHandler(silence)
    try:
        warn("one")
    finally:
        logging.getLogger("ws_hub").removeHandler(silence)
    assert ours.texts == []


def test_without_an_application_a_record_is_shown_as_python_shows_it() -> None:
    code = (
        "import flask, gc, logging, ws_hub.flask\n"
        "ws_hub.flask.HubExtension(flask.Flask('gone'))\n"
        "gc.collect()\n"
        "logging.getLogger('ws_hub.hub.hub').warning('a warning')\n"
        "logging.getLogger('ws_hub.hub.hub').info('no warning')\n"
    )
    ended = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=START
    )
    assert ended.stderr == "a warning\n"


FAILING = """
import flask
from ws_hub.flask import HubExtension

def fail(client):
    flask.current_app.logger.warning("from the application")
    raise LookupError("from the callback")

app = flask.Flask(__name__)
app.config["WS_HUB_ON_CONNECT"] = fail
hub = HubExtension(app).hub
"""
GUNICORN = [
    "gunicorn", "--bind", "127.0.0.1:0", "--worker-class", "gthread", "--threads", "2",
    "--no-control-socket", "failing:app",
]  # fmt: skip
OWN = """
import logging
app.logger.handlers = logging.getLogger("gunicorn.error").handlers
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("argv", "more", "line"),
    [
        (
            ["flask", "--app", "failing", "run", "--port", "0"],
            "",
            r"\] ERROR in callbacks: callback",
        ),
        (GUNICORN, "", r"\] ERROR in callbacks: callback"),
        (GUNICORN, OWN, r"\[ERROR\] callback"),
    ],
    ids=["flask run", "gunicorn", "gunicorn's own log"],
)
def test_fault_103_a_callback_that_raises_is_shown_once_in_the_applications_log(
    argv: list[str], more: str, line: str, tmp_path: Path
) -> None:
    Path(tmp_path, "failing.py").write_text(FAILING + more, encoding="utf-8")
    path = f"{tmp_path}:{Path.cwd()}"
    with command([sys.executable, "-m", *argv], PYTHONPATH=path) as running:
        with RawPeer(running.host, running.port) as peer:
            peer.send_text('{"type": "ping"}')
            assert peer.recv_json()["type"] == "pong"
        log = running.log()
    assert log.count("LookupError: from the callback") == 1, log
    assert log.count("from the application") == 1, log
    assert len(lines_of(log, line)) == 1, log


def lines_of(log: str, pattern: str) -> list[str]:
    return [line for line in log.splitlines() if re.search(pattern, line)]


# --- processes and commands ----------------------------------------------------------------


@pytest.mark.slow
def test_the_parent_of_the_reloader_has_no_threads_of_the_hub() -> None:
    argv = ["flask", "--app", "examples/flask_app.py", "run", "--port", "0", "--debug"]
    with command([sys.executable, "-m", *argv]) as running:
        with RawPeer(running.host, running.port):
            assert threads_of(running.process.pid) == 1
            (child,) = children_of(running)
            assert threads_of(child) > 1


def threads_of(pid: int) -> int:
    return len(list(Path(f"/proc/{pid}/task").iterdir()))


def children_of(running: Running) -> list[int]:
    pid = running.process.pid
    return [int(each) for each in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def run(app: Any, *words: str) -> Any:
    return app.test_cli_runner().invoke(args=["ws-hub", *words])


def test_check_shows_what_is_served_and_set(make: Make) -> None:
    app, extension = make({"WS_HUB_MAX_CONNECTIONS": 5, "WS_HUB_JS_PATH": None})
    result = run(app, "check")
    assert result.exit_code == 0, result.output
    assert result.output.splitlines() == [
        "WebSocket: /ws",
        "browser client: not served",
        "viewer: not served",
        "max_connections: 5",
        "note: no authenticator: every visitor may connect",
    ]
    assert not extension.hub.running


def test_check_finds_what_cannot_work(make: Make) -> None:
    app, _ = make({"WS_HUB_AUTHENTICATOR": FlaskSessionAuth()})
    app.secret_key = None
    app.add_url_rule("/ws", "mine", lambda: "never")
    result = run(app, "check")
    assert result.exit_code == 1
    assert "fault: FlaskSessionAuth needs sessions" in result.output
    assert "fault: the route of mine is never reached: the hub answers at /ws" in result.output
    assert "note: no channel_authoriser" in result.output
    app.add_url_rule("/<path:any>", "pages", lambda any: "a page")  # matches everything
    assert "pages" not in run(app, "check").output


def test_a_command_without_an_extension_says_so(make: Make) -> None:
    app, _ = make()
    del app.extensions["ws_hub"]
    result = run(app, "check")
    assert (result.exit_code, "no HubExtension" in result.output) == (2, True)


TAILED = """
import flask
from ws_hub.flask import FlaskSessionAuth, HubExtension

app = flask.Flask(__name__)
app.secret_key = "tests only"
app.config.update(WS_HUB_AUTHENTICATOR=FlaskSessionAuth(), WS_HUB_PATH="/live")
hub = HubExtension(app).hub

@app.get("/users")
def users():
    return [client.user_id for client in hub.clients("news")]

@app.get("/say")
def say():
    hub.send_event("said", "hello", channel="news")
    return ""
"""


@pytest.mark.slow
def test_tail_follows_a_channel_as_a_user_of_the_application(tmp_path: Path) -> None:
    Path(tmp_path, "tailed.py").write_text(TAILED, encoding="utf-8")
    flask_ = [sys.executable, "-m", "flask", "--app", str(tmp_path / "tailed.py")]
    with command([*flask_, "run", "--port", "0"]) as running:
        url = f"http://{running.host}:{running.port}"
        tail = [*flask_, "ws-hub", "tail", "--json", "--user", "7", "--url", url, "news"]
        with command_of_its_own(tail) as following:
            wait_until(lambda: running.get("/users").body == b'["7"]\n')  # type: ignore[attr-defined]
            running.get("/say")
            assert following.stdout is not None
            line = json.loads(following.stdout.readline())
            assert line["data"] == {"event": "said", "data": "hello"}
            following.terminate()
            assert following.wait(TIMEOUT) == 143
        unknown = [*flask_, "ws-hub", "tail", "--url", url, "news"]
        with command_of_its_own(unknown) as refused:
            assert refused.wait(TIMEOUT) == 1


def command_of_its_own(argv: list[str]) -> Any:
    return subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def test_tail_says_what_it_lacks(make: Make) -> None:
    app, _ = make({"WS_HUB_PATH": None})
    result = run(app, "tail", "news")
    assert (result.exit_code, "serves no WebSocket" in result.output) == (2, True)
    result = run(app, "tail", "--url", "ws://127.0.0.1:1/ws", "--user", "7", "news")
    assert (result.exit_code, "--user needs sessions" in result.output) == (2, True)
    result = run(app, "tail", "--url", "nonsense", "news")
    assert result.exit_code == 2
    assert run(app, "tail").exit_code == 2


def test_functions_of_decorators_and_of_the_config_run_in_the_context_of_the_client() -> None:
    """Those that were registered before the config was known are called after its own."""
    live = HubExtension()
    seen: list[tuple[str, str]] = []

    @live.hub.on_connect
    def connected(client: Client) -> None:
        seen.append(("decorated", flask.request.path))

    @live.hub.on("shop")
    def shop(client: Client, message: Message) -> str:
        return flask.request.args["shop"]

    @live.hub.on_subscribe("a*")
    def subscribed(client: Client, channel: str) -> None:
        seen.append((channel, flask.request.path))

    app = flask.Flask("shops")
    app.config["WS_HUB_ON_CONNECT"] = lambda client: seen.append(("config", flask.request.path))
    live.init_app(app)
    with serve(Hub(), path="/none", app=app) as site:
        with RawPeer(site.host, site.port, "/ws?shop=3") as peer:
            peer.send_text('{"type": "shop", "id": 1}')
            assert peer.recv_json()["data"] == "3"
            peer.send_text('{"type": "subscribe", "channel": "ab", "id": 2}')
            peer.recv_json()
            # Answered when the begin is told: the ack may come before that.
            peer.send_text('{"type": "ping", "id": 3}')
            assert peer.recv_json()["id"] == 3
        live.hub.stop()
    assert seen == [("config", "/ws"), ("decorated", "/ws"), ("ab", "/ws")]


@pytest.mark.parametrize(
    ("key", "value"),
    [("WS_HUB_AUTHENTICATOR", lambda environ: AuthResult(False)), ("WS_HUB_PATH", "/live")],
)
def test_a_key_that_is_set_too_late_is_an_error_and_not_ignored(
    make: Make, key: str, value: object
) -> None:
    app, extension = make()
    app.config[key] = value
    with pytest.raises(ConfigError, match="set it before"):
        app.test_client().get("/")
    assert not extension.hub.running


@pytest.mark.parametrize("misplaced", [Hub(), HubConfig()])
def test_a_hub_or_its_settings_in_the_place_of_the_path_are_refused(misplaced: Any) -> None:
    with pytest.raises(TypeError, match="hub=Hub"):
        HubExtension(None, misplaced)


def test_a_page_of_an_allowed_origin_may_load_the_scripts() -> None:
    app = flask.Flask(__name__)
    page = "http://127.0.0.1:3000"
    app.config["WS_HUB_ALLOWED_ORIGINS"] = [page]
    HubExtension(app)
    client = app.test_client()
    scripts = "ws_hub.js", "ws_hub_log.js", "ws_hub/ws_hub_log.js", "ws_hub_shared.js"
    for name in (*scripts, "ws_hub_state.js", "ws_hub_requests.js", "ws_hub_presence.js"):
        path = f"/{name}"
        answer = client.get(path, headers={"Origin": page})
        assert answer.headers["Access-Control-Allow-Origin"] == page, path
        other = client.get(path, headers={"Origin": "http://127.0.0.1:4000"})
        assert "Access-Control-Allow-Origin" not in other.headers, path
    app.extensions["ws_hub"].hub.stop()


@pytest.mark.parametrize("swapped", [True, False])
def test_an_extension_for_something_else_than_an_application_says_so(swapped: bool) -> None:
    app, hub = flask.Flask(__name__), Hub()
    arguments: Any = (hub, app) if swapped else (hub,)
    with pytest.raises(TypeError, match=r"takes the Flask application first, not <ws_hub.*hub=hub"):
        HubExtension(*arguments)
