"""The decorators of a hub: what they take, and when the functions under them are called."""

from __future__ import annotations

import contextlib
import functools
import queue
import re
import sys
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.harness import (
    Peer,
    SteppedHub,
    full_queue,
    is_locked,
    map_is_changed,
)
from tests.support import TIMEOUT, wait_until
from ws_hub import APIKeyAuth, Client, ConfigError, Hub, HubConfig, HubFull, Message
from ws_hub.protocol.message import MessageType
from ws_hub.protocol.names import is_channel_name
from ws_hub.protocol.requests import Other, interpret

Decorate = Callable[[Hub], Callable[[Any], Any]]
NOTIFY = "ws-hub:notify"

# Each decorator, as it is written.
DECORATORS: dict[str, Decorate] = {
    "@hub.on_start": lambda hub: hub.on_start,
    "@hub.on_connect": lambda hub: hub.on_connect,
    "@hub.on_disconnect": lambda hub: hub.on_disconnect,
    "@hub.on('chat')": lambda hub: hub.on("chat"),
    "@hub.on_subscribe('room:*')": lambda hub: hub.on_subscribe("room:*"),
    "@hub.on_unsubscribe('room:*')": lambda hub: hub.on_unsubscribe("room:*"),
    "@hub.on_first_subscriber('room:*')": lambda hub: hub.on_first_subscriber("room:*"),
    "@hub.on_last_unsubscribe('room:*')": lambda hub: hub.on_last_unsubscribe("room:*"),
}
# What the function under each is called with.
ARGUMENTS = {
    "@hub.on_start": "",
    "@hub.on_connect": "client",
    "@hub.on_disconnect": "client, code, reason",
    "@hub.on('chat')": "client, message",
    "@hub.on_subscribe('room:*')": "client, channel",
    "@hub.on_unsubscribe('room:*')": "client, channel",
    "@hub.on_first_subscriber('room:*')": "channel",
    "@hub.on_last_unsubscribe('room:*')": "channel",
}


class Notes:
    """What the callbacks of a hub were called with, and on which threads."""

    def __init__(self) -> None:
        self.events: queue.Queue[tuple[Any, ...]] = queue.Queue()  # guards: itself.

    def note(self, *event: Any) -> None:
        self.events.put((*event, threading.current_thread().name))

    def by(self, name: str) -> Callable[..., None]:
        """Return a callback that notes this name, and what follows the client."""
        return lambda client, *rest: self.note(name, client.id, *rest)

    def next(self) -> tuple[Any, ...]:
        return self.events.get(timeout=TIMEOUT)

    def all(self) -> list[tuple[Any, ...]]:
        """Return what was noted by now, without the threads."""
        return [self.events.get_nowait()[:-1] for _ in range(self.events.qsize())]


@pytest.fixture
def notes() -> Notes:
    return Notes()


@pytest.fixture
def hub(notes: Notes) -> Iterator[SteppedHub]:
    """A hub whose subscriptions to rooms are noted."""
    with SteppedHub() as hub:
        hub.on_subscribe("room:*")(notes.by("+"))
        hub.on_unsubscribe("room:*")(notes.by("-"))
        yield hub


@pytest.fixture
def peer(hub: SteppedHub) -> Peer:
    return idle(hub.join())


def idle(peer: Peer) -> Peer:
    """Return a peer whose client's reader has come to wait for it."""
    peer.say(type="unsubscribe", channel="nothing")
    return peer


def stack_of(name: str) -> list[str]:
    """Return the names of the functions that a thread is in, the innermost first."""
    (ident,) = [each.ident for each in threading.enumerate() if each.name == name]
    frame = sys._current_frames().get(ident or 0)
    found = []
    while frame is not None:
        found.append(frame.f_code.co_name)
        frame = frame.f_back
    return found


def reader(peer: Peer) -> str:
    return f"ws-hub:reader:{peer.client.id}"


# --- what the decorators take --------------------------------------------------------------


@pytest.mark.parametrize("write", DECORATORS)
def test_a_function_stays_what_it_is(write: str) -> None:
    def function(*_: object) -> None: ...

    assert DECORATORS[write](Hub())(function) is function


