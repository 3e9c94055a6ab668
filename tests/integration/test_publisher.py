"""Publishers: what programs without sockets publish, to the clients of those that have some."""

from __future__ import annotations

import contextlib
import logging
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest

from tests.integration.apps.launch import START, server
from tests.integration.apps.live import Live, at_once, subscribe
from tests.integration.apps.places import PLACES, Place, place_of
from tests.interventions import patient_histories
from tests.support import TIMEOUT, RawPeer, wait_until
from ws_hub import (
    AuthResult,
    ChannelRule,
    ConfigError,
    Delivery,
    Hub,
    HubConfig,
    HubNotRunning,
    InvalidName,
    LocalBackplane,
    MessageEncodeError,
    ProcessAlreadyRunning,
    Publisher,
    SqliteHistory,
    WaitTimeout,
    serve,
)

RULES = [
    ChannelRule("kept:*", history_messages=10_000),
    ChannelRule("state", keyed=True),
]
WAIT = 20.0
ALONE = "no process of the application is reached"


@pytest.fixture(params=PLACES)
def place(request: pytest.FixtureRequest) -> Iterator[Place]:
    with place_of(request.param) as found:
        yield found


only_local = pytest.mark.parametrize("place", ["local"], indirect=True)


@contextlib.contextmanager
def application(place: Place, **settings: Any) -> Iterator[Live]:
    """Serve a hub with this address."""
    config = HubConfig(**{"rules": RULES, **settings})
    with Hub(config, backplane=place.address) as hub, serve(hub) as server:
        yield Live(hub, server, None)  # type: ignore[arg-type]


def has_run(place: Place, **settings: Any) -> None:
    """Have a hub run there, and end."""
    with Hub(HubConfig(**{"rules": RULES, **settings}), backplane=place.address):
        pass


