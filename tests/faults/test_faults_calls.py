"""Fault 108: a call with an argument of the wrong type works, or says at once what to pass."""

from __future__ import annotations

import importlib
import pickle
import types
import urllib.request
from collections.abc import Callable, Iterator
from typing import Any

import pytest

import ws_hub
from tests.integration.apps.live import Live, live
from tests.support import TIMEOUT, RawPeer, wait_until
from ws_hub import (
    AuthResult,
    ChannelRule,
    Client,
    ConfigError,
    ConnectionState,
    Hub,
    HubConfig,
    Message,
    MessageEncodeError,
    MessageType,
    ProcessAlreadyRunning,
    ReconnectConfig,
    ReconnectingClient,
    middleware,
    serve,
)
from ws_hub.server.viewer import page_app

# --- a mapping with a type is a message ------------------------------------------------------

Send = Callable[[Live, Any], object]

SENDS: dict[str, Send] = {
    "broadcast": lambda hub, message: hub.hub.broadcast(message),
    "send_to_channel": lambda hub, message: hub.hub.send_to_channel("news", message),
    "send_to_user": lambda hub, message: hub.hub.send_to_user("ann", message),
    "client.send": lambda hub, message: hub.client().send(message),
}


@pytest.fixture
def hub() -> Iterator[Live]:
    with live(authenticator=lambda environ: AuthResult(True, "ann")) as made:
        yield made


@pytest.fixture
def peer(hub: Live) -> Iterator[RawPeer]:
    with hub.subscribed("news") as made:
        yield made


def received(peer: RawPeer) -> dict[str, Any]:
    message: dict[str, Any] = peer.recv_json()
    del message["timestamp"]
    return message


@pytest.mark.parametrize("send", SENDS)
@pytest.mark.parametrize("name", ["processId", "process_id"])
def test_fault_108_a_mapping_with_a_type_is_a_message(
    hub: Live, peer: RawPeer, send: str, name: str
) -> None:
    fields = {"type": MessageType.EVENT, "data": {"a": 1}, name: "build", "id": 7, "code": "c"}
    SENDS[send](hub, types.MappingProxyType(fields))
    channel = {"channel": "news"} if send == "send_to_channel" else {}
    assert received(peer) == {
        "type": "event", "data": {"a": 1}, "processId": "build", "id": 7, "code": "c", **channel
    }  # fmt: skip


NO_MESSAGES: list[tuple[Any, type[Exception], str]] = [
    ({"event": "saved", "data": 1}, MessageEncodeError, "'event' is none of its fields"),
    ({"data": 1}, MessageEncodeError, "it has no type"),
    ({}, MessageEncodeError, "it has no type"),
    ({"type": "event", "Data": 1}, MessageEncodeError, "'Data' is none of its fields"),
    ({"type": "event", 1: 2}, MessageEncodeError, "1 is none of its fields"),
    (
        {"type": "event", "processId": "a", "process_id": "b"},
        MessageEncodeError,
        "process_id is there twice",
    ),
    ("saved", TypeError, "a Message or a mapping, not 'saved'"),
    (b"{}", TypeError, "a Message or a mapping"),
    (None, TypeError, "a Message or a mapping, not None"),
    (["event"], TypeError, "a Message or a mapping"),
    (Message, TypeError, "a Message or a mapping"),
]


@pytest.mark.parametrize("send", SENDS)
@pytest.mark.parametrize(("bad", "kind", "told"), NO_MESSAGES, ids=lambda each: repr(each)[:30])
def test_fault_108_what_is_no_message_is_refused_at_once(
    hub: Live, peer: RawPeer, send: str, bad: Any, kind: type[Exception], told: str
) -> None:
    with pytest.raises(kind) as raised:
        SENDS[send](hub, bad)
    assert told in str(raised.value)
    assert 'pass {"type": "event"' in str(raised.value)
    hub.hub.send_event("marker")  # nothing was sent before it
    assert received(peer)["data"]["event"] == "marker"


