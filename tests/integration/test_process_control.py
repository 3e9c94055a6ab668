"""Programs that clients write to and end: who may, who holds the input, what is told."""

from __future__ import annotations

import contextlib
import gc
import itertools
import os
import re
import signal
import sys
import threading
import weakref
from collections.abc import Iterator
from typing import Any

import pytest

from tests.programs import DEAF, python
from tests.support import wait_until
from ws_hub import (
    APIKeyAuth,
    Client,
    Hub,
    HubConfig,
    HubError,
    HubFull,
    Message,
    ReconnectingClient,
    serve,
)
from ws_hub.process import Process
from ws_hub.server.server import Server
from ws_hub.testing import HubClient

pytestmark = pytest.mark.skipif(os.name != "posix", reason="needs POSIX pipes")

BOUND = 20
ECHO = "for line in open(0): print('got', line, end='', flush=True)"


class Site:
    """A hub whose authoriser is asked, and clients of its users."""

    def __init__(self, **settings: Any) -> None:
        self.asked: list[tuple[str | None, str, str]] = []
        self.allowed: set[tuple[str, str]] = {
            (user, action) for user in ("ann", "ben") for action in ("input", "stop", "kill")
        }
        config = {
            "authenticator": APIKeyAuth({"a": "ann", "b": "ben", "e": "eve"}),
            "input_authoriser": self.may,
            **settings,
        }
        self.hub = Hub(HubConfig(**config))
        self.server: Server

    def may(self, client: Client, process_id: str, action: str) -> bool:
        self.asked.append((client.user_id, process_id, action))
        return (str(client.user_id), action) in self.allowed

    def run(self, code: str, **options: Any) -> Process:
        return self.hub.run_process(python(code), "p", **{"stdin": True, **options})  # type: ignore[no-any-return]

    @contextlib.contextmanager
    def client(self, key: str) -> Iterator[User]:
        with HubClient(self.server.url, timeout=BOUND, token=key) as made:
            yield User(made)


class User:
    def __init__(self, client: HubClient) -> None:
        self.client = client
        self._numbers = itertools.count(1)

    def ask(self, type: str, data: Any = None, channel: str = "process:p") -> Message:
        """Send a request; return its answer."""
        number = next(self._numbers)
        self.client.send(Message(type, channel=channel, data=data, id=number))
        return wait_until(
            lambda: next(
                (
                    each
                    for each in self.client.received
                    if each.id == number and each.type in ("ack", "error")
                ),
                None,
            ),
            BOUND,
        )

    def told(self, event: str) -> dict[str, Any]:
        """Return the next event of a name; who has caused it is its user."""
        while True:
            found = self.client.expect(type="event").data
            if found["event"] == event:
                data: dict[str, Any] = found["data"]
                assert isinstance(data.pop("connection"), int)
                return data

    def status(self) -> dict[str, Any]:
        while True:
            data: dict[str, Any] = self.client.expect(type="process_status").data
            if data["status"] == "exited":
                return data


@contextlib.contextmanager
def site(**settings: Any) -> Iterator[Site]:
    made = Site(**settings)
    with made.hub, serve(made.hub) as made.server:
        yield made


def refused(answer: Message, code: str, text: str) -> None:
    assert (answer.type, answer.code) == ("error", code), answer
    assert text in answer.data
    assert answer.channel == "process:p"


# --- input ---------------------------------------------------------------------------------


def test_the_holder_writes_and_all_see_who_it_was() -> None:
    with site() as it, it.client("a") as ann, it.client("b") as ben:
        process = it.run(ECHO)
        ben.client.subscribe("process:p")
        assert ann.ask("process_hold", True).data == {"held": True}
        assert ann.ask("process_input", "hello\n").type == "ack"
        assert ben.told("process_hold") == {"user": "ann", "held": True}
        assert ben.told("process_input") == {"user": "ann", "text": "hello\n"}
        ben.client.expect(type="process_output", data="got hello")
        assert ann.ask("process_input").type == "ack"  # the end
        assert ben.told("process_input") == {"user": "ann", "end": True}
        assert process.wait(BOUND) == 0
        refused(ann.ask("process_input", "late\n"), "not_found", "no such program runs")


