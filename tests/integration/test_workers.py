"""Several gunicorn workers with a backplane of each kind: they are as one."""

from __future__ import annotations

import contextlib
import functools
import json
import os
import signal
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import pytest

from tests.integration.apps.launch import Running, server
from tests.integration.apps.live import subscribe
from tests.redis_servers import SERVERS
from tests.redis_servers import running as broker
from tests.support import RawPeer, wait_until

pytestmark = pytest.mark.timeout(240)

WORKERS = 2
MISSED = 45.0  # seconds, at most, for a killed worker to be missed: with a server it takes fifteen


@pytest.fixture(params=["local", *SERVERS])
def running(request: pytest.FixtureRequest) -> Iterator[Running]:
    with serving(request.param) as found:
        yield found
        assert found.stop() == 0
        assert found.complaints() == [], found.log()


@contextlib.contextmanager
def serving(kind: str) -> Iterator[Running]:
    """Serve with a backplane: "local", or by a server of SERVERS."""
    options = ["--workers", str(WORKERS), "--threads", "8", "--config", "python:ws_hub.gunicorn"]
    with contextlib.ExitStack() as stack:
        # A temporary directory of their own: the path of a socket must be short.
        folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="wsh-", dir="/tmp"))
        address = "local" if kind == "local" else stack.enter_context(broker(kind)).url()
        env = {"WS_HUB_BACKPLANE": address, "TMPDIR": folder}
        yield stack.enter_context(server("gthread", app="workers", options=options, **env))


def ask(running: Running, page: str, **query: str) -> dict[str, Any]:
    response = running.get(f"/{page}?{urlencode(query)}")
    assert response.status == 200, running.log()
    found: dict[str, Any] = json.loads(response.body)  # type: ignore[attr-defined]
    return found


def states(running: Running) -> dict[int, dict[str, Any]]:
    """Return the state of each worker, once all of them are there and know each other."""
    found: dict[int, dict[str, Any]] = {}

    def all_there() -> bool:
        state = ask(running, "state")
        found[state["pid"]] = state
        for pid in [*found]:
            if not os.path.exists(f"/proc/{pid}"):
                del found[pid]
        return len(found) == WORKERS and all(
            each["peers"] == WORKERS - 1 for each in found.values()
        )

    wait_until(all_there, MISSED, what="all workers")
    return found


@contextlib.contextmanager
def clients_everywhere(
    running: Running, *channels: str, user: str = "ann"
) -> Iterator[dict[int, RawPeer]]:
    """Have clients in each worker; yield all of them, subscribed."""
    with contextlib.ExitStack() as stack:
        found: list[RawPeer] = []
        while not all(state["clients"] for state in states(running).values()):
            headers = [("X-User", user)]
            peer = RawPeer(running.host, running.port, headers=headers, timeout=MISSED)
            found.append(stack.enter_context(peer))
            for channel in channels:
                subscribe(peer, channel)
        yield dict(enumerate(found))


def expect(peers: dict[int, RawPeer], *data: str) -> list[list[dict[str, Any]]]:
    """Return what each client gets, which must be this; workers may publish it in any order."""
    found = [[peer.recv_json() for _ in data] for peer in peers.values()]
    for each in found:
        assert sorted(said(message) for message in each) == sorted(data)
    return found


def said(message: dict[str, Any]) -> Any:
    data = message["data"]
    return data["data"] if isinstance(data, dict) else data


def test_what_one_worker_publishes_reaches_the_clients_of_all_once(
    running: Running,
) -> None:
    with clients_everywhere(running, "news", "kept:a", "state") as peers:
        for number in range(5):
            ask(running, "send", channel="news", data=f"news {number}")
        expect(peers, *[f"news {number}" for number in range(5)])
        ask(running, "broadcast", data="to all")
        ask(running, "user", id="ann", data="to ann")
        expect(peers, "to all", "to ann")
        ask(running, "user", id="bob", data="to bob")
        ask(running, "send", channel="state", key="cpu", data="40")
        (first, *others) = expect(peers, "40")
        assert first[0]["key"] == "cpu"
        for number in range(20):
            ask(running, "send", channel="kept:a", data=f"kept {number}")
        found = expect(peers, *[f"kept {number}" for number in range(20)])
        for messages in found:  # these come in one order, everywhere
            assert [each["seq"] for each in messages] == list(range(1, 21))
            assert [said(each) for each in messages] == [said(each) for each in found[0]]


def test_a_subscription_that_is_answered_misses_nothing_of_another_worker(
    running: Running,
) -> None:
    with clients_everywhere(running) as peers:
        for number in range(60):
            peer = peers[number % len(peers)]
            subscribe(peer, f"new:{number}")
            ask(running, "send", channel=f"new:{number}", data=str(number))  # any worker does
            assert said(peer.recv_json()) == str(number)