@pytest.mark.parametrize(
    "fields", [{"type": ""}, {"type": 5}, {"type": "x", "channel": None}, {"type": "x", "seq": "1"}]
)
def test_fault_108_the_fields_of_a_mapping_are_checked_as_those_of_a_message(
    hub: Live, peer: RawPeer, fields: dict[str, Any]
) -> None:
    for name in ("broadcast", "send_to_user", "client.send"):
        with pytest.raises(MessageEncodeError):
            SENDS[name](hub, fields)
    hub.hub.send_event("marker")
    assert received(peer)["data"]["event"] == "marker"


def test_fault_108_a_mapping_that_names_a_channel_is_not_broadcast(
    hub: Live, peer: RawPeer
) -> None:
    with pytest.raises(ValueError, match="names the channel 'news'"):
        hub.hub.broadcast({"type": "event", "channel": "news"})
    hub.hub.send_to_channel("news", {"type": "event", "channel": "other"})
    assert received(peer) == {"type": "event", "channel": "news"}


def test_fault_108_a_client_sends_a_mapping_as_a_message() -> None:
    def on_message(client: Any, message: Message) -> object:
        return {"type": message.type, "process": message.process_id, "data": message.data}

    with live(on_message=on_message) as hub, ReconnectingClient(hub.server.url) as client:
        wait_until(lambda: client.state is ConnectionState.CONNECTED)
        for bad, kind, told in NO_MESSAGES:
            with pytest.raises(kind) as raised:
                client.send(bad)
            assert told in str(raised.value)
        client.send({"type": "ask", "processId": "p", "data": [1], "id": "own"})
        answer = next(iter(client))
        assert (answer.type, answer.id) == ("ack", "own")
        assert answer.data == {"type": "ask", "process": "p", "data": [1]}


def test_fault_108_a_hub_that_does_not_run_refuses_them_all_the_same() -> None:
    with pytest.raises(TypeError, match="a Message or a mapping"):
        Hub().broadcast("saved")  # type: ignore[arg-type]


# --- arguments of another kind, or in another order ------------------------------------------


def application(environ: Any, start_response: Any) -> list[bytes]:
    start_response("200 OK", [])
    return [b"page"]


async def asynchronous(*args: Any) -> None:
    """An application of asyncio."""


class Asynchronous:
    async def __call__(self, *args: Any) -> None:
        """An application of asyncio, as frameworks make it."""


