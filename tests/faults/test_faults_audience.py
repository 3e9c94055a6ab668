"""Who a message goes to, what it says, and in what form one may come.

Rows 106, 112 and 113 of the list of faults.
"""

from __future__ import annotations

import contextlib
import json
import logging
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from flask import Flask

from tests.integration.apps.live import Live, live, subscribe
from tests.support import BINARY
from ws_hub import (
    APIKeyAuth,
    AuthResult,
    ChannelRule,
    Client,
    ConfigError,
    Hub,
    InvalidName,
    Message,
    MessageEncodeError,
)
from ws_hub.access.authenticators import authenticate
from ws_hub.flask import FlaskSessionAuth
from ws_hub.protocol.message import is_timestamp
from ws_hub.server.viewer import page_app

# --- 106: an unset variable is not everybody -------------------------------------------------

UNSET: list[Any] = [None, "", 0, False, b""]

TO_A_CHANNEL: dict[str, Callable[[Hub, Any], object]] = {
    "send_event": lambda hub, to: hub.send_event("x", 1, channel=to),
    "send_error": lambda hub, to: hub.send_error("x", channel=to),
    "send_to_channel": lambda hub, to: hub.send_to_channel(to, Message("event")),
    "send_process_output": lambda hub, to: hub.send_process_output(to, "x"),
    "send_process_lines": lambda hub, to: hub.send_process_lines(to, ["x"]),
    "send_process_status": lambda hub, to: hub.send_process_status(to, "running"),
    "listen": lambda hub, to: hub.listen(to, lambda message: None),
    "log_handler": lambda hub, to: hub.log_handler(to),
    "writer": lambda hub, to: hub.writer(to),
    "subscribe": lambda hub, to: hub.subscribe(hub.all_clients()[0], to),
    "wait_for_room": lambda hub, to: hub.wait_for_room(to, 0.1),
}
TO_A_USER: dict[str, Callable[[Hub, Any], object]] = {
    "send_to_user": lambda hub, to: hub.send_to_user(to, Message("event")),
    "disconnect": lambda hub, to: hub.disconnect(to),
    "user_clients": lambda hub, to: hub.user_clients(to),
}


@pytest.fixture
def hub() -> Iterator[Live]:
    with live() as made:
        yield made


def nothing_was_sent(hub: Live, act: Callable[[], object]) -> None:
    """Do what must be refused; a client sees what is broadcast afterwards, and nothing before."""
    with hub.peer() as peer:
        hub.client()
        with pytest.raises((TypeError, InvalidName)):
            act()
        hub.hub.send_event("marker")
        assert peer.recv_json()["data"]["event"] == "marker"


@pytest.mark.parametrize("unset", UNSET, ids=repr)
@pytest.mark.parametrize("method", TO_A_CHANNEL)
@pytest.mark.parametrize("rule", ["of the protocol", "of its own"])
def test_fault_106_a_channel_that_is_not_set_is_refused(method: str, unset: Any, rule: str) -> None:
    settings = {} if rule == "of the protocol" else {"channel_name": lambda name: True}
    with live(**settings) as hub:
        nothing_was_sent(hub, lambda: TO_A_CHANNEL[method](hub.hub, unset))


@pytest.mark.parametrize("unset", [*UNSET, " ", "\n", "a\nb", "\x00"], ids=repr)
@pytest.mark.parametrize("method", TO_A_USER)
def test_fault_106_a_user_that_is_not_set_is_refused(hub: Live, method: str, unset: Any) -> None:
    nothing_was_sent(hub, lambda: TO_A_USER[method](hub.hub, unset))


class Falsy(str):
    """A name that counts as false, as some a library has made."""

    def __bool__(self) -> bool:
        return False


class Sly(str):
    """A name that is empty, and says that it is none such."""

    __hash__ = str.__hash__

    def __bool__(self) -> bool:
        return True

    def __eq__(self, other: object) -> bool:
        return True

    def __ne__(self, other: object) -> bool:
        return True

    def __len__(self) -> int:
        return 7


@pytest.mark.parametrize("name", [Falsy("nobodys"), Sly("")], ids=["false", "true and empty"])
@pytest.mark.parametrize("method", [*TO_A_CHANNEL, *TO_A_USER])
def test_fault_106_falsy_name_does_not_mean_all_clients(hub: Live, method: str, name: str) -> None:
    with hub.peer() as peer:
        hub.client()
        with contextlib.suppress(TypeError, InvalidName):
            made: Any = (TO_A_CHANNEL | TO_A_USER)[method](hub.hub, name)
            getattr(made, "close", lambda: None)()
        hub.hub.send_event("marker")
        assert peer.recv_json()["data"]["event"] == "marker"