def test_workers_of_one_machine_without_subscribers_are_told_nothing() -> None:
    with serving("local") as running, clients_everywhere(running) as peers:
        subscribe(peers[0], "news")
        before = sum(state["told"] for state in states(running).values())
        for number in range(40):
            ask(running, "send", channel="other", data=str(number))
            ask(running, "user", id="nobody", data=str(number))
        told = sum(state["told"] for state in states(running).values()) - before
        assert told < 40  # of 80; presence tells a few
        ask(running, "send", channel="news", data="last")
        assert said(peers[0].recv_json()) == "last"


def test_a_worker_that_stands_still_is_not_answered_for(running: Running) -> None:
    stopped, other = states(running)
    os.kill(stopped, signal.SIGSTOP)
    try:
        wait_until(lambda: stands_still(stopped))
        found = ask_of(running, other)
    finally:
        os.kill(stopped, signal.SIGCONT)
    assert (found["count"], found["online"]) == (None, None)
    assert [each["pid"] for each in found["instances"]] == [other]


def stands_still(pid: int) -> bool:
    """Whether each of its threads has stopped, which a signal does not wait for."""
    try:
        stats = [each.read_text() for each in Path(f"/proc/{pid}/task").glob("*/stat")]
    except OSError:  # one ends just now
        return False
    return {stat.rpartition(")")[2].split()[0] for stat in stats} == {"T"}


def ask_of(running: Running, pid: int) -> dict[str, Any]:
    """Ask the only worker that answers, with little time for the others."""
    found = ask(running, "all", channel="news", user="ann", timeout="0.5")
    assert found["pid"] == pid
    return found


def test_a_users_connections_to_all_workers_are_closed(running: Running) -> None:
    with clients_everywhere(running) as peers:
        ask(running, "disconnect", id="bob")
        ask(running, "disconnect", id="ann")
        for peer in peers.values():
            assert peer.recv_close()[0] == 4401


# Those of a server are alike, and it takes long there until a killed worker is missed.
ONE_OF_EACH = ["local", *list(SERVERS)[:1]]


@pytest.mark.parametrize("kind", ONE_OF_EACH)
def test_a_worker_that_is_killed_takes_nothing_with_it_but_its_clients(kind: str) -> None:
    with (
        serving(kind) as running,
        clients_everywhere(running, "kept:a", "process:job") as peers,
    ):
        ask(running, "send", channel="kept:a", data="1")
        expect(peers, "1")
        pid = ask(running, "run", id="job")["pid"]
        expect_status(peers, "running")
        # No other worker runs it as well, and none is told apart from this one.
        refused = {(answer := ask(running, "run", id="job"))["pid"]: answer for _ in range(20)}
        assert all(each["refused"] for each in refused.values())
        os.kill(pid, signal.SIGKILL)
        left = {place: peer for place, peer in peers.items() if hears_of_a_loss(peer)}
        assert 0 < len(left) < len(peers)
        new = states(running)
        assert pid not in new
        assert "refused" not in ask(running, "run", id="job")
        expect_status(left, "running")
        ask(running, "send", channel="kept:a", data="2")
        expect(left, "2")
        with RawPeer(running.host, running.port) as late:
            subscribe(late, "kept:a", since=0)
            assert [(each := late.recv_json())["seq"] and said(each) for _ in "12"] == ["1", "2"]


@pytest.mark.parametrize("kind", ONE_OF_EACH)
def test_all_workers_are_asked_and_a_killed_one_counts_no_more(kind: str) -> None:
    with (
        serving(kind) as running,
        clients_everywhere(running, "news", user="ann") as peers,
        RawPeer(running.host, running.port, headers=[("X-User", "bob")]) as bob,
    ):
        subscribe(bob, "news")
        found = ask(running, "all", channel="news", user="bob")
        assert (found["count"], found["online"]) == (len(peers) + 1, True)
        workers = {each["pid"]: each for each in found["instances"]}
        assert [each["is_own"] for each in found["instances"]] == [True] + [False] * (WORKERS - 1)
        assert found["instances"][0]["pid"] == found["pid"]
        assert workers.keys() == states(running).keys()
        assert sum(each["clients"] for each in workers.values()) == len(peers) + 1
        assert {each["channels"] for each in workers.values()} == {1}
        assert sum(each["subscriptions"] for each in workers.values()) == len(peers) + 1
        assert sorted(each["users"] for each in workers.values()) == [1, 2]
        assert ask(running, "all", channel="none", user="eve")["online"] is False

        (home,) = [pid for pid, each in workers.items() if each["users"] == 2]
        os.kill(home, signal.SIGKILL)
        wait_until(lambda: not is_served(bob))
        wait_until(lambda: home not in states(running))
        # The other one waits for the answer of the killed one until it misses it.
        found = wait_until(lambda: answered(running, channel="news", user="bob"), MISSED)
        assert found["online"] is False
        assert found["count"] == sum(is_served(peer) for peer in peers.values())
        assert home not in {each["pid"] for each in found["instances"]}