Misuse = Callable[[Hub], object]
MISUSES: dict[str, tuple[Misuse, type[Exception], str]] = {
    "middleware, swapped": (
        lambda hub: middleware(hub, application),  # type: ignore[arg-type]
        TypeError, "middleware(app, hub) takes a Hub as hub, not <function application",
    ),
    "middleware, a class": (
        lambda hub: middleware(application, Hub),  # type: ignore[arg-type]
        TypeError, "takes a Hub as hub, not <class",
    ),
    "middleware, no hub": (
        lambda hub: middleware(application, None),  # type: ignore[arg-type]
        TypeError, "takes a Hub as hub, not None",
    ),
    "middleware, no application": (
        lambda hub: middleware(None, hub),  # type: ignore[arg-type]
        TypeError, "takes the WSGI application first, then the hub, not None",
    ),
    "middleware, of asyncio": (
        lambda hub: middleware(asynchronous, hub),  # type: ignore[arg-type]
        TypeError, "is one of asyncio (ASGI)",
    ),
    "middleware, an object of asyncio": (
        lambda hub: middleware(Asynchronous(), hub),  # type: ignore[arg-type]
        TypeError, "is one of asyncio (ASGI)",
    ),
    "middleware, no slash": (
        lambda hub: middleware(application, hub, "ws"),
        ConfigError, "path must begin with a slash and have no query, such as \"/ws\", not 'ws'",
    ),
    "middleware, a query": (
        lambda hub: middleware(application, hub, "/ws?token=x"), ConfigError, "have no query",
    ),
    "middleware, no path": (
        lambda hub: middleware(application, hub, None),  # type: ignore[arg-type]
        TypeError, 'path must be a path, such as "/ws", not None',
    ),
    "serve, an application": (
        lambda hub: serve(application),  # type: ignore[arg-type]
        TypeError, "serve(hub, app=app) takes a Hub as hub, not <function application",
    ),
    "serve, the handler": (
        lambda hub: serve(hub.handler()),  # type: ignore[arg-type]
        TypeError, "serve(hub, app=app) takes a Hub as hub",
    ),
    "serve, no slash": (
        lambda hub: serve(hub, path="ws"), ConfigError, "path must begin with a slash",
    ),
    "serve, an application as host": (
        lambda hub: serve(hub, application),  # type: ignore[arg-type]
        ConfigError, "host must be an address or a name",
    ),
    "serve, a port in a text": (
        lambda hub: serve(hub, port="8000"),  # type: ignore[arg-type]
        ConfigError, "port must be a number from 0, for a free one, to 65535, not '8000'",
    ),
    "serve, a port that is none": (
        lambda hub: serve(hub, port=80_000),
        ConfigError, "port must be a number from 0, for a free one, to 65535",
    ),
    "serve, no application": (
        lambda hub: serve(hub, app=hub),  # type: ignore[arg-type]
        TypeError, "takes the WSGI application first, then the hub, not <ws_hub",
    ),
    "page_app, an application": (
        lambda hub: page_app(application),  # type: ignore[arg-type]
        TypeError, "page_app(hub) takes a Hub as hub",
    ),
    "Hub, an application": (
        lambda hub: Hub(application),  # type: ignore[arg-type]
        TypeError, "a Hub takes a HubConfig, not <function application",
    ),
    "Hub, a mapping": (
        lambda hub: Hub({"queue_size": 5}),  # type: ignore[arg-type]
        TypeError, "Hub(HubConfig(...))",
    ),
    "Hub, a class": (
        lambda hub: Hub(HubConfig),  # type: ignore[arg-type]
        TypeError, "a Hub takes a HubConfig, not <class",
    ),
    "ReconnectingClient, a hub": (
        lambda hub: ReconnectingClient(hub),  # type: ignore[arg-type]
        TypeError, "takes a URL or a ReconnectConfig, not <ws_hub",
    ),
    "subscribe, a name": (
        lambda hub: hub.subscribe("client", "news"),  # type: ignore[arg-type]
        TypeError, "client must be a Client, not 'client'",
    ),
    "subscribe, swapped": (
        lambda hub: hub.subscribe("news", Client),  # type: ignore[arg-type]
        TypeError, "channel must be the name of a channel",
    ),
    "unsubscribe, a number": (
        lambda hub: hub.unsubscribe(1, "news"),  # type: ignore[arg-type]
        TypeError, "client must be a Client, not 1",
    ),
    "recheck, a user": (
        lambda hub: hub.recheck("ann"),  # type: ignore[arg-type]
        TypeError, "client must be a Client, not 'ann'",
    ),
    "listen, no function": (
        lambda hub: hub.listen("news", None),  # type: ignore[arg-type]
        TypeError, "function must be a function, not None",
    ),
    "listen, swapped": (
        lambda hub: hub.listen(print, "news"),  # type: ignore[arg-type]
        TypeError, "channel must be the name of a channel",
    ),
    "at_stop, a result": (
        lambda hub: hub.at_stop(print()),  # type: ignore[func-returns-value, arg-type]
        TypeError, "function must be a function, not None",
    ),
    "at_stop, of asyncio": (
        lambda hub: hub.at_stop(asynchronous), ConfigError, "function must be a plain function",
    ),
    "send_event, a message": (
        lambda hub: hub.send_event({"event": "saved"}),  # type: ignore[arg-type]
        TypeError, "event must be the name of an event, a str",
    ),
    "send_event, no name": (
        lambda hub: hub.send_event(None, 1),  # type: ignore[arg-type]
        TypeError, 'send_event("saved", data)',
    ),
    "send_event, a channel by place": (
        lambda hub: hub.send_event("saved", 1, "news"),  # type: ignore[arg-type]
        TypeError, """'news' must be passed by name: send_event("saved", data, channel="news")""",
    ),
    "send_error, a channel by place": (
        lambda hub: hub.send_error("no disk", "news"),  # type: ignore[arg-type]
        TypeError, """'news' must be passed by name: send_error(text, channel="news")""",
    ),
    "broadcast, an event": (
        lambda hub: hub.broadcast("saved", {"by": 7}),  # type: ignore[arg-type]
        TypeError, 'send_event("saved", data) for an event',
    ),
    "send_to_channel, an event": (
        lambda hub: hub.send_to_channel("news", "saved", {}),  # type: ignore[arg-type]
        TypeError, 'for an event send_event("saved", data, channel="news")',
    ),
    "send_to_user, somebody else": (
        lambda hub: hub.send_to_user(7, {"type": "event"}, None),  # type: ignore[arg-type]
        TypeError, "None must be passed by name: send_to_user(user_id, message, exclude=client)",
    ),
    "subscribe, a number": (
        lambda hub: hub.subscribe(hub.all_clients(), "news", 0),  # type: ignore[arg-type]
        TypeError, "0 must be passed by name: subscribe(client, channel, since=0)",
    ),
    "attach, a user": (
        lambda hub: hub.attach(None, "7"),  # type: ignore[arg-type]
        TypeError, "'7' must be passed by name: attach(ws, user_id=\"7\")",
    ),
    "page_app, a path": (
        lambda hub: page_app(hub, "/live"),  # type: ignore[arg-type]
        TypeError, "'/live' must be passed by name: page_app(hub, ws_path=\"/ws\")",
    ),
    "ReconnectingClient, a token": (
        lambda hub: ReconnectingClient("ws://a/ws", "s3cret"),  # type: ignore[arg-type]
        TypeError, 'must be passed by name: ReconnectingClient("ws://...", token="...")',
    ),
    "ReconnectingClient.subscribe, a function": (
        lambda hub: ReconnectingClient("ws://a/ws").subscribe(
            "news", print  # type: ignore[arg-type]
        ),
        TypeError, "messages go to on_message of the ReconnectConfig",
    ),
    "listen, a function of the client": (
        lambda hub: hub.listen("news", lambda client, message: None),  # type: ignore[arg-type, misc]
        TypeError, "write def function(message)",
    ),
    "run_process, a line alone": (
        lambda hub: hub.run_process(["true"], on_line=lambda: None),  # type: ignore[arg-type]
        TypeError, "on_line is called as function(text, stream), and function() does not",
    ),
    "at_stop, a signal handler": (
        lambda hub: hub.at_stop(lambda number, frame: None),  # type: ignore[arg-type, misc]
        TypeError, "function is called as function(), and function(number, frame) does not take",
    ),
    "HubConfig, on_connect of Socket.IO": (
        lambda hub: HubConfig(on_connect=lambda: None),
        ConfigError, "on_connect is called as function(client), and function() does not take that",
    ),
    "HubConfig, an authenticator without the request": (
        lambda hub: HubConfig(authenticator=lambda: AuthResult(True)),
        ConfigError, "write def function(environ)",
    ),
    "ReconnectConfig, on_connect of a hub": (
        lambda hub: ReconnectConfig("ws://a/ws", on_connect=lambda client: None),
        ConfigError, "on_connect is called as function(), and function(client) does not take that",
    ),
    "ChannelRule, a replay of nothing": (
        lambda hub: ChannelRule("chat:*", replay=True),
        ConfigError, "replay needs history_messages, the number of messages that the channel keeps",
    ),
    "ChannelRule, bytes of nothing": (
        lambda hub: ChannelRule("chat:*", history_bytes=1000),
        ConfigError, "history_bytes needs history_messages",
    ),
    "ChannelRule, a bound of nobody": (
        lambda hub: ChannelRule("chat:*", presence_grace=5.0),
        ConfigError, "presence_grace needs presence=True or 'count'",
    ),
    "HubConfig, a rule behind a wider one": (
        lambda hub: HubConfig(rules=[ChannelRule("*"), ChannelRule("chat:*", publish=True)]),
        ConfigError, "the one for 'chat:*' never applies, as the one for '*' stands before it",
    ),
    "HubConfig, nothing to publish to": (
        lambda hub: HubConfig(publish_authoriser=lambda client, channel: True),
        ConfigError, "publish_authoriser needs a rule with publish=True",
    ),
    "HubConfig, nobody to fail": (
        lambda hub: HubConfig(on_auth_failure=lambda environ, result: None),
        ConfigError, "on_auth_failure needs an authenticator",
    ),
    "send_process_lines, a text": (
        lambda hub: hub.send_process_lines("p", "one line"),
        TypeError, "lines must be a list of str, not 'one line': send_process_output sends one",
    ),
    "send_process_lines, a number": (
        lambda hub: hub.send_process_lines("p", 5),  # type: ignore[arg-type]
        TypeError, "lines must be a list of str",
    ),
}  # fmt: skip


