"""Clients that control programs of other processes: real hubs, buses and programs."""

from __future__ import annotations

import contextlib
import json
import tempfile
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.integration.test_process_control import BOUND, ECHO, Site, User, refused
from tests.programs import DEAF, python
from tests.receivers import StandIn
from tests.redis_servers import SERVERS
from tests.redis_servers import running as broker
from tests.support import TIMEOUT, wait_until
from ws_hub import HubFull, LocalBackplane, Message, RedisBackplane, serve
from ws_hub.backplane.bus import Notice, NoticeKind
from ws_hub.hub import shared_control

WAIT = "import signal; print('begun', flush=True); signal.pause()"
Bus = Callable[[], Any]
KILL: dict[str, Any] = {"type": "process_signal", "channel": "process:p", "data": "kill"}
HOLD = {"type": "process_hold", "channel": "process:p", "data": True}
INPUT = {"type": "process_input", "channel": "process:p", "data": "x\n"}


@pytest.fixture
def local() -> Iterator[Bus]:
    with tempfile.TemporaryDirectory(prefix="wsh-", dir="/tmp") as folder:
        yield lambda: LocalBackplane(f"{folder}/hub")


@pytest.fixture(params=["local", *SERVERS])
def bus(request: pytest.FixtureRequest) -> Iterator[Bus]:
    if request.param == "local":
        yield request.getfixturevalue("local")
        return
    with broker(request.param) as server:
        yield lambda: RedisBackplane(server.url())


@contextlib.contextmanager
def pair(bus: Bus, **of_second: Any) -> Iterator[tuple[Site, Site]]:
    """Two hubs that know each other, as those of two processes."""
    here, there = Site(backplane=bus()), Site(backplane=bus(), **of_second)
    with here.hub, there.hub, serve(here.hub) as here.server, serve(there.hub) as there.server:
        wait_until(lambda: here.hub.stats().peers == there.hub.stats().peers == 1, BOUND)
        yield here, there


def events(user: User, name: str) -> list[Any]:
    """Return what was told of a name so far, and is of no later message."""
    user.client.round_trip()
    found = [each.data for each in user.client.received if each.type == "event"]
    return [each["data"] for each in found if each["event"] == name]


# --- what is done --------------------------------------------------------------------------


def test_a_client_of_one_process_controls_a_program_of_another(bus: Bus) -> None:
    code = """
        import os, signal, sys
        def show(*_): os.write(1, b"size %d %d\\n" % os.get_terminal_size(1))
        signal.signal(signal.SIGWINCH, show)
        print("begun", flush=True)
        while True:
            line = os.read(0, 100)
            os.write(1, b"got " + line)
    """
    with pair(bus) as (here, there), here.client("a") as ann, there.client("b") as ben:
        process = there.run(code, pty=True)
        for each in (ann, ben):
            each.client.subscribe("process:p", since=0)
            each.client.expect(type="process_output", data="begun")
        assert ann.ask("process_hold", True).data == {"held": True}
        assert ann.ask("process_input", "yes\n").type == "ack"
        ann.client.expect(type="process_output", data="got yes")
        size = {"columns": 100, "rows": 40}
        assert ann.ask("process_resize", size).type == "ack"
        ann.client.expect(type="process_output", data="size 100 40")
        assert ann.ask("process_signal", "stop").type == "ack"
        assert process.wait(BOUND) == -15
        assert ann.status()["reason"] == "stopped"
        assert ben.status()["reason"] == "stopped"
        for each in (ann, ben):  # each is told once of each, with who it was
            for name, data in (
                ("process_hold", {"held": True}),
                ("process_input", {"text": "yes\n"}),
                ("process_signal", {"signal": "stop"}),
            ):
                (told,) = events(each, name)
                assert told.pop("connection") > 0
                assert told == {"user": "ann", **data}
        refused(ann.ask("process_signal", "stop"), "not_found", "no such program runs")


def test_one_client_of_all_processes_holds_the_input(local: Bus) -> None:
    with pair(local) as (here, there), here.client("a") as ann, there.client("b") as ben:
        with there.run(ECHO):
            refused(ann.ask("process_input", "x"), "forbidden", "take the hold first")
            ann.ask("process_hold", True)
            assert ann.ask("process_hold", True).data == {"held": True}
            refused(ben.ask("process_hold", True), "forbidden", "the input is held by 'ann'")
            refused(ben.ask("process_input", "x"), "forbidden", "the input is held by 'ann'")
            assert ann.ask("process_hold", False).data == {"held": False}
            assert ben.ask("process_hold", True).data == {"held": True}
            refused(ann.ask("process_hold", True), "forbidden", "the input is held by 'ben'")
            refused(ann.ask("process_input", "x"), "forbidden", "the input is held by 'ben'")


def test_clients_with_equal_numbers_of_two_processes_are_two(local: Bus) -> None:
    with pair(local) as (here, there), here.client("a") as ann, there.client("a") as other:
        with there.run(ECHO):
            ann.ask("process_hold", True)
            refused(other.ask("process_hold", True), "forbidden", "the input is held by 'ann'")
            refused(other.ask("process_input", "x"), "forbidden", "the input is held by 'ann'")