def test_one_client_holds_the_input_and_others_watch() -> None:
    with site() as it, it.client("a") as ann, it.client("b") as ben:
        with it.run(ECHO):
            refused(ann.ask("process_input", "x"), "forbidden", "take the hold first")
            ann.ask("process_hold", True)
            assert ann.ask("process_hold", True).data == {"held": True}
            refused(ben.ask("process_hold", True), "forbidden", "the input is held by 'ann'")
            refused(ben.ask("process_input", "x"), "forbidden", "the input is held by 'ann'")
            assert ben.ask("process_hold", False).data == {"held": False}
            assert ann.ask("process_input", "x\n").type == "ack"
            assert ann.ask("process_hold", False).data == {"held": False}
            assert ben.ask("process_hold", True).data == {"held": True}
            refused(ann.ask("process_input", "x"), "forbidden", "the input is held by 'ben'")


def test_a_holder_that_leaves_releases_the_hold() -> None:
    with site() as it, it.client("b") as ben, it.run(ECHO):
        ben.client.subscribe("process:p")
        with it.client("a") as ann:
            ann.ask("process_hold", True)
            assert ben.told("process_hold") == {"user": "ann", "held": True}
        assert ben.told("process_hold") == {"user": "ann", "held": False}
        assert ben.ask("process_hold", True).data == {"held": True}


def test_a_hold_is_of_one_run_of_the_program() -> None:
    with site() as it, it.client("a") as ann, it.client("b") as ben:
        with it.run(ECHO):
            ann.ask("process_hold", True)
        with it.run(ECHO):
            refused(ann.ask("process_input", "x"), "forbidden", "take the hold first")
            assert ben.ask("process_hold", True).data == {"held": True}


def test_what_a_terminal_does_not_show_is_not_told() -> None:
    code = "import getpass; print('got', len(getpass.getpass()))"
    with site() as it, it.client("a") as ann:
        argv = [sys.executable, "-c", code]
        process = it.hub.run_process(argv, "p", stdin=True, pty=True)
        ann.client.subscribe("process:p")
        ann.client.expect(type="process_output", data="Password: \r")
        ann.ask("process_hold", True)
        ann.ask("process_input", "hunter2-hunter2\n")
        assert ann.told("process_input") == {"user": "ann"}
        assert process.wait(BOUND) == 0
        ann.status()
        assert not [each for each in ann.client.received if "hunter2" in str(each)]


def test_a_secret_that_is_written_is_masked_where_it_is_told() -> None:
    with site() as it, it.client("a") as ann, it.run(ECHO, mask=["hunter2-hunter2"]):
        ann.client.subscribe("process:p")
        ann.ask("process_hold", True)
        ann.ask("process_input", "it is hunter2-hunter2\n")
        assert ann.told("process_input") == {"user": "ann", "text": "it is ***\n"}
        ann.client.expect(type="process_output", data="got it is ***")


def test_a_secret_that_is_typed_in_several_messages_is_masked_where_it_is_told() -> None:
    pattern = re.compile("tok-[0-9]{4,8}")
    with site() as it, it.client("a") as ann, it.client("b") as ben:
        with it.run(ECHO, mask=["hunter2-hunter2", pattern]):
            ben.client.subscribe("process:p")

            def typed(client: User, *texts: str) -> list[str]:
                for text in texts:
                    assert client.ask("process_input", text).type == "ack"
                return [ben.told("process_input")["text"] for _ in texts]

            ann.ask("process_hold", True)
            assert typed(ann, *"ls hu\n") == ["l", "s", " ", "", "", "hu\n"]
            assert typed(ann, "a hunter2-", "hunt", "er2\n") == ["a ", "", "***\n"]
            assert "".join(typed(ann, *"tok-12345 hunter3\n")) == "*** hunter3\n"
            # Another client has the hold, and goes on with what the first one began.
            assert typed(ann, "hunter2-hun") == [""]
            ann.ask("process_hold", False)
            ben.ask("process_hold", True)
            assert typed(ben, "ter2 and hun") == ["*** and "]
            assert ben.ask("process_input").type == "ack"
            told = ben.told("process_input")
            assert (told["end"], told["text"], told["user"]) == (True, "hun", "ben")
    assert not [each for each in ben.client.received if "ter2" in str(each)]