@pytest.mark.parametrize("channel", ["x", None, 0, False, b"x", Falsy("x")], ids=repr)
def test_fault_106_a_message_with_a_channel_is_not_broadcast(hub: Live, channel: Any) -> None:
    with hub.peer() as peer:
        hub.client()
        with pytest.raises((InvalidName, MessageEncodeError)):
            hub.hub.broadcast(Message("event", channel=channel))
        hub.hub.broadcast(Message("event", data="marker"))
        assert peer.recv_json()["data"] == "marker"


def test_fault_106_leaving_the_channel_out_means_all_clients(hub: Live) -> None:
    with hub.peer() as peer:
        hub.client()
        hub.hub.send_event("a")
        hub.hub.send_error("b")
        assert [peer.recv_json()["type"] for _ in range(2)] == ["event", "error"]


def test_fault_106_client_cannot_publish_to_all_by_an_empty_name() -> None:
    """A rule for names that allows everything must not allow "", which means everybody."""
    rules = [ChannelRule(pattern="*", publish=True)]
    with live(channel_name=lambda name: True, rules=rules) as hub:
        with hub.peer() as other, hub.peer() as sly:
            for kind, data in (("publish", "all of you"), ("subscribe", ""), ("subscribe", None)):
                sly.send_json({"type": kind, "channel": "", "data": data, "id": kind})
                answer = sly.recv_json()
                assert (answer["type"], answer["id"]) == ("error", kind)
            hub.hub.send_event("marker")
            assert other.recv_json()["data"]["event"] == "marker"


@pytest.mark.parametrize("unset", [None, 0, False, b""], ids=repr)
def test_fault_106_a_page_for_a_channel_that_is_not_set_is_refused(unset: Any) -> None:
    with pytest.raises(TypeError, match="channel"):
        page_app(Hub(), channel=unset)
    with pytest.raises(InvalidName):
        page_app(Hub(), channel="a b")


@pytest.mark.parametrize("user", [True, False, b"ann", "", " ", "a\nb"], ids=repr)
def test_fault_106_invalid_user_in_a_session_is_refused(user: Any) -> None:
    app = Flask("app")
    app.secret_key = "secret"

    class Session:
        def open_session(self, app: Any, request: Any) -> dict[str, Any]:
            return {"user_id": user}

    app.session_interface = Session()  # type: ignore[assignment]
    environ = {"ws_hub.flask": app, "REQUEST_METHOD": "GET", "SERVER_NAME": "x", "SERVER_PORT": "1"}
    environ |= {"wsgi.url_scheme": "http", "PATH_INFO": "/"}
    assert not authenticate(FlaskSessionAuth(), environ).valid


# --- 112: what receivers would drop in silence -----------------------------------------------

DROPPED: list[dict[str, Any]] = [
    {"timestamp": "now"}, {"timestamp": "2026-02-20"}, {"timestamp": "2026-02-20T01:17:56"},
    {"timestamp": "2026-02-20 01:17:56Z"}, {"timestamp": "2026-02-20t01:17:56z"},
    {"timestamp": "2026-13-20T01:17:56Z"}, {"timestamp": 5}, {"timestamp": None},
    {"process_id": "a:b c"}, {"process_id": "a\n"}, {"process_id": "x" * 129}, {"process_id": 5},
    {"type": ""}, {"type": 5}, {"type": None}, {"channel": 5}, {"channel": None},
    {"id": True}, {"id": 1.5}, {"id": ["x"]}, {"seq": "1"}, {"seq": True}, {"since": 1.0},
    {"last": "5"}, {"code": 5}, {"epoch": 5}, {"code": None},
]  # fmt: skip


@pytest.mark.parametrize("fields", DROPPED, ids=str)
def test_fault_112_what_a_receiver_would_drop_is_refused(hub: Live, fields: dict[str, Any]) -> None:
    bad = Message(**{"type": "event", **fields})
    with hub.peer() as peer:
        client = hub.client()
        for send in (
            lambda: hub.hub.broadcast(bad),
            lambda: hub.hub.send_to_user("ann", bad),
            lambda: client.send(bad),
        ):
            with pytest.raises(MessageEncodeError):
                send()
        # Its channel, its number and the time are the hub's to set, where they are not given.
        if not fields.keys() & {"channel", "seq"} and fields != {"timestamp": None}:
            with pytest.raises(MessageEncodeError):
                hub.hub.send_to_channel("a", bad)
        hub.hub.broadcast(Message("event", data="marker"))
        assert peer.recv_json()["data"] == "marker"