def test_a_holder_of_another_process_that_leaves_releases_the_hold(bus: Bus) -> None:
    with pair(bus) as (here, there), there.client("b") as ben, there.run(ECHO):
        ben.client.subscribe("process:p")
        with here.client("a") as ann:
            ann.ask("process_hold", True)
            assert ben.told("process_hold") == {"user": "ann", "held": True}
        assert ben.told("process_hold") == {"user": "ann", "held": False}
        assert ben.ask("process_hold", True).data == {"held": True}


def test_a_hold_ends_with_the_process_of_its_client(local: Bus) -> None:
    with pair(local) as (here, there), there.client("b") as ben, there.run(ECHO):
        ben.client.subscribe("process:p")
        with contextlib.ExitStack() as stack:
            ann = stack.enter_context(here.client("a"))
            ann.ask("process_hold", True)
            assert ben.told("process_hold") == {"user": "ann", "held": True}
            here.hub.stop()
        assert ben.told("process_hold") == {"user": "ann", "held": False}


def test_what_a_client_may_do_is_said_of_a_program_of_another_process(local: Bus) -> None:
    with pair(local) as (here, there), here.client("a") as ann, here.client("e") as eve:
        nothing = {"actions": [], "input": False, "terminal": False, "held": False, "holder": None}
        assert ann.ask("process_control").data == nothing
        with there.run(ECHO, pty=True):
            here.allowed.discard(("ann", "kill"))
            known = {**nothing, "input": True, "terminal": True}
            assert ann.ask("process_control").data == {**known, "actions": ["input", "stop"]}
            ann.ask("process_hold", True)
            found = ann.ask("process_control").data
            assert found["held"] is True
            assert found["holder"]["user"] == "ann"
            assert eve.ask("process_control").data == nothing  # nobody is asked for that


# --- who may -------------------------------------------------------------------------------


def test_the_authoriser_is_asked_where_the_client_is(local: Bus) -> None:
    with pair(local, input_authoriser=None) as (here, there), here.client("e") as eve:
        with there.run(ECHO) as process, here.client("a") as ann:
            refused(eve.ask("process_signal", "kill"), "forbidden", "Control: not allowed")
            assert here.asked == [("eve", "p", "kill")]
            assert process.running
            assert ann.ask("process_signal", "kill").type == "ack"
            assert process.wait(BOUND) == -9
            assert there.asked == []


@pytest.mark.parametrize("quiet", [0, 1])
def test_input_is_told_where_the_settings_of_both_allow_it(local: Bus, quiet: int) -> None:
    here, there = (Site(backplane=local(), log_input=number != quiet) for number in range(2))
    with here.hub, there.hub, serve(here.hub) as here.server, there.run(ECHO):
        wait_until(lambda: here.hub.stats().peers == there.hub.stats().peers == 1, BOUND)
        with here.client("a") as ann:
            ann.client.subscribe("process:p")
            ann.ask("process_hold", True)
            ann.ask("process_input", "hello\n")
            assert ann.told("process_input") == {"user": "ann"}


# --- what goes wrong -----------------------------------------------------------------------


def test_a_program_elsewhere_that_reads_nothing_holds_up_its_writer_alone(local: Bus) -> None:
    with pair(local) as (here, there), here.client("a") as ann, here.client("b") as ben:
        there.hub.run_process(python(ECHO), "q", stdin=True)
        with there.run(WAIT):
            ann.ask("process_hold", True)
            ben.ask("process_hold", True, channel="process:q")
            waiting = threading.Thread(target=ann.ask, args=("process_input", "x" * 60_000))
            answers = [ann.ask("process_input", "x" * 60_000) for _ in range(2)]
            waiting.start()
            assert ben.ask("process_input", "y\n", channel="process:q").type == "ack"
            waiting.join(BOUND)
            answers.append(ann.ask("process_input", "x" * 60_000))
            refused(answers[-1], "limit", "the program does not read its input")


def test_a_full_hub_elsewhere_does_nothing_and_says_so(
    local: Bus, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*args: Any, **options: Any) -> Any:
        raise HubFull("full")

    with pair(local) as (here, there), here.client("a") as ann, there.run(ECHO) as process:
        with monkeypatch.context() as patch:
            patch.setattr(there.hub, "send_event", full)
            refused(ann.ask("process_signal", "kill"), "internal", "hub is full, try again")
        assert process.running


class Peer(StandIn):
    """A process that is asked, and does with that what a test has it do."""

    def __init__(self, bus: Any) -> None:
        self.bus = bus
        self.asked = threading.Event()
        self.answers: list[dict[str, Any]] = []

    def receive(self, notice: Notice, source: str) -> bool:
        if notice.kind is NoticeKind.ASK:
            self.asked.set()
        elif notice.kind is NoticeKind.ANSWER:
            self.answers += map(json.loads, notice.texts)
        return True

    def tell(self, **fields: Any) -> None:
        self.bus.tell(Notice(NoticeKind.ASK, texts=(json.dumps(fields).encode(),)))


