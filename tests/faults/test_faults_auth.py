"""Who may come in, from where, and what they may hear: attacks on it, numbered as in the list.

What is decided without a connection is tried in the unit tests, under its number there.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import threading
import time
from collections.abc import Iterator, Mapping
from typing import Any

import pytest
from werkzeug.serving import make_server

from tests.harness import descriptor_of
from tests.integration.apps.fork import in_child, life_of_its_own
from tests.integration.apps.live import Live, at_once, live, subscribe
from tests.support import TEXT, TIMEOUT, RawPeer, Response, wait_until
from ws_hub import (
    APIKeyAuth,
    AuthResult,
    BearerTokenAuth,
    ChannelRule,
    Client,
    CookieSessionAuth,
    Hub,
    HubConfig,
    MaskTokens,
    Message,
    QueryTokenAuth,
    serve,
)
from ws_hub.access.tokens import token_protocol

KEYS = {"k-ann": "ann", "k-bob": "bob"}
ANN = [("Authorization", "Bearer k-ann")]
BOB = [("Authorization", "Bearer k-bob")]
OWN = "http://127.0.0.1:{port}"


def reader_threads() -> list[str]:
    """Names of the threads of clients that are there, or wait to be."""
    return [each.name for each in threading.enumerate() if each.name.startswith("ws-hub:reader:")]


def answer(hub: Live, *headers: tuple[str, str], path: str = "/ws") -> Response:
    """What a handshake is answered with."""
    with hub.peer(handshake=False, path=path) as peer:
        own = OWN.format(port=hub.server.port)
        filled = [(name, value.replace("OWN", own)) for name, value in headers]
        peer.send_raw(peer.request(filled))
        return peer.read_response()


def session(value: str) -> AuthResult:
    return AuthResult(value == "good", "ann")


# --- 1 to 3: where it comes from -----------------------------------------------------------


def test_fault_01_a_foreign_page_cannot_ride_on_a_cookie() -> None:
    """The stock parts accept every Origin."""
    asked = []

    def authenticator(environ: Mapping[str, Any]) -> AuthResult:
        asked.append(environ)
        return AuthResult(True, "ann")

    with live(authenticator=authenticator) as hub:
        cookie = ("Cookie", "sid=good")
        for origin in ("https://evil.example", "null", "http://127.0.0.1:1"):
            assert answer(hub, cookie, ("Origin", origin)).status == 403
        assert asked == []  # refused before anybody looks at the cookie
        assert hub.hub.stats().foreign_origins == 3
        assert answer(hub, cookie, ("Origin", "OWN")).status == 101


def test_fault_02_a_cookie_without_an_origin_is_refused_and_a_token_is_not() -> None:
    def either(environ: Mapping[str, Any]) -> AuthResult:
        found = CookieSessionAuth("sid", session)(environ)
        return found if found.valid else APIKeyAuth(KEYS)(environ)

    with live(authenticator=either) as hub:
        cookie = ("Cookie", "sid=good")
        assert answer(hub, cookie).status == 403
        assert answer(hub, cookie, path="/ws?token=x").status == 403
        assert answer(hub, cookie, *ANN).status == 403
        assert answer(hub, cookie, ("Origin", "OWN")).status == 101
        assert answer(hub, *ANN).status == 101
        assert hub.hub.stats().foreign_origins == 3
    with live(authenticator=either, require_origin=True) as hub:
        assert answer(hub, *ANN).status == 403
        assert answer(hub, *ANN, ("Origin", "OWN")).status == 101


def test_fault_03_two_origin_headers_are_none() -> None:
    with live(allowed_origins=["https://good.example"]) as hub:
        good = ("Origin", "https://good.example")
        assert answer(hub, good).status == 101
        assert answer(hub, good, good).status == 403
        assert answer(hub, good, ("Origin", "https://evil.example")).status == 403
        assert answer(hub, ("Origin", "https://good.ex\tample")).status == 403


def test_fault_03_a_check_of_ones_own_decides_alone_and_an_error_refuses(
    caplog: pytest.LogCaptureFixture,
) -> None:
    verdicts = {"https://yes.example": True, "https://truthy.example": 1}

    def check(environ: Mapping[str, Any]) -> Any:
        return verdicts[environ["HTTP_ORIGIN"]]

    with live(check_origin=check) as hub:
        assert answer(hub, ("Origin", "https://yes.example")).status == 101
        assert answer(hub, ("Origin", "https://truthy.example")).status == 403
        assert answer(hub, ("Origin", "OWN")).status == 403
        assert answer(hub).status == 403
        assert hub.hub.stats().foreign_origins == 3
    assert caplog.text.count("check_origin raised KeyError") == 2


# --- authentication at the handshake -------------------------------------------------------


def test_without_credentials_each_client_is_refused_and_reported() -> None:
    failures: list[tuple[str, str]] = []

    def failed(environ: Mapping[str, Any], result: AuthResult) -> None:
        failures.append((environ["PATH_INFO"], result.error))
        raise OSError("on purpose")

    with live(authenticator=APIKeyAuth(KEYS), on_auth_failure=failed) as hub:
        refused = answer(hub)
        assert (refused.status, refused.body) == (401, b"Unauthorised\n")
        assert refused.headers["www-authenticate"] == "Bearer"
        refused = answer(hub, ("Authorization", "Bearer wrong"))
        assert refused.status == 401
        assert refused.headers["www-authenticate"] == 'Bearer error="invalid_token"'
        assert failures == [("/ws", "no token"), ("/ws", "unknown key")]
        assert hub.hub.stats().unauthenticated == 2
        with hub.peer(headers=ANN):
            client = hub.client()
            assert (client.user_id, dict(client.claims)) == ("ann", {})


def test_admission_checks_the_hub_then_the_origin_then_the_user() -> None:
    asked = []
    hub = Hub(HubConfig(authenticator=asked.append, allowed_origins=["https://good.example"]))
    with serve(hub) as server:
        made = Live(hub, server, None)  # type: ignore[arg-type]  # nothing is noted
        evil = ("Origin", "https://evil.example")
        assert (answer(made, evil).status, asked) == (403, [])
        assert answer(made).status == 401
        assert len(asked) == 1
        hub.stop()
        assert answer(made, evil).status == 503
        assert len(asked) == 1


@pytest.mark.parametrize(
    ("result", "status"),
    [
        (AuthResult(False, "ann", forbidden=True, error="suspended"), 403),
        (AuthResult(False, "ann"), 401),
        (AuthResult(True, ""), 401),
        (AuthResult(True, "ann", {"exp": 1}), 401),
        (AuthResult(True, "ann", {"exp": 1 << 40}), 101),
        ("ann", 401),
        (None, 401),
    ],
)
def test_what_an_authenticator_finds_is_answered_in_kind(result: Any, status: int) -> None:
    with live(authenticator=lambda environ: result) as hub:
        found = answer(hub)
        assert found.status == status
        assert ("www-authenticate" in found.headers) == (status == 401)


def test_an_authenticator_that_raises_is_401_and_one_line(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.WARNING)
    users: dict[str, AuthResult] = {}
    with live(authenticator=BearerTokenAuth(lambda token: users[token])) as hub:
        assert answer(hub, ("Authorization", "Bearer s3cret")).status == 401
    (record,) = caplog.records
    assert "the authenticator raised KeyError at " in record.getMessage()
    assert "s3cret" not in caplog.text


def test_a_browser_hands_over_its_token_as_a_subprotocol_and_never_gets_it_back() -> None:
    with live(authenticator=APIKeyAuth(KEYS)) as hub:
        token = token_protocol("k-ann")
        found = answer(hub, ("Sec-WebSocket-Protocol", f"ws-hub, {token}"))
        assert (found.status, found.headers["sec-websocket-protocol"]) == (101, "ws-hub")
        found = answer(hub, ("Sec-WebSocket-Protocol", token))
        assert found.status == 101 and "sec-websocket-protocol" not in found.headers
        assert answer(hub, ("Sec-WebSocket-Protocol", "ws-hub, bearer.eA")).status == 401


# --- 8: a first message --------------------------------------------------------------------


@contextlib.contextmanager
def waiting(**settings: Any) -> Iterator[Live]:
    settings.setdefault("authenticator", APIKeyAuth(KEYS))
    with live(auth_by_message=True, **settings) as made:
        yield made


def introduce(peer: RawPeer, token: str, **more: Any) -> None:
    peer.send_json({"type": "auth", "data": token, **more})


def test_first_message_authenticates_and_the_next_ones_are_handled() -> None:
    with waiting() as hub, hub.peer() as peer:
        hub.hub.broadcast(Message("event", data="before"))
        wait_until(lambda: hub.hub.stats().published == 1)
        introduce(peer, "k-ann", id=1)
        peer.send_json({"type": "subscribe", "channel": "news", "id": 2})
        got = peer.recv_json()
        assert (got["type"], got["id"], got["data"]) == ("ack", 1, {"user": "ann"})
        assert peer.recv_json()["id"] == 2
        assert hub.client().user_id == "ann"
        assert hub.notes.next()[0] == "connect"
        hub.hub.send_to_user("ann", Message("event", data="after"))
        assert peer.recv_json()["data"] == "after"  # and nothing from before
        assert peer.close() == (1000, "")
        assert hub.notes.end()[0] == 1000


def test_fault_08_pending_client_counts_nowhere() -> None:
    with waiting() as hub, hub.peer() as peer:
        assert hub.hub.client_count() == 0 and hub.hub.channel_count() == 0
        assert hub.notes.seen == []
        peer.send_close(1000)
        assert peer.recv_close()[0] == 1000
        wait_until(lambda: not reader_threads())
    assert hub.notes.seen == []  # it never connected, so it never left


@pytest.mark.parametrize(
    "first",
    [
        '{"type":"subscribe","channel":"news"}',
        '{"type":"ping"}',
        '{"type":"auth"}',
        '{"type":"auth","data":["k-ann"]}',
        '{"type":"auth","data":"k-eve"}',
        "k-ann",
        "{",
        "",
    ],
)
def test_fault_08_any_other_first_message_is_the_last(first: str) -> None:
    with waiting() as hub, hub.peer() as peer:
        # What stands behind it in the same packet is not looked at any more.
        pipelined = peer.frame(TEXT, b'{"type":"auth","data":"k-ann"}')
        peer.send_raw(peer.frame(TEXT, first.encode()) + pipelined)
        assert peer.recv_close()[0] == 4401
        peer.send_close(4401)
        assert peer.recv_eof() == b""
        assert hub.hub.stats().connected == 0 and hub.notes.seen == []


def test_fault_08_a_binary_first_message_is_the_last() -> None:
    with waiting() as hub, hub.peer() as peer:
        peer.send_frame(0x2, b'{"type":"auth","data":"k-ann"}')
        assert peer.recv_close()[0] == 4401


def test_fault_08_silent_pending_client_is_closed_in_time_and_holds_nothing() -> None:
    before = threading.active_count()
    with waiting(auth_timeout=0.2) as hub:
        base = threading.active_count()
        with hub.peer() as mute, hub.peer() as chatty:
            chatty.send_frame(0x9, b"still here")  # a sign of life is no introduction
            for peer in (mute, chatty):
                assert peer.recv_close() == (4401, "no token in time")
        wait_until(lambda: threading.active_count() <= base)
        assert hub.hub.client_count() == 0
        assert hub.hub.stats().auth_timeouts == 2
    assert threading.active_count() <= before


def test_fault_08_what_it_may_send_before_is_bounded() -> None:
    with waiting(max_message_size=1024) as hub, hub.peer() as peer:
        peer.send_frame(TEXT, b"x" * 1025)
        assert peer.recv_close()[0] == 1009


def test_fault_08_pending_clients_count_among_max_connections() -> None:
    with waiting(max_connections=2) as hub, hub.peer(headers=ANN), hub.peer() as second:
        assert answer(hub).status == 503
        introduce(second, "k-bob", id=1)
        assert second.recv_json()["type"] == "ack"
        assert hub.hub.client_count() == 2


def test_a_bad_token_in_the_handshake_is_not_waited_for() -> None:
    with waiting() as hub:
        assert answer(hub, ("Authorization", "Bearer wrong")).status == 401
        assert answer(hub, ("Sec-WebSocket-Protocol", token_protocol("wrong"))).status == 401
        assert answer(hub, path="/ws?token=wrong").status == 401


def test_known_user_without_permission_is_closed_with_4403() -> None:
    failures = []

    def validate(token: str) -> AuthResult:
        return AuthResult(False, "eve", forbidden=True, error="suspended")

    def failed(environ: Mapping[str, Any], result: AuthResult) -> None:
        failures.append(result.error)

    with waiting(authenticator=BearerTokenAuth(validate), on_auth_failure=failed) as hub:
        with hub.peer() as peer:
            introduce(peer, "k-eve")
            assert peer.recv_close() == (4403, "forbidden")
        assert failures == ["suspended"] and hub.hub.stats().unauthenticated == 1


def test_fault_40_pending_connection_belongs_to_the_parent_alone() -> None:
    def child() -> None:
        with pytest.raises(OSError):
            os.fstat(descriptor)
        life_of_its_own(Hub())

    with waiting() as hub, hub.peer() as peer:
        descriptor = descriptor_of(peer.sock)
        in_child(child)
        introduce(peer, "k-ann", id=1)
        assert peer.recv_json()["type"] == "ack"


def test_stop_closes_pending_clients_with_1001() -> None:
    with waiting() as hub, hub.peer() as peer:
        hub.hub.stop()
        assert peer.recv_close()[0] == 1001


# --- 51: addresses -------------------------------------------------------------------------


def test_fault_51_a_forwarded_address_counts_only_from_a_trusted_proxy() -> None:
    spoofed = ("X-Forwarded-For", "9.9.9.9, 203.0.113.7")
    with live() as hub, hub.peer(headers=[spoofed]):
        assert hub.client().remote_address.startswith("127.0.0.1:")
    with live(trusted_proxies=["127.0.0.0/8"]) as hub, hub.peer(headers=[spoofed]):
        assert hub.client().remote_address == "203.0.113.7"
    with live(trusted_proxies=["127.0.0.1"]) as hub:
        # What WSGI would take for the same header.
        with hub.peer(headers=[spoofed, ("X_Forwarded_For", "6.6.6.6")]):
            assert hub.client().remote_address == "203.0.113.7"


def test_fault_51_scheme_and_host_of_a_trusted_proxy_are_the_requests_own() -> None:
    told = [("X-Forwarded-Proto", "https"), ("X-Forwarded-Host", "app.example")]
    secure, plain = ("Origin", "https://app.example"), ("Origin", "http://app.example")
    with live(trusted_proxies=["127.0.0.1"]) as hub:
        assert answer(hub, *told, secure).status == 101
        assert answer(hub, *told, plain).status == 403
        assert answer(hub, *told, ("Origin", "OWN")).status == 403
    with live() as hub:
        assert answer(hub, *told, secure).status == 403


# --- 52 and 54: logs -----------------------------------------------------------------------


def test_fault_52_no_log_line_of_ours_has_a_token(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    failing = QueryTokenAuth(lambda token: AuthResult(False, error="unknown"))
    with live(authenticator=failing) as hub:
        assert answer(hub, path="/ws?a=1&token=s3cret%21").status == 401
        assert answer(hub, path="/elsewhere?token=s3cret").status == 404
        assert answer(hub, ("Authorization", "Bearer s3cret")).status == 401
        assert answer(hub, ("Sec-WebSocket-Protocol", token_protocol("s3cret"))).status == 401
    with waiting() as hub, hub.peer() as peer:
        introduce(peer, "s3cret")
        assert peer.recv_close()[0] == 4401
    assert "/elsewhere?***" in caplog.text
    assert "s3cret" not in caplog.text and token_protocol("s3cret")[7:] not in caplog.text


def test_fault_54_what_a_peer_sends_is_escaped_in_the_log(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.DEBUG)
    evil = "\x1b[31mred\x07"
    refusing = BearerTokenAuth(lambda token: AuthResult(False, error=token))
    with live(authenticator=refusing, trusted_proxies=["127.0.0.1"]) as hub:
        headers = [("Origin", evil), ("User-Agent", evil), ("X-Forwarded-For", evil)]
        assert answer(hub, *headers).status == 403
        assert answer(hub, ("Authorization", f"Bearer {evil}")).status == 401
    with live() as hub, hub.peer() as peer:
        peer.send_json({"type": "subscribe", "channel": f"a{evil}\r\nb", "id": 1})
        assert peer.recv_json()["code"] == "bad_channel"
        peer.send_json({"type": f"x{evil}\r\n", "id": 2})
        assert "\\x1b" in peer.recv_json()["data"]
        peer.close(1000, evil)
        hub.empty()
    assert "\\x1b[31mred" in caplog.text  # it was there, and could not be read as a command
    for record in caplog.records:
        assert record.getMessage().isprintable(), record


# --- 55: the end of a right ----------------------------------------------------------------


def test_fault_55_disconnect_closes_every_connection_of_a_user() -> None:
    with live(authenticator=APIKeyAuth(KEYS)) as hub:
        with (
            hub.peer(headers=ANN) as one,
            hub.peer(headers=ANN) as two,
            hub.peer(headers=BOB) as other,
        ):
            wait_until(lambda: hub.hub.client_count() == 3)
            assert len(hub.hub.user_clients("ann")) == 2
            assert hub.hub.disconnect(user_id="ann", reason="revoked") == 2
            for peer in (one, two):
                assert peer.recv_close() == (4401, "revoked")
                peer.send_close(4401)
            wait_until(lambda: hub.hub.client_count() == 1)
            assert hub.hub.user_clients("ann") == []
            assert hub.hub.disconnect("ann") == 0
            hub.hub.broadcast(Message("event", data="still here"))
            assert other.recv_json()["data"] == "still here"
            with pytest.raises(ValueError, match="1006"):
                hub.hub.disconnect("bob", 1006)


def test_fault_55_disconnect_reaches_a_user_during_its_handshake() -> None:
    asked, revoked = threading.Event(), threading.Event()

    def authenticator(environ: Mapping[str, Any]) -> AuthResult:
        result = APIKeyAuth(KEYS)(environ)
        asked.set()
        assert revoked.wait(TIMEOUT)
        return result  # as it was when it was asked

    with live(authenticator=authenticator) as hub, hub.peer(handshake=False) as peer:
        peer.send_raw(peer.request(ANN))
        assert asked.wait(TIMEOUT)
        assert hub.hub.disconnect("ann") == 0
        revoked.set()
        assert peer.read_response().status == 101
        assert peer.recv_close()[0] == 4401


def test_fault_55_disconnected_user_may_return_with_a_new_token() -> None:
    with waiting() as hub, hub.peer() as peer:
        assert hub.hub.disconnect("ann") == 0
        introduce(peer, "k-ann", id=1)
        assert peer.recv_json()["type"] == "ack"
        hub.hub.send_to_user("ann", Message("event", data="welcome back"))
        assert peer.recv_json()["data"] == "welcome back"


def test_fault_55_a_connection_ends_with_its_token() -> None:
    end = time.time() + 0.3
    with live(authenticator=lambda environ: AuthResult(True, "ann", {"exp": end})) as hub:
        with hub.peer() as peer:
            assert hub.client().expires_at == end
            assert peer.recv_close() == (4401, "authentication is over")
            assert time.time() >= end
        assert hub.notes.end()[0] == 4401
        assert (hub.hub.stats().expired, hub.hub.stats().auth_timeouts) == (1, 0)


def test_fault_55_a_right_that_is_taken_away_ends_the_subscription() -> None:
    allowed = {"a", "b"}

    def may(client: Client, channel: str) -> bool:
        return channel in allowed

    with live(channel_authoriser=may) as hub, hub.subscribed("a", "b") as peer:
        client = hub.client()
        assert hub.hub.recheck(client) == []
        allowed.remove("a")
        assert hub.hub.recheck(client) == ["a"]
        hub.hub.send_to_channel("a", Message("event", data="secret"))
        hub.hub.send_to_channel("b", Message("event", data="open"))
        told = peer.recv_json()
        assert (told["type"], told["code"], told["channel"]) == ("error", "forbidden", "a")
        assert peer.recv_json()["data"] == "open"
        assert client.subscriptions() == ["b"]


def test_fault_55_a_right_that_goes_while_it_is_asked_about_does_not_stay() -> None:
    asked, gone = threading.Event(), threading.Event()
    answers = [True, False]

    def may(client: Client, channel: str) -> bool:
        found = answers.pop(0)
        if found:
            asked.set()
            assert gone.wait(TIMEOUT)
        return found

    with live(channel_authoriser=may) as hub, hub.peer() as peer:
        client = hub.client()
        peer.send_json({"type": "subscribe", "channel": "a", "id": 1})
        assert asked.wait(TIMEOUT)
        assert hub.hub.recheck(client) == []  # not there yet: nothing to end
        gone.set()
        while (got := peer.recv_json())["type"] != "error":
            assert got["type"] == "ack"
        assert (got["code"], got["channel"]) == ("forbidden", "a")
        assert client.subscriptions() == [] and answers == []


# --- 56: what they may hear and say --------------------------------------------------------


def test_fault_56_a_subscription_without_a_right_is_refused_in_the_words_of_go(
    caplog: pytest.LogCaptureFixture,
) -> None:
    def may(client: Client, channel: str) -> Any:
        assert threading.current_thread().name == f"ws-hub:reader:{client.id}"
        return {"open": True, "own": client.user_id == "ann", "odd": 1}[channel]

    first = []
    with live(
        authenticator=APIKeyAuth(KEYS), channel_authoriser=may, on_first_subscriber=first.append
    ) as hub:
        with hub.peer(headers=ANN) as ann, hub.peer(headers=BOB) as bob:
            for channel in ("own", "open"):
                subscribe(ann, channel)
            for number, channel in enumerate(("own", "odd", "none")):
                bob.send_json({"type": "subscribe", "channel": channel, "id": number})
                got = bob.recv_json()
                assert got.pop("timestamp")
                assert got == {
                    "type": "error",
                    "channel": channel,
                    "data": "Subscribe: subscription unauthorised",
                    "id": number,
                    "code": "forbidden",
                }
            bob.send_json({"type": "subscribe", "channel": "own"})  # as an old frontend does
            assert "id" not in bob.recv_json()
            hub.hub.send_to_channel("own", Message("event", data="for ann"))
            assert ann.recv_json()["data"] == "for ann"
            subscribe(bob, "open")  # and nothing of "own" came before this ack
        wait_until(lambda: first == ["own", "open"])  # who may not, wakes no producer
    assert "KeyError" in caplog.text and hub.hub.stats().callback_errors >= 1


def test_fault_56_publishing_takes_a_rule_and_a_right() -> None:
    def may(client: Client, channel: str) -> bool:
        return client.user_id == "ann"

    with live(
        authenticator=APIKeyAuth(KEYS),
        publish_authoriser=may,
        rules=[ChannelRule(pattern="chat", publish=True)],
    ) as hub:
        with hub.peer(headers=ANN) as ann, hub.peer(headers=BOB) as bob:
            for peer, channel, kind in (
                (bob, "chat", "error"),
                (ann, "other", "error"),
                (ann, "chat", "ack"),
            ):
                peer.send_json({"type": "publish", "channel": channel, "data": 1, "id": 9})
                got = peer.recv_json()
                assert got["type"] == kind
                assert kind == "ack" or got["code"] == "forbidden"


def test_a_user_gets_a_message_in_every_tab_at_its_place_among_the_others() -> None:
    with live(authenticator=APIKeyAuth(KEYS)) as hub:
        with (
            hub.peer(headers=ANN) as one,
            hub.peer(headers=ANN) as two,
            hub.peer(headers=BOB) as other,
        ):
            wait_until(lambda: hub.hub.client_count() == 3)
            for number in range(20):
                hub.hub.broadcast(Message("event", data=number))
                hub.hub.send_to_user("ann", Message("event", data=f"{number} for you"))
            hub.hub.send_to_user("nobody", Message("event", data="lost"))
            expected = [each for n in range(20) for each in (n, f"{n} for you")]
            for peer in (one, two):
                assert [peer.recv_json()["data"] for _ in range(40)] == expected
            assert [other.recv_json()["data"] for _ in range(20)] == list(range(20))


def test_what_a_token_says_is_read_only_at_the_client() -> None:
    known = {"roles": ["viewer"]}
    with live(authenticator=lambda environ: AuthResult(True, "ann", known)) as hub, hub.peer():
        client = hub.client()
        known["roles"].append("admin")
        assert json.dumps(client.claims["roles"]) == '["viewer"]'
        with pytest.raises(TypeError):
            client.claims["roles"] = ()  # type: ignore[index]  # that is the point


def test_fault_52_the_access_log_of_werkzeug_has_no_token_either(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Werkzeug writes down the whole path, as gunicorn does."""
    caplog.set_level(logging.INFO)
    hub = Hub(HubConfig(authenticator=QueryTokenAuth(lambda token: AuthResult(False))))
    access, mask = logging.getLogger("werkzeug"), MaskTokens()
    access.addFilter(mask)
    site = make_server("127.0.0.1", 0, hub.handler())
    try:
        with hub, at_once(site.handle_request):
            with RawPeer("127.0.0.1", site.port, "/ws?token=s3cret", handshake=False) as peer:
                peer.send_raw(peer.request())
                assert peer.read_response().status == 401
    finally:
        access.removeFilter(mask)
        site.server_close()
    assert "GET /ws?token=*** HTTP/1.1" in caplog.text and "s3cret" not in caplog.text