@pytest.mark.parametrize("write", DECORATORS)
@pytest.mark.parametrize("thing", [None, 3, "room:*"])
def test_what_is_no_function_is_refused(write: str, thing: object) -> None:
    with pytest.raises(ConfigError, match="a function, not") as raised:
        DECORATORS[write](Hub())(thing)
    assert write in str(raised.value) and repr(thing) in str(raised.value)


@pytest.mark.parametrize("write", DECORATORS)
def test_a_function_with_other_arguments_is_refused_with_the_right_ones(write: str) -> None:
    def noted(one: object, two: object, three: object, four: object) -> None: ...

    with pytest.raises(TypeError) as raised:
        DECORATORS[write](Hub())(noted)
    text, arguments = str(raised.value), ARGUMENTS[write]
    assert text == (
        f"what stands under {write} is called as noted({arguments}), and "
        f"noted(one, two, three, four) does not take that: write def noted({arguments})"
    )


@pytest.mark.parametrize("event", ["connect", "disconnect"])
def test_an_event_of_the_hub_in_place_of_a_type_is_told_where_its_function_shows_it(
    event: str,
) -> None:
    with pytest.raises(TypeError, match=rf"write def .*\. That is .* write @hub\.on_{event}$"):
        Hub().on(event)(lambda: None)  # type: ignore[arg-type, misc]

    def own(client: Client, message: Message) -> None: ...

    assert Hub().on(event)(own) is own  # a type of the application's


@pytest.mark.parametrize(
    ("function", "taken"),
    [
        (lambda message: None, "and function(message) does not"),
        (lambda client, message, *, room: None, "and function(client, message, room) does not"),
        (functools.partial(lambda client, message: None, 1), "and function(message) does not"),
        (Notes().all, "write def all(client, message)"),
        (queue.SimpleQueue, "write def SimpleQueue(client, message)"),
    ],
)
def test_what_can_never_be_called_is_refused(function: Any, taken: str) -> None:
    with pytest.raises(TypeError, match=re.escape(taken)):
        Hub().on("chat")(function)


class Chats:
    def method(self, client: object, message: object) -> None: ...

    @classmethod
    def of_class(cls, client: object, message: object) -> None: ...

    def __call__(self, client: object, message: object) -> None: ...


def with_database(function: Callable[..., Any]) -> Callable[..., Any]:
    """Return a function that adds an argument, as decorators of applications do."""

    @functools.wraps(function)
    def wrapper(*args: Any) -> Any:
        return function("the database", *args)

    return wrapper


class Unbound:
    """A stand-in for something that is not there yet, as of werkzeug.local."""

    def __call__(self, *args: object) -> None: ...

    @property
    def __signature__(self) -> Any:
        raise RuntimeError("working outside of a context")


@pytest.mark.parametrize(
    "function",
    [
        Chats().method,
        Chats.of_class,
        Chats(),
        Unbound(),
        print,
        dict,  # has no signature
        [].insert,
        lambda client, message, hub=None: None,
        lambda *args: None,
        lambda client, *args, **options: None,
        functools.partial(lambda hub, client, message: None, "hub"),
        functools.partial(lambda client, message, *, hub: None, hub="hub"),
        with_database(lambda database, client, message: None),
        functools.wraps(lambda client: None)(lambda client, message: None),
    ],
)
def test_what_can_be_called_is_taken(function: Any) -> None:
    hub = Hub()
    assert hub.on("chat")(function) is function


async def coroutine(*_: object) -> None: ...


async def generator(*_: object) -> Any:
    yield


class WithCoroutine:
    async def __call__(self, *_: object) -> None: ...


@pytest.mark.parametrize("write", DECORATORS)
@pytest.mark.parametrize(
    "function", [coroutine, generator, functools.partial(coroutine), WithCoroutine()]
)
def test_a_coroutine_function_is_refused(write: str, function: object) -> None:
    with pytest.raises(ConfigError, match="plain function, not the coroutine function") as raised:
        DECORATORS[write](Hub())(function)
    assert write in str(raised.value)