@pytest.mark.parametrize("misuse", MISUSES)
def test_fault_108_a_misuse_is_refused_at_once_with_what_to_pass(hub: Live, misuse: str) -> None:
    act, kind, told = MISUSES[misuse]
    with pytest.raises(kind) as raised:
        act(hub.hub)
    assert told in str(raised.value)


def test_fault_108_the_handler_without_parentheses_says_what_to_mount(hub: Live) -> None:
    mounted: Any = hub.hub.handler
    refused: list[TypeError] = []

    def noted(environ: Any, start_response: Any) -> Any:
        try:
            return mounted(environ, start_response)
        except TypeError as error:
            refused.append(error)
            return application(environ, start_response)

    with serve(hub.hub, app=noted) as server:
        with urllib.request.urlopen(f"http://127.0.0.1:{server.port}/", timeout=TIMEOUT) as page:
            assert page.read() == b"page"
    assert "mount hub.handler(), or middleware(app, hub)" in str(refused[0])


def test_fault_108_the_lines_of_a_generator_all_arrive(hub: Live) -> None:
    with hub.subscribed("process:p") as peer:
        hub.hub.send_process_lines("p", (f"line {number}" for number in range(3)))
        hub.hub.send_process_lines("p", iter(["x" * 10_000]))
        assert [received(peer)["data"] for _ in range(3)] == ["line 0", "line 1", "line 2"]
        assert [received(peer)["data"].count("x") for _ in range(2)] == [8192, 1808]