@pytest.mark.parametrize(
    "text",
    ["2026-02-20T01:17:56Z", "2026-02-20T01:17:56.123456789+05:45", "0001-01-01T00:00:00Z"],
)
def test_fault_112_times_of_go_are_times(text: str) -> None:
    assert is_timestamp(text)


@pytest.mark.parametrize(
    "user", ["", " ", "\t \n", "a\nb", "a\x00", "a\x1b[31m", "a\u2028b", "\ud800"], ids=repr
)
def test_fault_112_a_user_id_that_is_none_is_refused(
    user: str, caplog: pytest.LogCaptureFixture
) -> None:
    result = authenticate(lambda environ: AuthResult(True, user), {})
    assert not result.valid and "user" in result.error
    assert caplog.record_tuples[-1][1] == logging.ERROR
    with pytest.raises(ConfigError):
        APIKeyAuth({"a key": user})


@pytest.mark.parametrize("user", ["ann", "Ann Lee", "ann@example.com", "安", "👩‍💻", "0"])
def test_fault_112_names_of_people_are_user_ids(user: str) -> None:
    assert authenticate(lambda environ: AuthResult(True, user), {}).user_id == user


# --- 113: old frontends ----------------------------------------------------------------------


def test_fault_113_keys_of_any_case_and_json_in_binary_frames_where_a_setting_says_so() -> None:
    seen: list[Message] = []

    def on_message(client: Client, message: Message) -> object:
        seen.append(message)
        return message.data

    with live(lenient=True, on_message=on_message) as hub, hub.peer() as old:
        text = '{"TYPE":"ask","Data":{"Inner":1},"processID":"b","ID":7}'
        old.send_text(text)
        assert old.recv_json() | {"timestamp": ""} == {
            "type": "ack", "data": {"Inner": 1}, "id": 7, "timestamp": "",
        }  # fmt: skip
        assert (seen[0].type, seen[0].process_id, seen[0].data) == ("ask", "b", {"Inner": 1})
        old.send_frame(BINARY, b'{"Type":"subscribe","Channel":"news","Id":1}')
        assert old.recv_json()["type"] == "ack"
        old.send_text('{"type":"ask","Type":"ping","type":"ping","id":1,"Id":2}')  # the last counts
        assert old.recv_json()["id"] == 2
        for bad in (b"\xff", b"[1]", b"nonsense"):
            old.send_frame(BINARY, bad)
            assert old.recv_json()["code"] == "bad_message"


def test_fault_113_the_first_message_of_an_old_frontend_may_be_its_token() -> None:
    keys = APIKeyAuth({"key": "ann"})
    with live(lenient=True, authenticator=keys, auth_by_message=True) as hub, hub.peer() as old:
        old.send_frame(BINARY, b'{"Type":"auth","DATA":"key","id":1}')
        assert old.recv_json()["data"] == {"user": "ann"}


def test_fault_113_without_the_setting_they_are_refused(hub: Live) -> None:
    with hub.peer() as old:
        old.send_text('{"Type":"ping","id":1}')
        assert old.recv_json()["data"] == "type is required"
        old.send_frame(BINARY, b'{"type":"ping"}')
        assert old.recv_json()["code"] == "bad_message"


def test_fault_113_a_rule_for_names_is_one_for_process_ids_too() -> None:
    def rule(name: str) -> bool:
        return "/" in name or name == "news"

    with live(channel_name=rule) as hub, hub.peer() as peer:
        subscribe(peer, "process:a/b c", since=0)
        hub.hub.send_process_output("a/b c", "line")
        assert peer.recv_json()["processId"] == "a/b c"
        print("printed", file=hub.hub.writer("a/b c"))
        assert peer.recv_json()["data"] == "printed"
        hub.hub.broadcast(Message("event", process_id="a/b c"))
        assert peer.recv_json()["processId"] == "a/b c"
        process = hub.hub.run_process(["true"], "a/b c")
        assert process.wait(5) == 0
        assert json.dumps([peer.recv_json()["data"] for _ in range(2)]) == json.dumps(
            [{"status": "running"}, {"status": "exited", "exitCode": 0}]
        )
        for refused in ("b", "", None):
            with pytest.raises(InvalidName):
                hub.hub.send_process_output(refused, "line")  # type: ignore[arg-type]