def test_what_a_terminal_does_not_show_is_no_part_of_what_is_told_later() -> None:
    code = (
        "import getpass\ninput('first')\ngetpass.getpass('second')\nprint('got', input('third'))\n"
    )
    with site() as it, it.client("a") as ann:
        argv = [sys.executable, "-c", code]
        process = it.hub.run_process(argv, "p", stdin=True, pty=True, mask=["abcdefgh"])
        ann.client.subscribe("process:p")
        ann.ask("process_hold", True)
        ann.client.expect(type="process_output", data="first\r")
        for text, prompt in (("x\n", "second\r"), ("abcd\n", "third\r"), ("efgh\n", "got efgh")):
            ann.ask("process_input", text)
            ann.client.expect(type="process_output", data=prompt)
        told = [ann.told("process_input").get("text") for _ in range(3)]
        assert told == ["x\n", None, "efgh\n"]
        assert process.wait(BOUND) == 0


def test_a_terminal_that_shows_nothing_by_the_time_of_the_event_is_not_told() -> None:
    code = """
import signal, sys, termios

def hide(*args):
    settings = termios.tcgetattr(0)
    settings[3] &= ~termios.ECHO
    termios.tcsetattr(0, termios.TCSANOW, settings)

signal.signal(signal.SIGUSR1, hide)
print("ready", flush=True)
print("got", len(input()))
"""
    with site() as it, it.client("a") as ann:
        process = it.hub.run_process(python(code), "p", stdin=True, pty=True)
        ann.client.subscribe("process:p")
        ann.client.expect(type="process_output", data="ready")
        ann.ask("process_hold", True)
        original, timeouts = it.hub.send_event, []

        def full_at_first(event: str, *args: Any, **options: Any) -> Any:
            if event == "process_input" and not timeouts:
                timeouts.append(options["timeout"])
                os.kill(process.pid, signal.SIGUSR1)
                wait_until(lambda: not process.shows_input, BOUND)
                raise HubFull("full")
            return original(event, *args, **options)

        it.hub.send_event = full_at_first  # type: ignore[method-assign]
        assert ann.ask("process_input", "hunter2\n").type == "ack"
        it.hub.send_event = original  # type: ignore[method-assign]
        assert ann.told("process_input") == {"user": "ann"}
        assert process.wait(BOUND) == 0
        assert timeouts[0] < 0.1


def test_nothing_of_the_input_is_told_where_the_settings_say_so() -> None:
    with site(log_input=False) as it, it.client("a") as ann, it.run(ECHO):
        ann.client.subscribe("process:p")
        ann.ask("process_hold", True)
        ann.ask("process_input", "hello\n")
        assert ann.told("process_input") == {"user": "ann"}


def test_a_program_that_reads_nothing_holds_up_its_writer_alone() -> None:
    with site() as it, it.client("a") as ann, it.client("b") as ben:
        with it.run("import signal; signal.pause()"):
            ann.ask("process_hold", True)
            answers = [ann.ask("process_input", "x" * 60_000) for _ in range(3)]
            refused(answers[-1], "limit", "the program does not read its input")
            ben.client.round_trip()


def test_a_program_that_has_closed_its_input_is_said_to_have() -> None:
    with site() as it, it.client("a") as ann:
        with it.run("import os, signal; os.close(0); print('closed', flush=True); signal.pause()"):
            ann.client.subscribe("process:p")
            ann.client.expect(type="process_output", data="closed")
            ann.ask("process_hold", True)
            refused(
                ann.ask("process_input", "x"), "not_found", "the input of the program is closed"
            )


def test_a_program_without_input_cannot_be_held() -> None:
    with site() as it, it.client("a") as ann, it.run("import signal; signal.pause()", stdin=False):
        refused(ann.ask("process_hold", True), "not_found", "started without input")