def test_fault_108_a_second_process_with_a_running_id_has_an_exception_of_its_own(
    hub: Live,
) -> None:
    with hub.hub.run_process(["sleep", "60"], "build") as process:
        for kind in (ProcessAlreadyRunning, ConfigError, ValueError):
            with pytest.raises(kind) as raised:
                hub.hub.run_process(["true"], "build")
        assert isinstance(raised.value, ProcessAlreadyRunning)
        assert raised.value.process_id == "build"
        assert pickle.loads(pickle.dumps(raised.value)).process_id == "build"
        assert "wait for its end, or leave the id out" in str(raised.value)
        assert process.running
    hub.hub.run_process(["true"], "build").wait(TIMEOUT)


# --- names that are somewhere else -----------------------------------------------------------


@pytest.mark.parametrize("module", ["flask", "page", "testing"])
def test_fault_108_a_name_of_another_module_says_which(module: str) -> None:
    if module == "flask":
        pytest.importorskip("flask")
    for name in importlib.import_module(f"ws_hub.{module}").__all__:
        there = f"{name} is not in ws_hub: use from ws_hub.{module} import {name}"
        with pytest.raises(ImportError) as raised:
            exec(f"from ws_hub import Hub, {name}")
        assert str(raised.value) == there
        with pytest.raises(AttributeError) as missing:
            getattr(ws_hub, name)
        assert str(missing.value) == there
        assert not hasattr(ws_hub, name)