def script(place: Place, text: str, *arguments: str) -> subprocess.Popen[str]:
    """Start a program that has a `publisher`, which it does not close."""
    head = f"import sys\nfrom ws_hub import Publisher\npublisher = Publisher({place.address!r})\n"
    return subprocess.Popen(
        [sys.executable, "-c", head + text, *arguments],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def run(place: Place, text: str) -> None:
    """Run such a program to its end; it warns of nothing."""
    with script(place, text) as process:
        assert process.communicate(timeout=START) == ("", "")
    assert process.returncode == 0


def said(peer: RawPeer, count: int = 1) -> list[Any]:
    """Return the data of messages."""
    return [peer.recv_json()["data"] for _ in range(count)]


def event(data: Any) -> dict[str, Any]:
    return {"type": "event", "data": data}


# --- what arrives --------------------------------------------------------------------------

_CRON = """
publisher.broadcast({"type": "event", "data": "to all"})
publisher.send_to_channel("news", {"type": "event", "data": "news"})
publisher.send_event("saved", {"id": 7}, channel="news")
publisher.send_event("cpu", 40, channel="state", key="cpu")
publisher.send_error("it is over", channel="news")
publisher.send_to_user(7, {"type": "event", "data": "to ann"})
publisher.send_to_user("8", {"type": "event", "data": "to bob"})
"""


def test_what_a_script_publishes_reaches_the_clients_of_the_application(place: Place) -> None:
    who = AuthResult(valid=True, user_id="7")
    with application(place, authenticator=lambda environ: who) as here:
        with here.subscribed("news", "state") as peer:
            run(place, _CRON)
            found = said(peer, 6)
            found.remove({"event": "cpu", "data": 40})  # a keyed channel goes its own way
            saved = {"event": "saved", "data": {"id": 7}}
            assert found == ["to all", "news", saved, "it is over", "to ann"]
            run(place, 'publisher.disconnect(7, 4403, "fired")\n')
            assert peer.recv_close() == (4403, "fired")
        stats = here.hub.stats()
        assert (stats.bus_received, stats.bus_told, stats.bus_lost, stats.peers) == (8, 0, 0, 0)


def test_workers_of_gunicorn_all_get_it(place: Place) -> None:
    options = ["--workers", "2", "--threads", "4", "--config", "python:ws_hub.gunicorn"]
    env = {"WS_HUB_BACKPLANE": place.address}
    with (
        server("gthread", app="workers", options=options, **env) as running,
        Publisher(place.address) as publisher,
        contextlib.ExitStack() as stack,
    ):
        running.state()  # the hub of a worker begins with its first request

        def reaches_both() -> bool:
            running.state()
            publisher.send_to_user("nobody", event("anybody?"))
            return publisher.peers() == 2

        wait_until(reaches_both, START, "both workers")
        peers: list[RawPeer] = []
        with_clients: set[int] = set()
        while len(with_clients) < 2:
            peer = stack.enter_context(RawPeer(running.host, running.port))
            subscribe(peer, "news")
            subscribe(peer, "kept:a")
            peers.append(peer)
            state = running.state()
            with_clients |= {state["pid"]} if state["clients"] else set()
        publisher.send_to_channel("news", event("at once"))
        for peer in peers:
            assert said(peer) == ["at once"]
        delivery = publisher.send_to_channel("kept:a", event("kept"), wait=WAIT)
        assert delivery == Delivery(seq=1, subscribers=0, queued=0, dropped=0)
        for peer in peers:
            message = peer.recv_json()
            assert (message["data"], message["seq"]) == ("kept", 1)
        stack.close()
        assert running.stop() == 0
        assert running.complaints() == [], running.log()


def test_a_channel_with_history_has_one_numbering(place: Place) -> None:
    with application(place) as here, Publisher(place.address) as publisher:
        with here.subscribed("kept:a") as peer:
            for number in range(1, 6, 2):
                assert publisher.send_to_channel("kept:a", event(number), wait=WAIT) == Delivery(
                    number, 0, 0, 0
                )
                assert here.hub.send_to_channel("kept:a", event(number + 1), wait=WAIT) == Delivery(
                    number + 1, 1, 1, 0
                )
            messages = [peer.recv_json() for _ in range(6)]
            assert [each["seq"] for each in messages] == [each["data"] for each in messages]
            assert [each["seq"] for each in messages] == [1, 2, 3, 4, 5, 6]
    assert publisher.close()


def test_what_is_kept_while_nobody_runs_is_there_later(
    place: Place, caplog: pytest.LogCaptureFixture
) -> None:
    has_run(place)
    run(place, 'publisher.send_event("saved", 1, channel="kept:a")\n')
    with Publisher(place.address) as publisher:
        assert publisher.peers() == 0
        assert (publisher.keeps("kept:a"), publisher.keeps("news")) == (True, False)
        delivery = publisher.send_event("saved", 2, channel="kept:a", wait=WAIT)
        assert delivery.seq == 2
    with application(place) as here, here.peer() as peer:
        subscribe(peer, "kept:a", since=0)
        assert [each["data"] for each in said(peer, 2)] == [1, 2]
    assert ALONE not in caplog.text


def test_the_history_that_the_application_has_of_its_own_is_used(place: Place) -> None:
    file = place.folder / "own.db"
    with application(place, history=SqliteHistory(file)) as here:
        with here.subscribed("kept:a") as peer, Publisher(place.address) as publisher:
            assert publisher.send_event("saved", 1, channel="kept:a", wait=WAIT).seq == 1
            assert peer.recv_json()["seq"] == 1
    assert not place.has_history()


def test_a_store_that_cannot_be_opened_is_told(place: Place) -> None:
    file = place.folder / "own.db"
    has_run(place, history=SqliteHistory(file))
    rules = place.rules() or ""
    for other, told in (
        ("TapeHistory", "keeps its history in a TapeHistory"),
        ("/nowhere/own.db", "/nowhere/own.db, which is not on this machine"),
    ):
        place.set_rules(rules.replace(str(file), other))
        with Publisher(place.address) as publisher, pytest.raises(ConfigError, match=told):
            publisher.peers()


def test_publishers_at_once_lose_nothing(place: Place) -> None:
    """Their threads are the first to use them, all at the same moment."""
    threads, each_sends = 4, 100
    with application(place) as here, here.subscribed("news", "kept:a") as peer:
        with Publisher(place.address) as first, Publisher(place.address) as second:
            begin = threading.Barrier(2 * threads)

            def publish(publisher: Publisher, name: str) -> None:
                begin.wait(WAIT)
                for number in range(each_sends):
                    channel = "kept:a" if number % 2 else "news"
                    publisher.send_to_channel(channel, event([name, number]))

            jobs = [
                lambda publisher=publisher, name=f"{place}-{number}": publish(publisher, name)
                for place, publisher in enumerate((first, second))
                for number in range(threads)
            ]
            with at_once(*jobs):
                messages = [peer.recv_json() for _ in range(2 * threads * each_sends)]
        by_sender: dict[tuple[str, str], list[int]] = {}
        for message in messages:
            name, number = message["data"]
            by_sender.setdefault((name, message["channel"]), []).append(number)
        assert len(by_sender) == 4 * threads
        for (_, channel), numbers in by_sender.items():
            assert numbers == list(range(int(channel == "kept:a"), each_sends, 2))
        kept = [each["seq"] for each in messages if each["channel"] == "kept:a"]
        assert kept == list(range(1, threads * each_sends + 1))


def test_a_publisher_beside_a_hub_of_the_same_process_reaches_it(place: Place) -> None:
    with application(place) as here, Publisher(place.backplane()) as publisher:
        with here.subscribed("news") as peer:
            publisher.send_event("said", 1, channel="news")
            here.hub.send_event("said", 2, channel="news")
            assert sorted(each["data"] for each in said(peer, 2)) == [1, 2]
            assert (publisher.peers(), here.hub.stats().peers) == (1, 0)


# --- programs, logs and prints -------------------------------------------------------------

_RUNS = """
program = publisher.run_process([sys.executable, "-c", sys.argv[1]], "job")
print(program.pid, flush=True)
sys.stdin.read()
"""
_OUTPUT = "import time; print('begun', flush=True); time.sleep(600)"


def status_of(message: Any) -> Any:
    return message["data"]["status"] if message["type"] == "process_status" else message["data"]


def test_a_program_is_streamed_from_its_start_to_its_exit(place: Place) -> None:
    with application(place) as here, here.subscribed("process:job") as peer:
        lines = "print('one'); print('two'); raise SystemExit(3)"
        with script(place, _RUNS, lines) as process:
            found = [peer.recv_json() for _ in range(4)]
            process.communicate(timeout=START)
        assert [status_of(each) for each in found] == ["running", "one", "two", "exited"]
        assert found[-1]["data"]["exitCode"] == 3
        assert [each["seq"] for each in found] == [1, 2, 3, 4]


def test_a_program_is_lost_when_its_process_is_killed(place: Place) -> None:
    with application(place) as here, here.subscribed("process:job") as peer:
        with script(place, _RUNS, _OUTPUT) as process:
            assert [status_of(peer.recv_json()) for _ in range(2)] == ["running", "begun"]
            with pytest.raises(ProcessAlreadyRunning):
                here.hub.run_process(["true"], "job")
            assert process.stdout is not None
            program = int(process.stdout.readline())
            process.kill()
            peer.sock.settimeout(2 * TIMEOUT)  # ten seconds until it is gone, and five to a look
            assert status_of(peer.recv_json()) == "lost"
        wait_until(lambda: not os.path.exists(f"/proc/{program}"), START, "the end of the program")


def test_close_ends_the_programs(place: Place) -> None:
    with application(place) as here, here.subscribed("process:job") as peer:
        with Publisher(place.address) as publisher:
            process = publisher.run_process([sys.executable, "-c", _OUTPUT], "job")
            assert [status_of(peer.recv_json()) for _ in range(2)] == ["running", "begun"]
        assert not process.running
        assert status_of(peer.recv_json()) == "exited"


def test_logs_and_prints_arrive(place: Place) -> None:
    log = logging.getLogger("tests.publisher")
    with application(place) as here, here.subscribed("logs", "process:prints") as peer:
        with Publisher(place.address) as publisher:
            handler = publisher.log_handler("logs", logging.ERROR)
            log.addHandler(handler)
            try:
                log.warning("not this")
                log.error("the disk is %s", "full")
            finally:
                log.removeHandler(handler)
            assert peer.recv_json()["data"]["data"]["message"] == "the disk is full"
            with contextlib.redirect_stdout(publisher.writer("prints")):
                print("printed")
            assert said(peer) == ["printed"]


def test_output_and_status_may_be_told_of_by_hand(place: Place) -> None:
    with application(place) as here, here.subscribed("process:job") as peer:
        with Publisher(place.address) as publisher:
            publisher.send_process_status("job", "running")
            publisher.send_process_output("job", "one")
            publisher.send_process_lines("job", ["two", "three"])
            publisher.send_process_status("job", "exited", 0)
        found = [status_of(peer.recv_json()) for _ in range(5)]
        assert found == ["running", "one", "two", "three", "exited"]


# --- forks ---------------------------------------------------------------------------------

_PREFORK = """
import multiprocessing, sys
from ws_hub import Publisher
publisher = Publisher(sys.argv[1])

def task(number):
    publisher.send_event("done", number, channel="news")
    publisher.send_event("done", number, channel="kept:a")

if __name__ == "__main__":
    context = multiprocessing.get_context(sys.argv[2])
    task(0)
    input()  # processes that publish at once have no order
    children = [context.Process(target=task, args=(number,)) for number in (1, 2, 3)]
    for child in children:
        child.start()
    for child in children:
        child.join()
        assert child.exitcode == 0
    input()
    task(4)
"""


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_a_publisher_of_the_parent_is_used_in_its_children(place: Place, method: str) -> None:
    """Each child ends right after it has published."""
    job = place.folder / "job.py"
    job.write_text(_PREFORK)
    command = [sys.executable, job, place.address, method]
    with application(place) as here, here.subscribed("news", "kept:a") as peer:
        messages: list[dict[str, Any]] = []
        with subprocess.Popen(command, stdin=subprocess.PIPE, text=True) as job_process:
            assert job_process.stdin is not None
            for count in (2, 6):
                messages += [peer.recv_json() for _ in range(count)]
                job_process.stdin.write("go on\n")
                job_process.stdin.flush()
            messages += [peer.recv_json() for _ in range(2)]
            assert job_process.wait(2 * START) == 0
        for channel in ("news", "kept:a"):
            found = [each["data"]["data"] for each in messages if each["channel"] == channel]
            assert sorted(found) == [0, 1, 2, 3, 4]
            assert (found[0], found[-1]) == (0, 4)


# --- nobody there, and the rules -----------------------------------------------------------


@pytest.mark.parametrize("used", [False, True])
def test_at_the_end_of_its_process_it_publishes_if_it_has_begun(place: Place, used: bool) -> None:
    """What would begin only then would be ended by nobody, and lose its message in silence."""
    text = "import atexit\n" + "publisher.peers()\n" * used
    text += "atexit.register(lambda: publisher.send_event('said', 1, channel='news'))\n"
    with application(place) as app, app.subscribed("news") as peer, script(place, text) as process:
        _, complaints = process.communicate(timeout=START)
        assert ("publish before that" in complaints) is not used, complaints
        app.hub.send_event("said", 2, channel="news")
        assert [each["data"] for each in said(peer, 1 + used)] == [1, 2][not used :]


def test_where_no_hub_has_run_it_says_so_and_makes_nothing(place: Place) -> None:
    with Publisher(place.address) as publisher:
        for use in (publisher.peers, lambda: publisher.send_error("lost")):
            with pytest.raises(ConfigError, match=r"no hub .* has run there\. Start the appl"):
                use()
        assert place.is_empty()
        with application(place) as here, here.peer() as peer:
            here.client()
            publisher.send_error("here")
            assert said(peer) == ["here"]


def test_what_nobody_hears_is_warned_of_once_until_somebody_does(
    place: Place, caplog: pytest.LogCaptureFixture
) -> None:
    has_run(place)
    with Publisher(place.address) as publisher:
        for count in (1, 2):
            publisher.send_event("lost", 1, channel="news")
            publisher.send_event("lost", 2, channel="news")
            wait_until(lambda count=count: caplog.text.count(ALONE) == count, what="a warning")  # type: ignore[misc]
            with application(place) as here, here.subscribed("news") as peer:
                publisher.send_event("said", 3, channel="news")
                assert said(peer) == [{"event": "said", "data": 3}]
            wait_until(lambda: publisher.peers() == 0, what="the end of the hub")
    assert caplog.text.count(ALONE) == 2


def test_an_application_that_starts_anew_is_found_again(
    place: Place, caplog: pytest.LogCaptureFixture
) -> None:
    with Publisher(place.address) as publisher:
        for number in range(3):
            with application(place) as here, here.subscribed("news") as peer:
                publisher.send_event("said", number, channel="news")
                assert said(peer) == [{"event": "said", "data": number}]
            wait_until(lambda: publisher.peers() == 0, what="the end of the hub")
    assert caplog.text == ""


def test_rules_that_are_given_need_no_hub(place: Place, caplog: pytest.LogCaptureFixture) -> None:
    with Publisher(place.address, rules=RULES) as publisher:
        assert publisher.send_event("saved", 1, channel="kept:a", wait=WAIT).seq == 1
    assert place.rules() is None
    with application(place) as here, here.peer() as peer:
        subscribe(peer, "kept:a", since=0)
        assert said(peer) == [{"event": "saved", "data": 1}]
        with Publisher(place.address, rules=RULES) as publisher:
            publisher.peers()
    assert caplog.text == ""


def test_other_rules_than_those_of_the_application_are_warned_of(
    place: Place, caplog: pytest.LogCaptureFixture
) -> None:
    with application(place):
        before = place.rules()
        with Publisher(place.address, rules=[ChannelRule("kept:*")]) as publisher:
            assert not publisher.keeps("kept:a")
        assert place.rules() == before is not None
    assert "'kept:*' has history_messages=0 here, and history_messages=10000 there" in caplog.text


def test_rules_are_those_at_the_first_use(place: Place) -> None:
    with Publisher(place.address) as publisher:
        with application(place, rules=[ChannelRule("news", history_messages=5)]):
            assert publisher.keeps("news")
    with Publisher(place.address) as publisher:
        assert publisher.keeps("news")  # also when it has ended


def test_a_message_against_the_rules_is_refused(place: Place) -> None:
    has_run(place)
    with Publisher(place.address) as publisher:
        with pytest.raises(MessageEncodeError, match="has no key"):
            publisher.send_event("cpu", 40, channel="state")
        with pytest.raises(MessageEncodeError, match="JSON"):
            publisher.send_event("cpu", {1, object()}, channel="news")
        with pytest.raises(InvalidName):
            publisher.send_event("cpu", 40, channel="a b")
        with pytest.raises(InvalidName):
            publisher.keeps("a b")


# --- bounds, and the end -------------------------------------------------------------------


def test_a_history_that_is_held_up_delays_no_longer_than_told(place: Place) -> None:
    has_run(place)
    with patient_histories(10 * TIMEOUT), Publisher(place.address) as publisher:
        publisher.send_event("saved", 1, channel="kept:a", wait=WAIT)
        with place.held_up():
            began = time.monotonic()
            publisher.send_event("saved", 2, channel="kept:a", timeout=0)
            with pytest.raises(WaitTimeout):
                publisher.send_event("saved", 3, channel="kept:a", wait=0.1)
            assert time.monotonic() - began < 2 * TIMEOUT
    assert publisher.close()
    with application(place) as here, here.peer() as peer:
        subscribe(peer, "kept:a", since=0)
        assert [each["data"] for each in said(peer, 3)] == [1, 2, 3]


def test_who_stands_still_delays_no_longer_than_told(
    place: Place, caplog: pytest.LogCaptureFixture
) -> None:
    with place.standing() as stand_still:
        publisher = Publisher(place.address, timeout=0.2)
        assert publisher.peers() == 1
        stand_still()
        for _ in range(20):
            publisher.broadcast(event("x" * 500_000), timeout=TIMEOUT)
        began = time.monotonic()
        assert not publisher.close()
        assert time.monotonic() - began < 10  # for which it would be tried to tell them
        wait_until(lambda: place.unsent in caplog.text, what="a warning")


def test_a_publisher_that_is_closed_says_so(place: Place) -> None:
    has_run(place)
    used, unused = Publisher(place.address), Publisher(place.address)
    used.peers()
    for publisher in (used, unused):
        for _ in range(2):
            assert publisher.close()
        for use in (
            lambda publisher=publisher: publisher.send_error("late"),
            lambda publisher=publisher: publisher.send_to_user("ann", event("late")),
            lambda publisher=publisher: publisher.run_process(["true"], "late"),
        ):
            with pytest.raises(HubNotRunning, match=r"Publisher\(.* has ended, by its cl"):
                use()


def test_the_address_in_the_environment_counts_where_none_is_given(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("WS_HUB_BACKPLANE", raising=False)
    with pytest.raises(ConfigError, match="WS_HUB_BACKPLANE in the environment"):
        Publisher()
    monkeypatch.setenv("WS_HUB_BACKPLANE", place.address)
    with application(place), Publisher() as publisher:
        assert publisher.peers() == 1
        assert repr(publisher) == f"Publisher({place.address!r})"


def test_what_is_no_address_or_no_rules_is_refused_at_once() -> None:
    for wrong in ("redis", "local://run", 3, LocalBackplane):
        with pytest.raises(ConfigError, match="address"):
            Publisher(wrong)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="rules must be a list"):
        Publisher("local:///tmp/x", rules="kept:*")  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="timeout"):
        Publisher("local:///tmp/x", timeout=None)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="timeout"):
        Publisher("local:///tmp/x", timeout=-1)


@only_local
def test_a_directory_that_others_may_change_is_refused(place: Place) -> None:
    has_run(place)
    (place.folder / "hub").chmod(0o755)
    with Publisher(place.address) as publisher, pytest.raises(ConfigError, match="chmod 700"):
        publisher.peers()


def test_damaged_rules_are_told(place: Place) -> None:
    has_run(place)
    place.set_rules("{")
    with Publisher(place.address) as publisher:
        with pytest.raises(ConfigError, match="cannot be read"):
            publisher.peers()
    with Publisher(place.address, rules=RULES) as publisher:
        assert publisher.peers() == 0