def answered(running: Running, **query: str) -> dict[str, Any] | None:
    """Ask all workers, with little time; None where one has not answered."""
    found = ask(running, "all", timeout="0.5", **query)
    return None if None in (found["count"], found["online"]) else found


@pytest.mark.parametrize("kind", ONE_OF_EACH)
def test_presence_is_that_of_all_workers_and_a_killed_one_leaves_no_ghost(kind: str) -> None:
    with (
        serving(kind) as running,
        clients_everywhere(running, "room:1") as peers,
        RawPeer(running.host, running.port, headers=[("X-User", "bob")]) as bob,
    ):
        here = len(peers)
        subscribe(bob, "room:1")
        for pid in states(running):
            wait_until(lambda pid=pid: present(running, pid) == (2, here + 1), what="all present")
        killed = ask(running, "state")["pid"]
        os.kill(killed, signal.SIGKILL)
        left = sum([is_served(peer) for peer in (*peers.values(), bob)])
        assert 0 < left < here + 1
        for pid in states(running):  # the new worker as well
            wait_until(lambda pid=pid: present(running, pid)[1] == left, MISSED, "no ghosts")


def present(running: Running, pid: int) -> tuple[int, int]:
    """Return how many users and connections a worker sees."""
    found = wait_until(
        lambda: (each := ask(running, "presence", channel="room:1"))["pid"] == pid and each
    )
    return found["users"], found["connections"]


def answer_of(peer: RawPeer, type: str, data: object = None) -> dict[str, Any]:
    """Ask something of the program `job`; return the answer, and leave out what comes before."""
    peer.send_json({"type": type, "channel": "process:job", "data": data, "id": type})
    while (message := peer.recv_json()).get("id") != type:
        pass
    return dict(message)


@pytest.mark.parametrize("kind", ["local", *SERVERS])
def test_clients_of_all_workers_control_a_program_of_one(kind: str) -> None:
    with serving(kind) as running, clients_everywhere(running) as peers:
        pid = ask(running, "run", id="job")["pid"]
        for number, peer in peers.items():
            assert answer_of(peer, "process_hold", True)["data"] == {"held": True}
            for other in [each for each in peers.values() if each is not peer]:
                refused = answer_of(other, "process_input", "no\n")
                assert refused["code"] == "forbidden"
                assert "is held by 'ann'" in refused["data"]
            assert answer_of(peer, "process_input", f"line {number}\n")["type"] == "ack"
            assert answer_of(peer, "process_hold", False)["data"] == {"held": False}
        with RawPeer(running.host, running.port, headers=[("X-User", "bob")]) as bob:
            refused = answer_of(bob, "process_signal", "kill")
            assert (refused["code"], refused["data"]) == ("forbidden", "Control: not allowed")
            subscribe(bob, "process:job", since=0)
            read = [f"line {number}" for number in peers]
            while read:  # what the program has read, and prints
                data = bob.recv_json()["data"]
                if data == read[0]:
                    del read[0]
        os.kill(pid, signal.SIGKILL)
        left = [peer for peer in peers.values() if is_served(peer)]
        assert left

        def is_gone(peer: RawPeer) -> bool:
            return answer_of(peer, "process_signal", "kill")["code"] == "not_found"

        for peer in left:  # with a server it takes some time until the others know of its end
            wait_until(functools.partial(is_gone, peer), MISSED, "the end of the worker")


def is_served(peer: RawPeer) -> bool:
    """Return whether a client's connection still works."""
    try:
        peer.send_json({"type": "ping", "id": "1"})
        while peer.recv_json()["type"] != "pong":
            pass
    except (ConnectionError, EOFError):
        return False
    return True


def expect_status(peers: dict[int, RawPeer], status: str) -> None:
    for peer in peers.values():
        message = peer.recv_json()
        assert (message["type"], message["data"]["status"]) == ("process_status", status)


def hears_of_a_loss(peer: RawPeer) -> bool:
    """Return whether a client is told that the program is lost; False when it is cut itself."""
    try:
        expect_status({0: peer}, "lost")
    except (ConnectionError, EOFError):
        return False
    return True