@pytest.mark.parametrize(
    ("misuse", "text"),
    [
        (lambda hub: hub.on_connect(), "takes a function, not nothing: write @hub.on_connect, wi"),
        (lambda hub: hub.on_disconnect(), "write @hub.on_disconnect, without parentheses, above"),
        (lambda hub: hub.on(print), r"not <built-in function print>: write @hub\.on\(\"chat\"\)"),
        (lambda hub: hub.on(), r"takes the type of the messages, not nothing: write @hub\.on\("),
        (lambda hub: hub.on(""), r"takes the type of the messages, not '': write @hub\.on\("),
        (lambda hub: hub.on_subscribe(print), r"not <built-in .*: write @hub\.on_subscribe\(\"a:"),
        (lambda hub: hub.on_subscribe(), "takes a pattern of channels, not nothing: write "),
        (lambda hub: hub.on_subscribe(""), "takes a pattern of channels, not '': write "),
        (lambda hub: hub.on_unsubscribe(print), r"write @hub\.on_unsubscribe\(\"a:\*\"\) above a"),
        (lambda hub: hub.on_unsubscribe(3), "takes a pattern of channels, not 3"),
        (
            lambda hub: hub.on_first_subscriber(print),
            r"write @hub\.on_first_subscriber\(\"a:\*\"\)",
        ),
        (lambda hub: hub.on_last_unsubscribe(), "takes a pattern of channels, not nothing"),
        (lambda hub: hub.on_start(), "takes a function, not nothing: write @hub.on_start, without"),
    ],
)
def test_a_decorator_that_is_written_wrongly_says_how_it_is_written(
    misuse: Callable[[Hub], object], text: str
) -> None:
    with pytest.raises(ConfigError, match=text):
        misuse(Hub())


@pytest.mark.parametrize("type", MessageType)
def test_a_type_is_refused_when_its_messages_never_come_to_an_application(
    type: MessageType,
) -> None:
    text = f'{{"type":"{type}","channel":"a"}}'
    if isinstance(interpret(text, is_channel_name), Other):
        Hub().on(type)(print)
    else:
        with pytest.raises(ConfigError, match="handles these messages itself; use ") as raised:
            Hub().on(type)
        assert repr(str(type)) in str(raised.value)


def test_auth_is_refused_when_first_messages_authenticate() -> None:
    config = HubConfig(authenticator=APIKeyAuth({"k": "ann"}), auth_by_message=True)
    with pytest.raises(ConfigError, match=r"use HubConfig\.authenticator"):
        Hub(config).on("auth")


def test_a_type_has_one_function() -> None:
    hub, heard = Hub(), list[str]()

    @hub.on("chat")
    def first(client: Client, message: Message) -> None:
        heard.append(message.type)

    for second in (print, first):
        with pytest.raises(ConfigError, match="stands above <function .*first.* already") as raised:
            hub.on("chat")(second)
        assert "only one function can return the answer" in str(raised.value)
    hub.on("other")(first)


# --- connect, disconnect, messages ---------------------------------------------------------


def test_functions_are_called_in_order_and_those_of_the_settings_first(notes: Notes) -> None:
    config = {
        name: notes.by(f"{name} of the settings")
        for name in ("on_connect", "on_message", "on_disconnect")
    }
    with SteppedHub(**config) as hub:
        for name in ("one", "two"):
            hub.on_connect(notes.by(f"connect {name}"))
            hub.on_disconnect(notes.by(f"disconnect {name}"))
        hub.on("chat")(lambda client, message: notes.note("chat", client.id, message))
        peer = hub.join()
        peer.say(type="chat", data="hello")
        peer.say(type="else")
        peer.leave()
        assert peer.ended()
        number, chat = peer.client.id, Message("chat", data="hello")
        assert notes.all() == [
            ("on_connect of the settings", number),
            ("connect one", number),
            ("connect two", number),
            ("on_message of the settings", number, chat),
            ("chat", number, chat),
            ("on_message of the settings", number, Message("else")),
            ("on_disconnect of the settings", number, 1006, "connection lost"),
            ("disconnect one", number, 1006, "connection lost"),
            ("disconnect two", number, 1006, "connection lost"),
        ]


def test_they_run_on_the_clients_reader_thread(notes: Notes) -> None:
    with SteppedHub() as hub:
        hub.on_connect(notes.by("connect"))
        hub.on("chat")(notes.by("chat"))
        hub.on_disconnect(notes.by("disconnect"))
        peer = hub.join()
        peer.say(type="chat")
        peer.leave()
        assert [notes.next()[-1] for _ in range(3)] == [reader(peer)] * 3