@contextlib.contextmanager
def beside(bus: Bus, **settings: Any) -> Iterator[tuple[Site, Peer]]:
    """A hub, and another process that is none."""
    peer, site = Peer(bus()), Site(backplane=bus(), **settings)
    with site.hub, serve(site.hub) as site.server:
        peer.bus.open(peer)
        wait_until(lambda: site.hub.stats().peers == peer.bus.stats().peers == 1, BOUND)
        yield site, peer
        peer.bus.close(TIMEOUT)


def test_a_process_that_does_not_answer_is_said(
    local: Bus, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shared_control, "ANSWER_WITHIN", 0.1)
    with beside(local) as (site, _), site.client("a") as ann:
        refused(ann.ask("process_signal", "kill"), "internal", "does not answer, and may have done")
        assert ann.ask("process_control").data["actions"] == []


def test_a_process_that_ends_while_it_is_asked_is_not_waited_for(
    local: Bus, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shared_control, "ANSWER_WITHIN", 600.0)
    with beside(local) as (site, peer), site.client("a") as ann:
        ending = threading.Thread(target=lambda: peer.asked.wait(BOUND) and peer.bus.close(1.0))
        ending.start()
        refused(ann.ask("process_signal", "kill"), "not_found", "no such program runs")
        ending.join()


def test_a_hub_that_stops_waits_for_no_answer(local: Bus, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shared_control, "ANSWER_WITHIN", 600.0)
    with beside(local) as (site, peer), site.client("a") as ann:
        ann.client.send(Message(**KILL))
        assert peer.asked.wait(BOUND)
        site.hub.stop()


def test_a_request_that_comes_twice_is_carried_out_once(local: Bus) -> None:
    with beside(local) as (site, peer), site.run(ECHO), site.client("b") as ben:
        ben.client.subscribe("process:p")
        asker = {"kind": "control", "connection": 7, "user": "ann"}
        peer.tell(id="1", request=HOLD, **asker)
        assert ben.told("process_hold") == {"user": "ann", "held": True}
        for _ in range(3):
            peer.tell(id="2", request=INPUT, **asker)
        ben.client.expect(type="process_output", data="got x")
        peer.tell(id="3", request={**INPUT, "data": "y\n"}, **asker)
        ben.client.expect(type="process_output", data="got y")
        assert len(events(ben, "process_input")) == 2


def test_lost_notices_end_the_holds_of_other_processes(local: Bus) -> None:
    text = json.dumps({"type": "event", "channel": "news", "data": "x" * 1_000_000}).encode()
    with beside(local) as (site, peer), site.client("b") as ben, site.client("a") as ann:
        site.hub.run_process(python(ECHO), "q", stdin=True)
        with site.run(ECHO):
            ann.ask("process_hold", True, channel="process:q")
            ben.client.subscribe("process:p")
            peer.tell(id="1", kind="control", connection=7, user="eve", request=HOLD)
            assert ben.told("process_hold") == {"user": "eve", "held": True}
            listener = site.hub.listen("news", lambda message: None)  # else it is told to nobody
            while not site.hub.stats().bus_lost:
                for _ in range(64):
                    peer.bus.tell(Notice(NoticeKind.PUBLISH, "news", (text,)))
            listener.close()
            assert ben.told("process_hold") == {"user": "eve", "held": False}
            assert ann.ask("process_control", channel="process:q").data["held"]


@pytest.mark.parametrize(
    "fields",
    [
        {"kind": "other"},
        {"kind": 5, "connection": 1, "request": KILL},
        {"kind": "control"},
        {"kind": "control", "connection": 1, "request": "kill"},
        {"kind": "control", "connection": 1, "request": {**KILL, "data": "SIGKILL"}},
        {"kind": "control", "connection": 1, "request": {**KILL, "channel": "news"}},
        {"kind": "control", "connection": "1", "request": KILL},
        {"kind": "control", "connection": 1, "user": 5, "request": KILL},
        {"kind": "report", "channel": 5, "user": None},
    ],
)
def test_what_is_no_request_is_left_out(
    local: Bus, fields: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    with beside(local) as (site, peer), site.run(WAIT) as process:
        peer.tell(id="1", **fields)
        wait_until(lambda: "what is not understood" in caplog.text, BOUND)
        assert process.running
        peer.tell(id="2", kind="control", connection=1, user=None, request=KILL)
        assert process.wait(BOUND) == -9


def test_a_program_that_ignores_the_stop_of_another_process_is_killed(local: Bus) -> None:
    with pair(local) as (here, there), here.client("a") as ann:
        ann.client.subscribe("process:p")
        process = there.run(DEAF, grace=0.2)
        ann.client.expect(type="process_output", data="deaf")
        assert ann.ask("process_signal", "stop").type == "ack"
        assert process.wait(BOUND) == -9
