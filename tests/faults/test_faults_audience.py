"""Who a message goes to, what it says, and in what form one may come.

Rows 106, 107, 112 and 113 of the list of faults.
"""

from __future__ import annotations

import contextlib
import enum
import json
import logging
import uuid
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import pytest
from flask import Flask

from tests.integration.apps.live import Live, live, subscribe
from tests.support import BINARY, without_usage
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
    ReconnectingClient,
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
    "listen": lambda hub, to: hub.listen(to, lambda message: None),
    "log_handler": lambda hub, to: hub.log_handler(to),
    "subscribe": lambda hub, to: hub.subscribe(hub.all_clients()[0], to),
    "wait_for_room": lambda hub, to: hub.wait_for_room(to, 0.1),
}
TO_A_PROCESS: dict[str, Callable[[Hub, Any], object]] = {
    "send_process_output": lambda hub, to: hub.send_process_output(to, "x"),
    "send_process_lines": lambda hub, to: hub.send_process_lines(to, ["x"]),
    "send_process_status": lambda hub, to: hub.send_process_status(to, "running"),
    "process_channel": lambda hub, to: hub.process_channel(to),
    "writer": lambda hub, to: print("x", file=hub.writer(to)),
    "run_process": lambda hub, to: hub.run_process(["true"], to),
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


NO_PROCESS: list[Any] = [None, "", False, True, b"", b"x", 4.0, "a b"]


@pytest.mark.parametrize("unset", NO_PROCESS, ids=repr)
@pytest.mark.parametrize("method", TO_A_PROCESS)
def test_fault_106_a_process_that_is_not_set_is_refused(hub: Live, method: str, unset: Any) -> None:
    if (method, unset) != ("run_process", None):  # which makes an id up
        nothing_was_sent(hub, lambda: TO_A_PROCESS[method](hub.hub, unset))


NO_USER: list[Any] = [None, "", False, True, b"", b"ann", 4.0, " ", "\n", "a\nb", "\x00", ["ann"]]


@pytest.mark.parametrize("unset", NO_USER, ids=repr)
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
@pytest.mark.parametrize("method", [*TO_A_CHANNEL, *TO_A_USER, *TO_A_PROCESS])
def test_fault_106_falsy_name_does_not_mean_all_clients(hub: Live, method: str, name: str) -> None:
    with hub.peer() as peer:
        hub.client()
        with contextlib.suppress(TypeError, InvalidName):
            made: Any = (TO_A_CHANNEL | TO_A_USER | TO_A_PROCESS)[method](hub.hub, name)
            getattr(made, "close", lambda: None)()
        hub.hub.send_event("marker")
        assert peer.recv_json()["data"]["event"] == "marker"


ABOUT_A_CHANNEL: dict[str, Callable[[Hub, Any], object]] = {
    **TO_A_CHANNEL,
    "unsubscribe": lambda hub, to: hub.unsubscribe(hub.all_clients()[0], to),
    "clients": lambda hub, to: hub.clients(to),
    "channel_subscriber_count": lambda hub, to: hub.channel_subscriber_count(to),
    "has_subscribers": lambda hub, to: hub.has_subscribers(to),
}


@pytest.mark.parametrize("unset", [None, False, 0, 5.0, b"x", ["x"]], ids=repr)
@pytest.mark.parametrize("method", ABOUT_A_CHANNEL)
def test_fault_106_a_channel_that_is_no_text_is_a_type_error(
    hub: Live, method: str, unset: Any
) -> None:
    with hub.peer():
        hub.client()
        with pytest.raises(TypeError, match="channel must be the name of a channel"):
            ABOUT_A_CHANNEL[method](hub.hub, unset)


@pytest.mark.parametrize("unset", [None, 5, b"x"], ids=repr)
def test_fault_106_a_client_of_our_own_names_channels_by_text_too(unset: Any) -> None:
    client = ReconnectingClient("ws://127.0.0.1:1/ws")
    for act in (client.subscribe, client.unsubscribe):
        with pytest.raises(TypeError, match="channel must be the name of a channel"):
            act(unset)


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


# --- 107: ids that are numbers ---------------------------------------------------------------


class Number(enum.IntEnum):
    ANN = 42


class Named(enum.StrEnum):
    ANN = "42"


ANN = uuid.UUID(int=42)
# What an application may have as the key of a user, and the text that it means.
IDS = [(42, "42"), (0, "0"), (-1, "-1"), (Number.ANN, "42"), (Named.ANN, "42"), (ANN, str(ANN))]


def each_id(test: Any) -> Any:
    return pytest.mark.parametrize(("key", "text"), IDS, ids=repr)(test)


def as_user(key: Any) -> Callable[[Mapping[str, Any]], AuthResult]:
    return lambda environ: AuthResult(True, key)


@each_id
def test_fault_107_a_user_id_that_is_a_number_means_its_text(key: Any, text: str) -> None:
    with live(authenticator=as_user(key)) as hub, hub.peer() as peer:
        client = hub.client()
        assert client.user_id == text and type(client.user_id) is str
        for same in (key, text):
            hub.hub.send_to_user(same, Message("event", data=repr(same)))
            assert peer.recv_json()["data"] == repr(same)
            assert hub.hub.user_clients(same) == [client]
        assert hub.hub.disconnect(key, 4401) == 1
        assert peer.recv_close() == (4401, "")


@each_id
def test_fault_107_the_user_of_a_key_may_be_a_number(key: Any, text: str) -> None:
    with live(authenticator=APIKeyAuth({"secret": key})) as hub:
        with hub.peer(headers=[("Authorization", "Bearer secret")]):
            assert hub.client().user_id == text


def test_fault_107_a_key_of_nobody_is_a_setting_that_is_refused() -> None:
    for none in (None, True, b"ann", ""):
        keys: Any = {"secret": none}
        with pytest.raises(ConfigError, match="user id"):
            APIKeyAuth(keys)


@pytest.mark.parametrize("none", [True, False, 4.0, b"42", ["42"]], ids=repr)
def test_fault_107_the_error_says_what_to_pass(hub: Live, none: Any) -> None:
    for act in (
        lambda: AuthResult(True, none),
        *(lambda act=act: act(hub.hub, none) for act in (TO_A_USER | TO_A_PROCESS).values()),
    ):
        with pytest.raises(TypeError, match="must be text, an int or a UUID, not "):
            act()


@each_id
def test_fault_107_a_process_id_that_is_a_number_means_its_text(key: Any, text: str) -> None:
    channel = f"process:{text}"
    with live() as hub, hub.subscribed(channel) as peer:
        hub.hub.send_process_output(key, "output")
        hub.hub.send_process_lines(key, ["lines"])
        hub.hub.send_process_status(key, "running")
        print("printed", file=hub.hub.writer(key))
        process = hub.hub.run_process(["echo", "run"], key)
        assert process.process_id == text and process.wait(15) == 0
        told = [peer.recv_json() for _ in range(7)]
        assert {(each["channel"], each["processId"]) for each in told} == {(channel, text)}
        told[-1]["data"] = without_usage(told[-1]["data"])
        assert [each["data"] for each in told] == [
            "output", "lines", {"status": "running"}, "printed",
            {"status": "running"}, "run", {"status": "exited", "exitCode": 0},
        ]  # fmt: skip
        assert hub.hub.process_channel(key) == channel


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
        assert json.dumps(
            [without_usage(peer.recv_json()["data"]) for _ in range(2)]
        ) == json.dumps([{"status": "running"}, {"status": "exited", "exitCode": 0}])
        for refused in ("b", ""):
            with pytest.raises(InvalidName):
                hub.hub.send_process_output(refused, "line")
