"""Publishers: what programs without sockets publish, to the clients of those that have some."""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import sqlite3
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.integration.apps.launch import START, server
from tests.integration.apps.live import Live, at_once, subscribe
from tests.support import RawPeer, wait_until
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


@pytest.fixture
def place() -> Iterator[Path]:
    """Return a directory for a backplane; the path of a socket must be short."""
    with tempfile.TemporaryDirectory(prefix="wsh-", dir="/tmp") as folder:
        yield Path(folder, "hub")


def address(place: Path) -> str:
    return f"local://{place}"


@contextlib.contextmanager
def application(place: Path, **settings: Any) -> Iterator[Live]:
    """Serve a hub with this address."""
    config = HubConfig(**{"rules": RULES, **settings})
    with Hub(config, backplane=address(place)) as hub, serve(hub) as server:
        yield Live(hub, server, None)  # type: ignore[arg-type]


def has_run(place: Path, **settings: Any) -> None:
    """Have a hub run there, and end."""
    with Hub(HubConfig(**{"rules": RULES, **settings}), backplane=address(place)):
        pass


def script(place: Path, text: str, *arguments: str) -> subprocess.Popen[str]:
    """Start a program that has a `publisher`, which it does not close."""
    head = f"import sys\nfrom ws_hub import Publisher\npublisher = Publisher({address(place)!r})\n"
    return subprocess.Popen(
        [sys.executable, "-c", head + text, *arguments],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def run(place: Path, text: str) -> None:
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


def test_what_a_script_publishes_reaches_the_clients_of_the_application(place: Path) -> None:
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


def test_workers_of_gunicorn_all_get_it(place: Path) -> None:
    options = ["--workers", "2", "--threads", "4", "--config", "python:ws_hub.gunicorn"]
    env = {"WS_HUB_BACKPLANE": address(place)}
    with (
        server("gthread", app="workers", options=options, **env) as running,
        Publisher(address(place)) as publisher,
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


def test_a_channel_with_history_has_one_numbering(place: Path) -> None:
    with application(place) as here, Publisher(address(place)) as publisher:
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
    place: Path, caplog: pytest.LogCaptureFixture
) -> None:
    has_run(place)
    run(place, 'publisher.send_event("saved", 1, channel="kept:a")\n')
    with Publisher(address(place)) as publisher:
        assert publisher.peers() == 0
        assert (publisher.keeps("kept:a"), publisher.keeps("news")) == (True, False)
        delivery = publisher.send_event("saved", 2, channel="kept:a", wait=WAIT)
        assert delivery.seq == 2
    with application(place) as here, here.peer() as peer:
        subscribe(peer, "kept:a", since=0)
        assert [each["data"] for each in said(peer, 2)] == [1, 2]
    assert ALONE not in caplog.text


def test_the_history_that_the_application_has_of_its_own_is_used(place: Path) -> None:
    file = place.with_name("own.db")
    with application(place, history=SqliteHistory(file)) as here:
        with here.subscribed("kept:a") as peer, Publisher(address(place)) as publisher:
            assert publisher.send_event("saved", 1, channel="kept:a", wait=WAIT).seq == 1
            assert peer.recv_json()["seq"] == 1
    assert not (place / "history.db").exists()


def test_a_store_that_cannot_be_opened_is_told(place: Path) -> None:
    has_run(place, history=SqliteHistory(place.with_name("own.db")))
    rules = (place / "rules.json").read_text()
    (place / "rules.json").write_text(rules.replace(str(place.with_name("own.db")), "TapeHistory"))
    with Publisher(address(place)) as publisher:
        with pytest.raises(ConfigError, match="keeps its history in a TapeHistory"):
            publisher.peers()


def test_publishers_at_once_lose_nothing(place: Path) -> None:
    """Their threads are the first to use them, all at the same moment."""
    threads, each_sends = 4, 100
    with application(place) as here, here.subscribed("news", "kept:a") as peer:
        with Publisher(address(place)) as first, Publisher(address(place)) as second:
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


def test_a_publisher_beside_a_hub_of_the_same_process_reaches_it(place: Path) -> None:
    backplane = LocalBackplane(place)
    with application(place) as here, Publisher(backplane) as publisher:
        with here.subscribed("news") as peer:
            publisher.send_event("said", 1, channel="news")
            here.hub.send_event("said", 2, channel="news")
            assert sorted(each["data"] for each in said(peer, 2)) == [1, 2]


# --- programs, logs and prints -------------------------------------------------------------

_RUNS = """
program = publisher.run_process([sys.executable, "-c", sys.argv[1]], "job")
print(program.pid, flush=True)
sys.stdin.read()
"""
_OUTPUT = "import time; print('begun', flush=True); time.sleep(600)"


def status_of(message: Any) -> Any:
    return message["data"]["status"] if message["type"] == "process_status" else message["data"]


def test_a_program_is_streamed_from_its_start_to_its_exit(place: Path) -> None:
    with application(place) as here, here.subscribed("process:job") as peer:
        lines = "print('one'); print('two'); raise SystemExit(3)"
        with script(place, _RUNS, lines) as process:
            found = [peer.recv_json() for _ in range(4)]
            process.communicate(timeout=START)
        assert [status_of(each) for each in found] == ["running", "one", "two", "exited"]
        assert found[-1]["data"]["exitCode"] == 3
        assert [each["seq"] for each in found] == [1, 2, 3, 4]


def test_a_program_is_lost_when_its_process_is_killed(place: Path) -> None:
    with application(place) as here, here.subscribed("process:job") as peer:
        with script(place, _RUNS, _OUTPUT) as process:
            assert [status_of(peer.recv_json()) for _ in range(2)] == ["running", "begun"]
            with pytest.raises(ProcessAlreadyRunning):
                here.hub.run_process(["true"], "job")
            assert process.stdout is not None
            program = int(process.stdout.readline())
            process.kill()
            assert status_of(peer.recv_json()) == "lost"
        wait_until(lambda: not os.path.exists(f"/proc/{program}"), START, "the end of the program")


def test_close_ends_the_programs(place: Path) -> None:
    with application(place) as here, here.subscribed("process:job") as peer:
        with Publisher(address(place)) as publisher:
            process = publisher.run_process([sys.executable, "-c", _OUTPUT], "job")
            assert [status_of(peer.recv_json()) for _ in range(2)] == ["running", "begun"]
        assert not process.running
        assert status_of(peer.recv_json()) == "exited"


def test_logs_and_prints_arrive(place: Path) -> None:
    log = logging.getLogger("tests.publisher")
    with application(place) as here, here.subscribed("logs", "process:prints") as peer:
        with Publisher(address(place)) as publisher:
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


def test_output_and_status_may_be_told_of_by_hand(place: Path) -> None:
    with application(place) as here, here.subscribed("process:job") as peer:
        with Publisher(address(place)) as publisher:
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
    children = [context.Process(target=task, args=(number,)) for number in (1, 2, 3)]
    for child in children:
        child.start()
    for child in children:
        child.join()
        assert child.exitcode == 0
    task(4)
"""


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_a_publisher_of_the_parent_is_used_in_its_children(place: Path, method: str) -> None:
    """Each child ends right after it has published."""
    place.parent.joinpath("job.py").write_text(_PREFORK)
    command = [sys.executable, place.with_name("job.py"), address(place), method]
    with application(place) as here, here.subscribed("news", "kept:a") as peer:
        subprocess.run(command, check=True, timeout=2 * START)
        messages = [peer.recv_json() for _ in range(10)]
        for channel in ("news", "kept:a"):
            found = [each["data"]["data"] for each in messages if each["channel"] == channel]
            assert sorted(found) == [0, 1, 2, 3, 4]
            assert (found[0], found[-1]) == (0, 4)


# --- nobody there, and the rules -----------------------------------------------------------


@pytest.mark.parametrize("used", [False, True])
def test_at_the_end_of_its_process_it_publishes_if_it_has_begun(place: Path, used: bool) -> None:
    """What would begin only then would be ended by nobody, and lose its message in silence."""
    text = "import atexit\n" + "publisher.peers()\n" * used
    text += "atexit.register(lambda: publisher.send_event('said', 1, channel='news'))\n"
    with application(place) as app, app.subscribed("news") as peer, script(place, text) as process:
        _, complaints = process.communicate(timeout=START)
        assert ("publish before that" in complaints) is not used, complaints
        app.hub.send_event("said", 2, channel="news")
        assert [each["data"] for each in said(peer, 1 + used)] == [1, 2][not used :]


def test_where_no_hub_has_run_it_says_so_and_makes_nothing(place: Path) -> None:
    with Publisher(address(place)) as publisher:
        for use in (publisher.peers, lambda: publisher.send_error("lost")):
            with pytest.raises(ConfigError, match=r"no hub .* has run there\. Start the appl"):
                use()
        assert not place.exists()
        with application(place) as here, here.peer() as peer:
            here.client()
            publisher.send_error("here")
            assert said(peer) == ["here"]


def test_what_nobody_hears_is_warned_of_once_until_somebody_does(
    place: Path, caplog: pytest.LogCaptureFixture
) -> None:
    has_run(place)
    with Publisher(address(place)) as publisher:
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
    place: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with Publisher(address(place)) as publisher:
        for number in range(3):
            with application(place) as here, here.subscribed("news") as peer:
                publisher.send_event("said", number, channel="news")
                assert said(peer) == [{"event": "said", "data": number}]
            wait_until(lambda: publisher.peers() == 0, what="the end of the hub")
    assert caplog.text == ""


def test_rules_that_are_given_need_no_hub(place: Path, caplog: pytest.LogCaptureFixture) -> None:
    with Publisher(address(place), rules=RULES) as publisher:
        assert publisher.send_event("saved", 1, channel="kept:a", wait=WAIT).seq == 1
    assert not (place / "rules.json").exists()
    with application(place) as here, here.peer() as peer:
        subscribe(peer, "kept:a", since=0)
        assert said(peer) == [{"event": "saved", "data": 1}]
        with Publisher(address(place), rules=RULES) as publisher:
            publisher.peers()
    assert caplog.text == ""


def test_other_rules_than_those_of_the_application_are_warned_of(
    place: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with application(place):
        before = (place / "rules.json").read_bytes()
        with Publisher(address(place), rules=[ChannelRule("kept:*")]) as publisher:
            assert not publisher.keeps("kept:a")
        assert (place / "rules.json").read_bytes() == before
    assert "'kept:*' has history_messages=0 here, and history_messages=10000 there" in caplog.text


def test_rules_are_those_at_the_first_use(place: Path) -> None:
    with Publisher(address(place)) as publisher:
        with application(place, rules=[ChannelRule("news", history_messages=5)]):
            assert publisher.keeps("news")
    with Publisher(address(place)) as publisher:
        assert publisher.keeps("news")  # also when it has ended


def test_a_message_against_the_rules_is_refused(place: Path) -> None:
    has_run(place)
    with Publisher(address(place)) as publisher:
        with pytest.raises(MessageEncodeError, match="has no key"):
            publisher.send_event("cpu", 40, channel="state")
        with pytest.raises(MessageEncodeError, match="JSON"):
            publisher.send_event("cpu", {1, object()}, channel="news")
        with pytest.raises(InvalidName):
            publisher.send_event("cpu", 40, channel="a b")
        with pytest.raises(InvalidName):
            publisher.keeps("a b")


# --- bounds, and the end -------------------------------------------------------------------


def test_a_disk_that_is_held_up_delays_no_longer_than_told(place: Path) -> None:
    has_run(place)
    with Publisher(address(place)) as publisher, contextlib.ExitStack() as stack:
        publisher.send_event("saved", 1, channel="kept:a", wait=WAIT)
        held = stack.enter_context(
            contextlib.closing(sqlite3.connect(place / "history.db", isolation_level=None))
        )
        held.execute("BEGIN IMMEDIATE")
        began = time.monotonic()
        publisher.send_event("saved", 2, channel="kept:a", timeout=0)
        with pytest.raises(WaitTimeout):
            publisher.send_event("saved", 3, channel="kept:a", wait=0.1)
        assert time.monotonic() - began < 3  # SQLite itself would wait for five seconds
        held.execute("ROLLBACK")
    assert publisher.close()
    with application(place) as here, here.peer() as peer:
        subscribe(peer, "kept:a", since=0)
        assert [each["data"] for each in said(peer, 3)] == [1, 2, 3]


_STANDS_STILL = """
import sys
from ws_hub import Hub
hub = Hub(backplane=sys.argv[1]).start()
print(flush=True)
sys.stdin.read()
"""


def test_a_process_that_stands_still_delays_no_longer_than_told(
    place: Path, caplog: pytest.LogCaptureFixture
) -> None:
    command, pipe = [sys.executable, "-c", _STANDS_STILL, address(place)], subprocess.PIPE
    with subprocess.Popen(command, stdin=pipe, stdout=pipe) as process:
        try:
            assert process.stdout is not None
            process.stdout.readline()
            os.kill(process.pid, signal.SIGSTOP)
            publisher = Publisher(address(place), timeout=0.2)
            for _ in range(20):
                publisher.broadcast(event("x" * 500_000))
            began = time.monotonic()
            assert not publisher.close()
            assert time.monotonic() - began < 5
        finally:
            process.kill()
    wait_until(lambda: "before others had read" in caplog.text, what="a warning")


def test_a_publisher_that_is_closed_says_so(place: Path) -> None:
    has_run(place)
    used, unused = Publisher(address(place)), Publisher(address(place))
    used.peers()
    for publisher in (used, unused):
        for _ in range(2):
            assert publisher.close()
        for use in (
            lambda publisher=publisher: publisher.send_error("late"),
            lambda publisher=publisher: publisher.send_to_user("ann", event("late")),
            lambda publisher=publisher: publisher.run_process(["true"], "late"),
        ):
            with pytest.raises(HubNotRunning, match=r"Publisher\('local:.* has ended, by its cl"):
                use()


def test_the_address_in_the_environment_counts_where_none_is_given(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("WS_HUB_BACKPLANE", raising=False)
    with pytest.raises(ConfigError, match="WS_HUB_BACKPLANE in the environment"):
        Publisher()
    monkeypatch.setenv("WS_HUB_BACKPLANE", address(place))
    with application(place), Publisher() as publisher:
        assert publisher.peers() == 1
        assert repr(publisher) == f"Publisher('local://{place}')"


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


def test_a_directory_that_others_may_change_is_refused(place: Path) -> None:
    has_run(place)
    place.chmod(0o755)
    with Publisher(address(place)) as publisher, pytest.raises(ConfigError, match="chmod 700"):
        publisher.peers()


def test_damaged_rules_are_told(place: Path) -> None:
    has_run(place)
    (place / "rules.json").write_text("{")
    with Publisher(address(place)) as publisher:
        with pytest.raises(ConfigError, match="cannot be read"):
            publisher.peers()
    with Publisher(address(place), rules=RULES) as publisher:
        assert publisher.peers() == 0