def test_what_the_function_of_a_type_returns_is_the_answer() -> None:
    with SteppedHub() as hub:
        hub.on("double")(lambda client, message: message.data * 2)
        peer = hub.join()
        peer.say(type="double", data=21, id=1)
        peer.say(type="double", data=21)  # asks for no answer
        peer.say(type="other", id=2)
        first, second = peer.messages()
        assert (first["type"], first["id"], first["data"]) == ("ack", 1, 42)
        assert (second["type"], second["id"]) == ("error", 2)
        assert second["data"] == "unknown message type 'other'"


@pytest.mark.parametrize("fails", [True, False])
def test_the_answer_is_that_of_the_type_whatever_on_message_does(fails: bool) -> None:
    def on_message(client: Client, message: Message) -> str:
        return "of all types" if not fails else str(1 / 0)

    with SteppedHub(on_message=on_message) as hub:
        hub.on("chat")(lambda client, message: "of chat")
        peer = hub.join()
        peer.say(type="chat", id=1)
        assert [(each["type"], each["data"]) for each in peer.messages()] == [("ack", "of chat")]
        assert hub.stats().callback_errors == fails


@pytest.mark.parametrize("function", [lambda client, message: 1 / 0, lambda client, message: {1}])
def test_a_function_that_fails_answers_with_an_error_and_the_client_stays(
    function: Callable[..., object], caplog: pytest.LogCaptureFixture
) -> None:
    with SteppedHub() as hub:
        hub.on("chat")(function)
        peer = hub.join()
        peer.say(type="chat", id=1)
        peer.say(type="ping", id=2)
        answer, pong = peer.messages()
        assert (answer["type"], answer["id"], answer["code"]) == ("error", 1, "internal")
        assert pong["type"] == "pong"
    assert "lambda" in caplog.text