def test_the_holder_sets_the_size_of_the_terminal() -> None:
    code = """
        import os, signal
        def show(*_): os.write(1, b"size %d %d\\n" % os.get_terminal_size(1))
        signal.signal(signal.SIGWINCH, show); show()
        while True: signal.pause()
    """
    with site() as it, it.client("a") as ann:
        with it.run(code, pty=True):
            ann.client.subscribe("process:p")
            ann.client.expect(type="process_output", data="size 80 24")
            size = {"columns": 100, "rows": 40}
            refused(ann.ask("process_resize", size), "forbidden", "take the hold first")
            ann.ask("process_hold", True)
            assert ann.ask("process_resize", size).type == "ack"
            ann.client.expect(type="process_output", data="size 100 40")
        with it.run(ECHO):
            ann.ask("process_hold", True)
            refused(ann.ask("process_resize", size), "not_found", "no terminal")


# --- the end -------------------------------------------------------------------------------


def test_stop_ends_a_program_and_the_status_says_so() -> None:
    with site() as it, it.client("a") as ann:
        ann.client.subscribe("process:p")
        process = it.run("import signal; print('begun', flush=True); signal.pause()")
        assert ann.ask("process_signal", "stop").type == "ack"
        assert process.wait(BOUND) == -15
        assert ann.told("process_signal") == {"user": "ann", "signal": "stop"}
        assert ann.status()["reason"] == "stopped"


def test_a_program_that_ignores_the_stop_is_killed_after_its_grace() -> None:
    with site() as it, it.client("a") as ann:
        ann.client.subscribe("process:p")
        process = it.run(DEAF, grace=0.2)
        ann.client.expect(type="process_output", data="deaf")
        ann.ask("process_signal", "stop")
        assert process.wait(BOUND) == -9


def test_kill_ends_a_program_at_once() -> None:
    with site() as it, it.client("b") as ben:
        ben.client.subscribe("process:p")
        process = it.run(DEAF, grace=60)
        ben.client.expect(type="process_output", data="deaf")
        ben.ask("process_signal", "kill")
        assert process.wait(BOUND) == -9
        assert ben.status()["reason"] == "killed"


def test_a_stop_after_the_end_is_answered() -> None:
    with site() as it, it.client("a") as ann:
        it.run("pass").wait(BOUND)
        refused(ann.ask("process_signal", "stop"), "not_found", "no such program")


# --- who may -------------------------------------------------------------------------------

REQUESTS: list[tuple[str, Any, str]] = [
    ("process_hold", True, "input"),
    ("process_input", "x", "input"),
    ("process_resize", {"columns": 80, "rows": 24}, "input"),
    ("process_signal", "stop", "stop"),
    ("process_signal", "kill", "kill"),
]


@pytest.mark.parametrize(("type", "data", "action"), REQUESTS)
def test_only_those_may_whom_the_authoriser_allows(type: str, data: Any, action: str) -> None:
    with site() as it, it.client("e") as eve, it.run(ECHO) as process:
        refused(eve.ask(type, data), "forbidden", "Control: not allowed")
        assert it.asked == [("eve", "p", action)]
        assert process.running
        it.allowed = {("eve", action)}
        answer = eve.ask(type, data)
        assert "not allowed" not in str(answer.data)


@pytest.mark.parametrize(("type", "data", "action"), REQUESTS)
def test_without_an_authoriser_nobody_may(
    type: str, data: Any, action: str, caplog: pytest.LogCaptureFixture
) -> None:
    with site(input_authoriser=None) as it, it.client("a") as ann, it.run(ECHO) as process:
        refused(ann.ask(type, data), "forbidden", "Control: not allowed")
        assert ann.ask("process_control").data["actions"] == []
        assert process.running
    assert "there is no HubConfig.input_authoriser" in caplog.text


@pytest.mark.parametrize("answer", [None, 1, "yes", SystemExit(), ValueError()])
def test_only_true_allows_it(answer: object) -> None:
    def authoriser(client: Client, process_id: str, action: str) -> Any:
        if isinstance(answer, BaseException):
            raise answer
        return answer

    with site(input_authoriser=authoriser) as it, it.client("a") as ann, it.run(ECHO):
        refused(ann.ask("process_signal", "kill"), "forbidden", "Control: not allowed")