def test_fault_108_other_imports_are_as_ever() -> None:
    names: dict[str, Any] = {}
    exec("from ws_hub import *", names)
    assert set(ws_hub.__all__) <= names.keys()
    exec("from ws_hub import testing", names)
    assert names["testing"] is importlib.import_module("ws_hub.testing")
    with pytest.raises(ImportError, match="cannot import name 'HubConfg' from 'ws_hub'"):
        exec("from ws_hub import HubConfg")
    with pytest.raises(AttributeError, match="^module 'ws_hub' has no attribute 'HubConfg'"):
        _ = ws_hub.HubConfg  # type: ignore[attr-defined]


# --- 105: rules of one's own and the rule for programs ---------------------------------------


def lines_of_a_late_subscriber(*rules: ChannelRule) -> list[Any]:
    with live(rules=rules) as site:
        for line in "first", "second":
            site.hub.send_process_output("build", line)
        site.hub.send_process_status("build", "exited", exit_code=0)
        with site.peer() as peer:
            peer.send_json({"type": "subscribe", "channel": "process:build", "since": 0, "id": 1})
            replayed = peer.recv_json()["data"].get("replayed", 0)
            return [peer.recv_json()["data"] for _ in range(replayed)]


@pytest.mark.parametrize(
    "rules",
    [
        (),
        (ChannelRule("chat:*", history_messages=5),),
        (ChannelRule("proc*x"), ChannelRule("[a-o]*")),
        (ChannelRule("process:test-*"),),
    ],
    ids=["none", "chat", "patterns", "some programs"],
)
def test_fault_105_programs_keep_their_lines_beside_rules_of_ones_own(
    rules: tuple[ChannelRule, ...],
) -> None:
    assert lines_of_a_late_subscriber(*rules)[:2] == ["first", "second"]


@pytest.mark.parametrize("pattern", ["*", "process:*", "p*"])
def test_fault_105_a_rule_of_ones_own_that_matches_counts_for_programs(pattern: str) -> None:
    assert lines_of_a_late_subscriber(ChannelRule(pattern)) == []
    one = ChannelRule(pattern, history_messages=2, replay=True)
    assert len(lines_of_a_late_subscriber(one)) == 2


# --- settings that do something ----------------------------------------------------------------


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("chat:*", "*"),
        ("a?", "a*"),
        ("a*", "[ab]*"),
        ("*a]", "x[a]"),
        ("room:1", "room:*"),
    ],
)
def test_fault_108_a_rule_that_may_apply_is_taken(before: str, after: str) -> None:
    rule = ChannelRule(after)
    assert HubConfig(rules=[ChannelRule(before), rule]).rules[1] == rule


@pytest.mark.parametrize(
    ("before", "after"),
    [("a*", "a*"), ("*", "[a]"), ("a*", "ab*"), ("a*", "a?"), ("room:*", "room:1")],
)
def test_fault_108_a_rule_that_never_applies_is_refused(before: str, after: str) -> None:
    with pytest.raises(ConfigError, match="never applies"):
        HubConfig(rules=[ChannelRule(before), ChannelRule(after, publish=True)])


def test_fault_108_a_pattern_and_a_url_need_no_name() -> None:
    assert ChannelRule("chat:*", history_messages=5) == ChannelRule(
        pattern="chat:*", history_messages=5
    )
    assert ReconnectConfig("ws://a/ws").url == "ws://a/ws"