def test_a_function_that_raises_keeps_none_of_the_others(
    notes: Notes, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(*_: object) -> None:
        raise LookupError("in a callback")

    with SteppedHub() as hub:
        for function in (fail, notes.by("called")):
            hub.on_connect(function)
            hub.on_disconnect(function)
            hub.on_subscribe("*")(function)
            hub.on_unsubscribe("*")(function)
        peer = hub.join()
        peer.say(type="subscribe", channel="a")
        peer.say(type="unsubscribe", channel="a")
        peer.leave()
        assert peer.ended()
        number = peer.client.id
        assert notes.all() == [
            ("called", number),
            ("called", number, "a"),
            ("called", number, "a"),
            ("called", number, 1006, "connection lost"),
        ]
        assert hub.stats().callback_errors == 4
        assert "LookupError" in peer.client.last_error
    assert caplog.text.count("LookupError: in a callback") == 4


def test_functions_apply_from_their_registration_on(notes: Notes) -> None:
    with SteppedHub() as hub:
        peer = hub.join()
        peer.say(type="chat", id=1)
        peer.say(type="subscribe", channel="a")
        hub.on_connect(notes.by("connect"))
        hub.on("chat")(notes.by("chat"))
        hub.on_subscribe("*")(notes.by("+"))
        hub.on_unsubscribe("*")(notes.by("-"))
        hub.on_disconnect(notes.by("disconnect"))
        peer.say(type="chat", id=2)
        assert [each["type"] for each in peer.messages()] == ["error", "ack"]
        peer.say(type="subscribe", channel="b")
        peer.leave()
        assert peer.ended()
        number, chat = peer.client.id, Message("chat", id=2)
        assert notes.all() == [
            ("chat", number, chat),
            ("+", number, "b"),
            ("-", number, "a"),
            ("-", number, "b"),
            ("disconnect", number, 1006, "connection lost"),
        ]


def test_they_are_those_of_all_lives_of_a_hub(notes: Notes) -> None:
    hub = Hub()
    hub.on_connect(notes.by("connect"))
    hub.on_subscribe("*")(notes.by("+"))
    numbers = []
    for _ in range(2):
        with hub, Peer(hub) as peer:
            peer.say(type="subscribe", channel="a")
            numbers.append(peer.client.id)
    first, second = numbers
    assert notes.all() == [
        ("connect", first), ("+", first, "a"), ("connect", second), ("+", second, "a"),
    ]  # fmt: skip


# --- subscriptions -------------------------------------------------------------------------


def test_a_subscription_that_the_client_asks_for(hub: SteppedHub, peer: Peer, notes: Notes) -> None:
    peer.say(type="subscribe", channel="room:1")
    peer.say(type="subscribe", channel="elsewhere")
    peer.say(type="unsubscribe", channel="elsewhere")
    peer.say(type="unsubscribe", channel="room:1")
    peer.say(type="unsubscribe", channel="room:1")
    number = peer.client.id
    assert [notes.next() for _ in range(2)] == [
        ("+", number, "room:1", reader(peer)),
        ("-", number, "room:1", reader(peer)),
    ]
    assert notes.all() == []


def test_a_subscription_that_the_application_makes(
    hub: SteppedHub, peer: Peer, notes: Notes
) -> None:
    hub.subscribe(peer.client, "room:1")
    assert hub.unsubscribe(peer.client, "room:1")
    number = peer.client.id
    assert [notes.next() for _ in range(2)] == [
        ("+", number, "room:1", NOTIFY),
        ("-", number, "room:1", NOTIFY),
    ]


def test_one_that_is_made_in_a_callback_of_the_client_comes_after_that(notes: Notes) -> None:
    def subscribe(client: Client, *_: object) -> None:
        notes.note("begin")
        hub.subscribe(client, "room:1")
        hub.unsubscribe(client, "room:1")
        notes.note("end")

    with SteppedHub() as hub:
        hub.on_subscribe("room:*")(notes.by("+"))
        hub.on_unsubscribe("room:*")(notes.by("-"))
        hub.on_connect(subscribe)
        hub.on("chat")(subscribe)
        peer = hub.join()
        peer.say(type="chat")
        own, number = reader(peer), peer.client.id
        once = [("begin", own), ("end", own)]
        once += [("+", number, "room:1", own), ("-", number, "room:1", own)]
        assert [notes.next() for _ in range(8)] == 2 * once


def test_one_that_is_made_beside_on_connect_waits_for_its_end(notes: Notes) -> None:
    connecting, go = threading.Event(), threading.Event()

    def on_connect(client: Client) -> None:
        connecting.set()
        go.wait(TIMEOUT)
        notes.note("connected")

    with SteppedHub(on_connect=on_connect) as hub:
        hub.on_subscribe("room:*")(notes.by("+"))
        peer = hub.join()
        assert connecting.wait(TIMEOUT)
        hub.subscribe(peer.client, "room:1")
        go.set()
        assert notes.next() == ("connected", reader(peer))
        assert notes.next() == ("+", peer.client.id, "room:1", reader(peer))


def test_a_subscription_to_what_is_subscribed_to_is_none(
    hub: SteppedHub, peer: Peer, notes: Notes
) -> None:
    for _ in range(2):
        peer.say(type="subscribe", channel="room:1", since=0)
        hub.subscribe(peer.client, "room:1")
    peer.say(type="unsubscribe", channel="room:1")
    assert [each[0] for each in notes.all()] == ["+", "-"]


def test_every_function_whose_pattern_matches_is_called(notes: Notes) -> None:
    with SteppedHub() as hub:
        for pattern in ("*", "room:*", "room:[12]", "ROOM:*", "room"):
            hub.on_subscribe(pattern)(notes.by(pattern))
        peer = hub.join()
        peer.say(type="subscribe", channel="room:2")
        peer.say(type="subscribe", channel="room:3")
        number = peer.client.id
        assert notes.all() == [
            ("*", number, "room:2"),
            ("room:*", number, "room:2"),
            ("room:[12]", number, "room:2"),
            ("*", number, "room:3"),
            ("room:*", number, "room:3"),
        ]


def test_what_on_subscribe_publishes_reaches_the_client_after_what_was_kept() -> None:
    with SteppedHub() as hub:

        @hub.on_subscribe("process:*")
        def welcome(client: Client, channel: str) -> None:
            assert channel in client.subscriptions()
            hub.send_event("welcome", channel=channel)

        hub.send_process_output("p", "kept")
        hub.turn()
        peer = hub.join()
        peer.say(type="subscribe", channel="process:p", id=1)
        hub.settle()
        found = [each["type"] for each in peer.messages()]
        assert found == ["ack", "process_output", "event"]


def test_what_on_unsubscribe_publishes_does_not_reach_the_client() -> None:
    with SteppedHub() as hub:

        @hub.on_unsubscribe("room:*")
        def goodbye(client: Client, channel: str) -> None:
            assert channel not in client.subscriptions()
            hub.send_event("left", channel=channel)

        peer, other = hub.join(), hub.join()
        for each in (peer, other):
            each.say(type="subscribe", channel="room:1")
        peer.say(type="unsubscribe", channel="room:1", id=1)
        hub.settle()
        assert [each["type"] for each in peer.messages()] == ["ack"]
        assert [each["data"]["event"] for each in other.messages()] == ["left"]
        assert hub.stats().callback_errors == 0


def test_a_subscription_that_is_refused_or_taken_back_has_not_begun(notes: Notes) -> None:
    rejected = ["room:secret"]
    with SteppedHub(
        channel_authoriser=lambda client, channel: channel not in rejected,
        max_subscriptions=1,
        publish_timeout=0.01,
    ) as hub:
        hub.on_subscribe("*")(notes.by("+"))
        hub.on_unsubscribe("*")(notes.by("-"))
        peer = hub.join()
        peer.say(type="subscribe", channel="room:secret")
        peer.say(type="subscribe", channel="not a name")
        with full_queue(hub), pytest.raises(HubFull):
            hub.subscribe(peer.client, "room:1")
        hub.subscribe(peer.client, "room:2")
        peer.say(type="subscribe", channel="room:3")  # one too many
        assert notes.next()[:-1] == ("+", peer.client.id, "room:2")
        assert notes.all() == []
        with full_queue(hub), pytest.raises(HubFull):
            hub.subscribe(peer.client, "room:2")  # not that one ends: it was there before
        assert notes.all() == [] and peer.client.subscriptions() == ["room:2"]


def test_subscriptions_that_recheck_ends(notes: Notes) -> None:
    permitted = {"room:1", "room:2"}
    with SteppedHub(channel_authoriser=lambda client, channel: channel in permitted) as hub:
        hub.on_unsubscribe("room:*")(notes.by("-"))
        peer = idle(hub.join())
        for channel in sorted(permitted):
            hub.subscribe(peer.client, channel)
        permitted.discard("room:1")
        assert hub.recheck(peer.client) == ["room:1"]
        assert notes.next() == ("-", peer.client.id, "room:1", NOTIFY)
        assert hub.recheck(peer.client) == []
    assert notes.next() == ("-", peer.client.id, "room:2", reader(peer))


def test_the_rest_ends_with_the_client_before_on_disconnect_which_still_sees_it(
    hub: SteppedHub, peer: Peer, notes: Notes
) -> None:
    @hub.on_unsubscribe("*")
    def left(client: Client, channel: str) -> None:
        notes.note(client.subscriptions(), hub.clients(channel))

    @hub.on_disconnect
    def gone(client: Client, code: int, reason: str) -> None:
        notes.note("gone", client.subscriptions(), hub.all_channels(), hub.all_clients())

    for channel in ("room:1", "room:2", "else"):
        peer.say(type="subscribe", channel=channel)
    peer.say(type="unsubscribe", channel="room:1")
    number = peer.client.id
    assert [notes.next()[:-1] for _ in range(4)] == [
        ("+", number, "room:1"),
        ("+", number, "room:2"),
        ("-", number, "room:1"),
        (["room:2", "else"], []),
    ]
    peer.leave()
    assert peer.ended()
    assert notes.all() == [
        ("-", number, "room:2"),
        (["room:2", "else"], []),
        (["room:2", "else"], []),
        ("gone", ["room:2", "else"], [], []),
    ]
    assert peer.client.subscriptions() == []


def test_on_disconnect_waits_for_a_callback_on_the_other_thread(
    hub: SteppedHub, peer: Peer, notes: Notes
) -> None:
    began, go = threading.Event(), threading.Event()

    @hub.on_subscribe("room:*")
    def slow(client: Client, channel: str) -> None:
        began.set()
        go.wait(TIMEOUT)
        notes.note("slow is over")

    hub.on_disconnect(notes.by("gone"))
    hub.subscribe(peer.client, "room:1")
    assert began.wait(TIMEOUT)
    peer.leave()
    name = reader(peer)
    wait_until(lambda: stack_of(name)[:3] == ["_wait", "wait", "run"], what="a waiting reader")
    go.set()
    assert peer.ended()
    assert [each[0] for each in notes.all()] == ["+", "slow is over", "-", "gone"]


def test_a_slow_callback_holds_up_no_other_clients_reader(hub: SteppedHub, notes: Notes) -> None:
    go = threading.Event()
    slow, other = hub.join(), hub.join()

    @hub.on_subscribe("slow")
    def wait(client: Client, channel: str) -> None:
        go.wait(TIMEOUT)

    hub.subscribe(slow.client, "slow")  # on the notify thread
    other.say(type="subscribe", channel="room:1")
    assert notes.next() == ("+", other.client.id, "room:1", reader(other))
    go.set()


def test_listeners_are_no_clients(hub: SteppedHub, notes: Notes) -> None:
    hub.listen("room:1", print).close()
    peer = hub.join()
    peer.say(type="subscribe", channel="room:2")
    assert [each[2] for each in notes.all()] == ["room:2"]


def test_no_lock_is_held_and_the_hub_thread_not_used(hub: SteppedHub, peer: Peer) -> None:
    found: queue.Queue[object] = queue.Queue()  # guards: itself.

    def look(client: Client, channel: str) -> None:
        """Have another thread do what needs every lock."""

        def use() -> None:
            hub.unsubscribe(client, "other")
            found.put((is_locked(hub), hub.client_count(), client.waiting))

        thread = threading.Thread(target=use)
        thread.start()
        thread.join(TIMEOUT)

    hub.on_subscribe("room:*")(look)
    hub.on_unsubscribe("room:*")(look)
    hub.subscribe(peer.client, "room:1")
    assert found.get(timeout=TIMEOUT) == (False, 1, (0, 0))
    peer.say(type="unsubscribe", channel="room:1")
    assert found.get(timeout=TIMEOUT) == (False, 1, (0, 0))


def test_what_the_hub_thread_does_for_a_call_within_a_call(
    hub: SteppedHub, peer: Peer, notes: Notes
) -> None:
    with map_is_changed(hub):  # as in a signal handler, within a change of the subscriptions
        hub.subscribe(peer.client, "room:1")
    hub.settle()
    assert notes.next() == ("+", peer.client.id, "room:1", NOTIFY)
    with map_is_changed(hub):
        hub.unsubscribe(peer.client, "room:1")
    hub.settle()
    assert notes.next() == ("-", peer.client.id, "room:1", NOTIFY)


def test_a_client_that_is_cut_because_it_does_not_read(notes: Notes) -> None:
    with SteppedHub(outbox_messages=1, close_timeout=0.1) as hub:
        hub.on_unsubscribe("room:*")(notes.by("-"))
        hub.on_disconnect(notes.by("gone"))
        peer = hub.join()
        peer.say(type="subscribe", channel="room:1")
        peer.fill()
        while not hub.stats().slow_disconnects:
            hub.broadcast(Message("x"))
            hub.turn()
        assert hub.all_channels() == []
        peer.cut()
        hub.turn(TIMEOUT)
        number = peer.client.id
        assert notes.next() == ("-", number, "room:1", reader(peer))
        assert notes.next() == ("gone", number, 1013, "too slow: the outbox is full", reader(peer))
        assert notes.all() == []


def test_stop_ends_subscriptions_as_it_ends_clients(notes: Notes) -> None:
    hub = Hub()
    hub.on_unsubscribe("*")(notes.by("-"))
    hub.on_disconnect(notes.by("gone"))
    with hub:
        peer = Peer(hub)
        peer.say(type="subscribe", channel="room:1")
        stopper = threading.Thread(target=hub.stop)
        stopper.start()
        assert peer.rest() == [1001]
        stopper.join(TIMEOUT)
        peer.end()
    number = peer.client.id
    assert notes.all() == [("-", number, "room:1"), ("gone", number, 1001, "server going away")]


@pytest.mark.parametrize("where", ["on_subscribe", "on_unsubscribe"])
@pytest.mark.parametrize("by", ["client", "application"])
def test_fault_37_stop_from_a_callback_of_a_subscription_returns(where: str, by: str) -> None:
    returned = threading.Event()
    hub = Hub(HubConfig(close_timeout=0.2))

    @getattr(hub, where)("*")
    def stop(client: Client, channel: str) -> None:
        hub.stop()
        returned.set()

    with hub, Peer(hub) as peer:
        if by == "client":
            peer.say(type="subscribe", channel="a", wait=False)
            peer.say(type="unsubscribe", channel="a", wait=False)
        else:
            with contextlib.suppress(Exception):  # the hub stops meanwhile
                hub.subscribe(peer.client, "a")
                hub.unsubscribe(peer.client, "a")
        peer.rest()
        assert returned.wait(TIMEOUT)
        wait_until(lambda: not hub.running)


# --- the start, first and last subscribers -------------------------------------------------


def test_functions_for_the_start_are_called_at_each_start(notes: Notes) -> None:
    hub = Hub(HubConfig(on_first_subscriber=lambda channel: notes.note("first", channel)))

    @hub.on_start
    def started() -> None:
        notes.note("started", hub.running)
        hub.send_event("started", channel="news")  # it delivers

    for _ in range(2):
        with hub:
            listener = hub.listen("news", print)
            assert notes.next() == ("started", True, NOTIFY)
            assert notes.next() == ("first", "news", NOTIFY)
            listener.close()
    assert notes.all() == []


def test_a_hub_that_was_started_calls_a_new_function_at_its_next_start(notes: Notes) -> None:
    hub = Hub()
    with hub:
        hub.on_start(lambda: notes.note("started"))
    assert notes.all() == []
    with hub:
        assert notes.next() == ("started", NOTIFY)


def test_what_fails_at_the_start_keeps_nothing_from_going_on(
    notes: Notes, caplog: pytest.LogCaptureFixture
) -> None:
    hub = Hub()
    hub.on_start(lambda: {}["missing"])
    hub.on_start(lambda: notes.note("second"))
    with hub:
        assert notes.next() == ("second", NOTIFY)
        assert hub.stats().callback_errors == 1
    assert "KeyError: 'missing'" in caplog.text


def test_a_hub_that_lends_a_thread_calls_the_functions_for_its_start(notes: Notes) -> None:
    hub = Hub()
    hub.on_start(lambda: notes.note("started"))
    thread = threading.Thread(target=hub.run)
    thread.start()
    assert notes.next() == ("started", NOTIFY)
    hub.stop()
    thread.join(TIMEOUT)
    assert not thread.is_alive()


def test_first_and_last_subscribers_are_told_by_pattern_after_the_settings(notes: Notes) -> None:
    settings = {
        name: functools.partial(notes.note, f"{name} of the settings")
        for name in ("on_first_subscriber", "on_last_unsubscribe")
    }
    hub = Hub()

    @hub.on_first_subscriber("room:*")
    def first(channel: str) -> None:
        notes.note("first", channel)

    @hub.on_last_unsubscribe("room:*")
    def last(channel: str) -> None:
        notes.note("last", channel)

    hub.configure(HubConfig(**settings))
    with hub:
        for channel in ("news", "room:1"):
            one, two = hub.listen(channel, print), hub.listen(channel, print)
            one.close()
            two.close()
    assert notes.all() == [
        ("on_first_subscriber of the settings", "news"),
        ("on_last_unsubscribe of the settings", "news"),
        ("on_first_subscriber of the settings", "room:1"),
        ("first", "room:1"),
        ("on_last_unsubscribe of the settings", "room:1"),
        ("last", "room:1"),
    ]


def test_other_settings_replace_the_functions_of_the_settings_alone(notes: Notes) -> None:
    hub = Hub(HubConfig(on_first_subscriber=lambda channel: notes.note("before")))
    hub.on_first_subscriber("*")(lambda channel: notes.note("first"))
    hub.configure(HubConfig())
    with hub:
        hub.listen("news", print).close()
    assert notes.all() == [("first",)]