def test_a_client_is_told_what_it_may_do() -> None:
    with site() as it, it.client("a") as ann, it.client("e") as eve:
        nothing = {"actions": [], "input": False, "terminal": False, "held": False, "holder": None}
        assert ann.ask("process_control").data == nothing
        with it.run(ECHO, pty=True):
            it.allowed.discard(("ann", "kill"))
            there = {**nothing, "input": True, "terminal": True}
            assert ann.ask("process_control").data == {**there, "actions": ["input", "stop"]}
            ann.ask("process_hold", True)
            assert ann.ask("process_control").data["held"] is True
            data = eve.ask("process_control").data
            assert data["held"] is False
            assert data["holder"]["user"] == "ann"


@pytest.mark.parametrize(
    ("type", "data", "text"),
    [
        ("process_input", "", "data must be the text"),
        ("process_input", 5, "data must be the text"),
        ("process_hold", None, "data must be true"),
        ("process_hold", "yes", "data must be true"),
        ("process_signal", "SIGTERM", 'data must be "stop" or "kill"'),
        ("process_signal", ["stop"], 'data must be "stop" or "kill"'),
        ("process_resize", None, "data must be {"),
        ("process_resize", {"columns": 80}, "data must be {"),
        ("process_resize", {"columns": 0, "rows": 24}, "data must be {"),
        ("process_resize", {"columns": True, "rows": 24}, "data must be {"),
        ("process_resize", {"columns": 80, "rows": 1 << 16}, "data must be {"),
    ],
)
def test_a_malformed_request_is_refused(type: str, data: Any, text: str) -> None:
    with site() as it, it.client("a") as ann, it.run(ECHO):
        refused(ann.ask(type, data), "bad_message", text)
        assert it.asked == []


@pytest.mark.parametrize("channel", ["", "news", "process:", "process:a b"])
def test_what_is_no_channel_of_a_program_is_refused(channel: str) -> None:
    with site() as it, it.client("a") as ann:
        answer = ann.ask("process_signal", "kill", channel=channel)
        assert (answer.type, answer.code) == ("error", "bad_channel")


def test_what_cannot_be_told_is_not_written() -> None:
    with site() as it, it.client("a") as ann, it.run(ECHO) as process:
        ann.ask("process_hold", True)
        told = threading.Event()
        it.hub.listen("process:p", lambda message: told.set())
        original = it.hub.send_event

        def full(*args: Any, **options: Any) -> Any:
            raise HubFull("full")

        it.hub.send_event = full  # type: ignore[method-assign]
        try:
            refused(ann.ask("process_input", "x\n"), "internal", "hub is full, try again")
            refused(ann.ask("process_signal", "kill"), "internal", "hub is full, try again")
        finally:
            it.hub.send_event = original  # type: ignore[method-assign]
        assert process.running
        ann.ask("process_input", "y\n")
        ann.client.subscribe("process:p", since=0)
        assert ann.client.expect(type="process_output").data == "got y"


# --- clients -------------------------------------------------------------------------------


def test_the_reconnecting_client_asks_by_request() -> None:
    with site() as it, it.run(ECHO) as process:
        with ReconnectingClient(it.server.url, token="a").start() as client:

            def ask(type: str, data: Any) -> Any:
                message = {"type": type, "channel": "process:p", "data": data}
                return client.request(message, timeout=BOUND)

            assert ask("process_hold", True) == {"held": True}
            assert ask("process_input", "x\n") is None
            assert ask("process_signal", "stop") is None
            assert process.wait(BOUND) == -15
            with pytest.raises(HubError, match="not_found"):
                ask("process_signal", "stop")


def test_what_has_ended_is_not_kept_for_its_holder() -> None:
    with site() as it, it.client("a") as ann:
        with it.run(ECHO) as process:
            ann.ask("process_hold", True)
        gone = weakref.ref(process)
        del process
        with it.run(ECHO):
            ann.ask("process_hold", True)
            wait_until(lambda: gc.collect() >= 0 and gone() is None)
