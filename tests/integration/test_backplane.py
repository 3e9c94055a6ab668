"""Hubs that a backplane connects, several in one process: what reaches whom."""

from __future__ import annotations

import contextlib
import functools
import logging
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.integration.apps.live import Live, at_once, subscribe
from tests.support import RawPeer, wait_until
from ws_hub import (
    AuthResult,
    ChannelRule,
    ConfigError,
    Hub,
    HubConfig,
    LocalBackplane,
    Message,
    ProcessAlreadyRunning,
    SqliteHistory,
    serve,
)
from ws_hub.wsgi import servers

RULES = [
    ChannelRule("kept:*", history_messages=100, publish=True),
    ChannelRule("open:*", publish=True),
    ChannelRule("state", keyed=True),
]

ROOMS = [
    ChannelRule("room:*", presence=True, presence_grace=60.0),
    ChannelRule("short:*", presence=True, presence_grace=0.1),
]


@contextlib.contextmanager
def connected(directory: Path, count: int = 2, **settings: Any) -> Iterator[list[Live]]:
    """Serve hubs that know each other."""
    with contextlib.ExitStack() as stack:
        found = [stack.enter_context(one(directory, **settings)) for _ in range(count)]
        for each in found:
            wait_until(lambda each=each: each.hub.stats().peers == count - 1, what="the others")  # type: ignore[misc]
        yield found


@contextlib.contextmanager
def one(directory: Path, **settings: Any) -> Iterator[Live]:
    given = {"rules": RULES, "backplane": LocalBackplane(directory), **settings}
    with Hub(HubConfig(**given)) as hub, serve(hub) as server:
        yield Live(hub, server, None)  # type: ignore[arg-type]


def event(data: Any) -> Message:
    return Message("event", data=data)


def data_of(peer: RawPeer, count: int) -> list[Any]:
    return [peer.recv_json()["data"] for _ in range(count)]


def test_what_one_hub_publishes_reaches_the_clients_of_all_once_and_in_order(
    tmp_path: Path,
) -> None:
    with connected(tmp_path / "bus", 3) as hubs, contextlib.ExitStack() as stack:
        peers = [stack.enter_context(each.subscribed("news", "state")) for each in hubs]
        first = hubs[0].hub
        first.send_to_channel("news", event(1))
        first.broadcast(event(2))
        first.send_to_channel("elsewhere", event("nobody's"))
        first.send_event("said", 3, channel="news")
        first.send_event("cpu", 40, channel="state", key="cpu")
        first.send_error("it is over", channel="news")
        for peer in peers:
            messages = [peer.recv_json() for _ in range(5)]
            # A keyed channel has an order of its own, as one with history.
            (keyed,) = [each for each in messages if each.get("key")]
            messages.remove(keyed)
            assert (keyed["key"], keyed["data"]["data"]) == ("cpu", 40)
            assert [each["type"] for each in messages] == ["event"] * 3 + ["error"]
            assert [each["data"] for each in messages[:2]] == [1, 2]
        delivery = first.send_to_channel("news", event("last"), wait=10)
        assert (delivery.subscribers, delivery.queued) == (1, 1)  # of this process
        for peer in peers:
            assert data_of(peer, 1) == ["last"]


def test_the_threads_of_one_hub_keep_their_order_at_all_others(tmp_path: Path) -> None:
    with connected(tmp_path / "bus") as (here, there), there.subscribed("news") as peer:

        def publish(worker: int) -> None:
            for number in range(500):
                here.hub.send_to_channel("news", event([worker, number]))

        threads = [threading.Thread(target=publish, args=(worker,)) for worker in range(3)]
        for thread in threads:
            thread.start()
        found = data_of(peer, 1500)
        for thread in threads:
            thread.join()
        for worker in range(3):
            assert [each for each in found if each[0] == worker] == [
                [worker, n] for n in range(500)
            ]
        # It is counted as told once it is sent, and the other process may be ahead of that.
        wait_until(lambda: here.hub.stats().bus_told == 1500, what="the count of what was told")
        assert (there.hub.stats().bus_received, there.hub.stats().bus_lost) == (1500, 0)


def test_channels_with_history_have_one_numbering_and_a_client_may_change_hubs(
    tmp_path: Path,
) -> None:
    with connected(tmp_path / "bus") as (here, there):
        with here.subscribed("kept:a", "process:build") as peer:
            there.hub.send_to_channel("kept:a", event("one"), wait=10)
            here.hub.send_to_channel("kept:a", event("two"))
            there.hub.send_process_output("build", "a line")
            found = [peer.recv_json() for _ in range(3)]
            epoch = there.hub.history("kept:a").epoch
        kept = [each for each in found if each["channel"] == "kept:a"]
        assert [(each["data"], each["seq"]) for each in kept] == [("one", 1), ("two", 2)]
        here.hub.send_to_channel("kept:a", event("three"))
        with there.peer() as peer:
            ack = subscribe(peer, "kept:a", since=1, epoch=epoch)
            assert (ack["recovered"], ack["epoch"]) == (True, epoch)
            assert data_of(peer, 2) == ["two", "three"]


def test_other_rules_are_warned_of_and_nothing_is_kept_by_each(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(servers, "logged", {})  # once in a process
    with connected(tmp_path / "bus") as (here, there), one(tmp_path / "bus", rules=()) as other:
        wait_until(lambda: other.hub.stats().peers == 2, what="the others")
        with here.subscribed("kept:a", "state") as first, there.subscribed("kept:a") as second:
            other.hub.send_to_channel("state", event("without a key"))
            other.hub.send_to_channel("kept:a", event("one"))
            other.hub.send_to_channel("kept:a", event("two"))
            for peer in (first, second):
                messages = [peer.recv_json() for _ in range(2)]
                assert [(each["data"], each.get("seq")) for each in messages] == [
                    ("one", None),
                    ("two", None),
                ]
        assert here.hub.history("kept:a").last == 0
    assert caplog.text.count("by other rules") == 1


def test_other_rules_than_those_of_processes_that_run_are_warned_of_at_the_start(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with one(tmp_path / "bus"):
        with one(tmp_path / "bus"):
            assert caplog.text == ""
        for rules in ([*RULES[:2], ChannelRule("state", keyed=True, max_keys=5)], RULES[:2], ()):
            with one(tmp_path / "bus", rules=rules):
                pass
    with one(tmp_path / "bus", rules=[ChannelRule("kept:*")]):
        pass  # nobody else runs any more
    found = [each for each in caplog.text.splitlines() if "run with other rules: " in each]
    assert [each.partition("other rules: ")[2].partition(". Give")[0] for each in found] == [
        "the rule for 'state' has max_keys=5 here, and max_keys=1000 there",
        "there is a rule for 'state' there alone",
        "there is a rule for 'kept:*' there alone",
    ]


def test_a_history_of_ones_own_is_warned_of_as_other_rules_are(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with one(tmp_path / "bus"), one(tmp_path / "bus", history=SqliteHistory(tmp_path / "hub.db")):
        pass
    assert f"the history is in '{tmp_path}/hub.db' here, and in 'the backplane'" in caplog.text


def test_rules_that_cannot_be_shared_do_not_keep_a_hub_from_its_start(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "bus").mkdir(mode=0o700)
    for damage in ("{", "[]", '{"by": 1, "rules": {"v": 2}}', '{"by": 1, "rules": [[[]]]}'):
        (tmp_path / "bus" / "rules.json").write_text(damage)
        with one(tmp_path / "bus"), one(tmp_path / "bus"):
            pass
    assert caplog.text == ""
    (tmp_path / "bus" / "rules.json").unlink()
    (tmp_path / "bus" / "rules.json").mkdir()
    with one(tmp_path / "bus") as here:
        assert here.hub.running
    assert "cannot be shared" in caplog.text


def test_the_rules_are_readable_by_their_user_alone(tmp_path: Path) -> None:
    with one(tmp_path / "bus"):
        assert (tmp_path / "bus" / "rules.json").stat().st_mode & 0o777 == 0o600
    assert sorted(each.name for each in (tmp_path / "bus").iterdir() if each.is_file()) == [
        "history.db", "rules.json"
    ]  # fmt: skip


def test_a_store_of_ones_own_is_used_where_there_is_one(tmp_path: Path) -> None:
    directory, file = tmp_path / "bus", tmp_path / "hub.db"
    for _ in range(2):
        with one(directory, history=SqliteHistory(file)) as here:
            here.hub.send_to_channel("kept:a", event("one"), wait=10)
    assert file.is_file()
    assert not [*directory.glob("history*")]


def test_what_a_client_publishes_reaches_the_clients_of_all(tmp_path: Path) -> None:
    with connected(tmp_path / "bus") as (here, there), here.subscribed("open:a") as peer:
        with there.subscribed("open:a", "kept:a") as other:
            peer.send_json({"type": "publish", "channel": "open:a", "data": "hello"})
            peer.send_json({"type": "publish", "channel": "kept:a", "data": "again"})
            assert sorted(data_of(other, 2)) == ["again", "hello"]  # on two ways
        assert data_of(peer, 1) == ["hello"]


def by_header(environ: dict[str, Any]) -> AuthResult:
    return AuthResult(valid=True, user_id=environ.get("HTTP_X_USER", "nobody"))


def test_a_users_connections_are_reached_wherever_they_are(tmp_path: Path) -> None:
    with connected(tmp_path / "bus", authenticator=by_header) as (here, there):
        ann, bob = [("X-User", "ann")], [("X-User", "bob")]
        with here.peer(headers=ann) as first, there.peer(headers=ann) as second:
            with there.peer(headers=bob) as other:
                here.connection(), there.connection()
                wait_until(lambda: there.hub.client_count() == 2, what="two clients")
                here.hub.send_to_user("ann", event("for ann"))
                assert data_of(first, 1) == data_of(second, 1) == ["for ann"]
                assert here.hub.disconnect("ann", 4403, "go away") == 1
                assert first.recv_close() == second.recv_close() == (4403, "go away")
                here.hub.broadcast(event("for all"))
                assert data_of(other, 1) == ["for all"]


def test_a_hub_that_stops_is_no_peer_and_what_it_published_last_arrives(tmp_path: Path) -> None:
    with one(tmp_path / "bus") as there, there.subscribed("news") as peer:
        with one(tmp_path / "bus") as here:
            wait_until(lambda: here.hub.stats().peers == there.hub.stats().peers == 1)
            here.hub.at_stop(lambda: here.hub.send_to_channel("news", event("the last")))
        assert data_of(peer, 1) == ["the last"]
        wait_until(lambda: there.hub.stats().peers == 0, what="no peers")
        there.hub.send_to_channel("news", event("alone"))
        assert data_of(peer, 1) == ["alone"]
        with one(tmp_path / "bus") as here:
            wait_until(lambda: here.hub.stats().peers == there.hub.stats().peers == 1)
            here.hub.send_to_channel("news", event("again"))
            assert data_of(peer, 1) == ["again"]


def test_a_hub_that_has_no_room_loses_nothing_of_what_it_is_told(tmp_path: Path) -> None:
    with connected(tmp_path / "bus", queue_size=8) as (here, there):
        with there.subscribed("news") as peer:
            for number in range(2000):
                here.hub.send_to_channel("news", event(number))
            assert data_of(peer, 2000) == list(range(2000))


# --- programs ------------------------------------------------------------------------------

WAITS = ["sleep", "600"]


def test_a_program_runs_once_among_all_hubs(tmp_path: Path) -> None:
    with connected(tmp_path / "bus") as (here, there):
        with here.hub.run_process(WAITS, process_id="job"):
            for each in (here, there):
                with pytest.raises(ProcessAlreadyRunning):
                    each.hub.run_process(WAITS, process_id="job")
        with there.hub.run_process([sys.executable, "-c", ""], process_id="job") as process:
            assert process.wait(30) == 0
        assert [*(tmp_path / "bus" / ".programs").iterdir()] == []


def test_a_claim_is_ones_own_to_let_go_of(tmp_path: Path) -> None:
    with connected(tmp_path / "bus") as (here, there):
        let_go = here.hub.claim_process("job")
        with pytest.raises(ProcessAlreadyRunning):
            there.hub.claim_process("job")
        let_go()
        let_go()
        there.hub.claim_process("job")()
        with Hub() as alone:
            alone.claim_process("job")()
            alone.claim_process("job")


_CLAIMS = """
import sys
from ws_hub import Hub, HubConfig, LocalBackplane
hub = Hub(HubConfig(backplane=LocalBackplane(sys.argv[1]))).start()
hub.claim_process("job")
hub.send_process_status("job", "running")
hub.wait_for_room("process:job")  # it is in the file
print(flush=True)
sys.stdin.read()
"""


@contextlib.contextmanager
def running_job(directory: Path) -> Iterator[subprocess.Popen[bytes]]:
    """Have another process run the program `job`."""
    command, pipe = [sys.executable, "-c", _CLAIMS, str(directory)], subprocess.PIPE
    with subprocess.Popen(command, stdin=pipe, stdout=pipe) as process:
        assert process.stdout is not None
        process.stdout.readline()
        yield process


def test_the_programs_of_a_killed_process_are_lost_and_told_of_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    directory = tmp_path / "bus"
    with connected(directory) as hubs, contextlib.ExitStack() as stack:
        peers = [stack.enter_context(each.subscribed("process:job")) for each in hubs]
        with running_job(directory) as process:
            for peer in peers:
                assert data_of(peer, 1) == [{"status": "running"}]
            process.kill()
        for peer in peers:
            assert data_of(peer, 1) == [{"status": "lost"}]
        hubs[0].hub.claim_process("job")()
        hubs[1].hub.send_process_status("job", "running")
        for peer in peers:
            assert data_of(peer, 1) == [{"status": "running"}]
    assert caplog.text.count("and with it its programs: ['job']") == 1


def test_programs_of_processes_that_all_were_killed_are_lost_when_one_begins(
    tmp_path: Path,
) -> None:
    directory = tmp_path / "bus"
    with running_job(directory) as process:
        process.kill()
    with one(directory) as here, here.peer() as peer:
        subscribe(peer, "process:job", since=0)
        assert data_of(peer, 2) == [{"status": "running"}, {"status": "lost"}]


def test_a_program_that_runs_again_was_lost_before(tmp_path: Path) -> None:
    directory = tmp_path / "bus"
    with one(directory) as here, here.subscribed("process:job") as peer:
        with running_job(directory) as process:
            process.kill()
        with here.hub.run_process([sys.executable, "-c", ""], process_id="job") as program:
            assert program.wait(30) == 0
        statuses = [each["status"] for each in data_of(peer, 4)]
        assert statuses == ["running", "lost", "running", "exited"]


# --- addresses -----------------------------------------------------------------------------


def test_an_address_in_the_environment_counts_where_none_is_given(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WS_HUB_BACKPLANE", f"local://{tmp_path}/bus")
    with Hub() as here, one(tmp_path / "bus") as there:
        wait_until(lambda: here.stats().peers == there.hub.stats().peers == 1)
        assert here.config.backplane == f"local://{tmp_path}/bus"


def test_two_hubs_of_a_process_need_addresses_of_their_own(tmp_path: Path) -> None:
    address = f"local://{tmp_path}/bus"
    hub, other = Hub(backplane=address), Hub(backplane=address)
    named = Hub(backplane=f"{address}?name=chat")
    with hub, named:
        assert hub.stats().peers == named.stats().peers == 0
        with pytest.raises(ConfigError, match=r"\?name="):
            other.start()
        assert not other.running
    with other:
        assert other.running


@pytest.mark.parametrize(
    "address",
    ["", "locale", "local:", "local:/", "local://", "local://run/app", "local:///", "http://host",
     "local?name=a/b", "local?name=", "local?size=3", "local:////run/app", "local:///run/%00", "local:///run/app?name=a&name=b"],
)  # fmt: skip
def test_an_address_that_names_nothing_is_refused(address: str) -> None:
    with pytest.raises(ConfigError, match="no address of a backplane"):
        Hub(backplane=address)


def test_names_are_no_directories_of_the_backplanes_own(tmp_path: Path) -> None:
    address = f"local://{tmp_path}/bus"
    with Hub(backplane=f"{address}?name=programs") as named, Hub(backplane=address) as hub:
        named.claim_process("a")
        hub.claim_process("a")
        assert hub.stats().peers == named.stats().peers == 0


def test_who_cannot_have_a_backplane_leaves_it_to_the_one_that_has(tmp_path: Path) -> None:
    shared = LocalBackplane(tmp_path / "bus")
    with connected(tmp_path / "bus") as (there, _), one(tmp_path / "bus", backplane=shared) as here:
        with pytest.raises(ConfigError, match="in use by another hub"):
            Hub(backplane=shared).start()
        with there.subscribed("news") as peer:
            here.hub.send_to_channel("news", event(1))
            assert data_of(peer, 1) == [1]


_CRON = """
import sys
from ws_hub import ChannelRule, Hub, HubConfig, LocalBackplane
rules = [
    ChannelRule("kept:*", history_messages=100, publish=True),
    ChannelRule("open:*", publish=True),
    ChannelRule("state", keyed=True),
]
hub = Hub(HubConfig(rules=rules, backplane=LocalBackplane(sys.argv[1]))).start()
hub.send_to_channel("kept:a", {"type": "event", "data": "from a script"})
hub.send_to_channel("news", {"type": "event", "data": "news"})
"""


def test_what_a_script_publishes_last_arrives_and_it_warns_of_nothing(tmp_path: Path) -> None:
    command = [sys.executable, "-c", _CRON, str(tmp_path / "bus")]
    alone = subprocess.run(command, capture_output=True, text=True, check=True)
    with one(tmp_path / "bus") as here, here.peer() as peer:
        subscribe(peer, "kept:a", since=0)
        subscribe_later(peer, "news")
        assert data_of(peer, 1) == ["from a script"]
        heard = subprocess.run(command, capture_output=True, text=True, check=True)
        assert sorted(data_of(peer, 2)) == ["from a script", "news"]
    assert (alone.stderr, heard.stderr) == ("", "")


def subscribe_later(peer: RawPeer, channel: str) -> None:
    """Subscribe a peer that something is sent to meanwhile."""
    peer.send_json({"type": "subscribe", "channel": channel})


@pytest.mark.parametrize("given", [3, b"local", object(), LocalBackplane])
def test_what_is_no_backplane_is_refused(given: Any) -> None:
    with pytest.raises(ConfigError, match="backplane must be"):
        Hub(HubConfig(backplane=given))


def test_a_directory_that_cannot_be_used_is_an_error_at_the_start_that_leaves_nothing(
    tmp_path: Path,
) -> None:
    (tmp_path / "bus").write_text("a file")
    hub = Hub(backplane=LocalBackplane(tmp_path / "bus"))
    with pytest.raises(ConfigError, match="is no directory"):
        hub.start()
    assert not hub.running


def test_a_hub_with_a_backplane_alone_warns_of_nothing(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING), one(tmp_path / "bus") as here:
        with here.subscribed("news") as peer:
            here.hub.send_to_channel("news", event(1))
            assert data_of(peer, 1) == [1]
    assert caplog.text == ""


# --- presence ------------------------------------------------------------------------------


def present(site: Live, channel: str) -> set[str | None]:
    return {each.user for each in site.hub.presence(channel).members or ()}


def joined_by(peer: RawPeer, user: str) -> Any:
    """Return the entry of a user that joins; those of others may come before, or with it."""
    while True:
        for entry in peer.recv_json()["data"]["join"]:
            if entry["user"] == user:
                return entry


def test_presence_is_that_of_all_processes(tmp_path: Path) -> None:
    with connected(tmp_path / "bus", authenticator=by_header, rules=ROOMS) as (here, there):
        with here.peer(headers=[("X-User", "ann")]) as ann:
            assert subscribe(ann, "room:1")["presence"]["connections"] == 0
            own = ann.recv_json()["data"]["join"]
            wait_until(lambda: present(there, "room:1") == {"ann"})
            here.client().set_info({"name": "Ann"})
            info = wait_until(
                lambda: (found := there.hub.presence("room:1").members) and found[0].info
            )
            assert info == {"name": "Ann"}
            with there.peer(headers=[("X-User", "bob")]) as bob:
                members = subscribe(bob, "room:1")["presence"]["members"]
                assert [each["connection"] for each in members] == [own[0]["connection"]]
                joined = joined_by(bob, "bob")
                assert joined_by(ann, "bob") == joined
                assert joined["connection"] != own[0]["connection"]
                bob.send_json({"type": "unsubscribe", "channel": "room:1"})
                assert ann.recv_json()["data"]["leave"] == [joined]
                for site in (here, there):  # after half a second, by the clock of each
                    wait_until(lambda site=site: present(site, "room:1") == {"ann"})  # type: ignore[misc]


def test_a_process_that_begins_later_knows_who_is_present(tmp_path: Path) -> None:
    with (
        one(tmp_path / "bus", authenticator=by_header, rules=ROOMS) as here,
        here.subscribed("room:1", headers=[("X-User", "ann")]),
        one(tmp_path / "bus", authenticator=by_header, rules=ROOMS) as there,
    ):
        wait_until(lambda: present(there, "room:1") == {"ann"})


def test_who_comes_back_to_another_process_has_not_left(tmp_path: Path) -> None:
    with (
        one(tmp_path / "bus", authenticator=by_header, rules=ROOMS) as here,
        here.subscribed("room:1", headers=[("X-User", "bob")]) as bob,
    ):
        bob.recv_json()
        with (
            one(tmp_path / "bus", authenticator=by_header, rules=ROOMS) as there,
            there.subscribed("room:1", headers=[("X-User", "ann")]),
            there.subscribed("short:1", headers=[("X-User", "ann")]),
        ):
            assert bob.recv_json()["data"]["join"][0]["user"] == "ann"
            wait_until(lambda: present(here, "short:1") == {"ann"})
        # Its process has stopped: where there is no grace, that is the end.
        wait_until(lambda: not present(here, "short:1"))
        assert present(here, "room:1") == {"ann", "bob"}
        with here.subscribed("room:1", headers=[("X-User", "ann")]):
            # The old one leaves with that, or after it: where it was, both may end only now.
            change = bob.recv_json()["data"]
            assert [each["user"] for each in change["join"]] == ["ann"]
            while not change["leave"]:
                change = bob.recv_json()["data"]
            assert [each["user"] for each in change["leave"]] == ["ann"]
            assert here.hub.presence("room:1").connections == 2


# --- keyed channels ------------------------------------------------------------------------


def keys_of(site: Live, channel: str = "state") -> dict[str, Any]:
    """Return what a new subscriber gets first."""
    with site.peer() as peer:
        count = subscribe(peer, channel, since=0)["replayed"]
        found = [peer.recv_json() for _ in range(count)]
        return {each["key"]: each["data"]["data"] for each in found if "data" in each}


def test_a_process_that_begins_later_has_all_keys(tmp_path: Path) -> None:
    with one(tmp_path / "bus") as here:
        for number in range(300):
            here.hub.send_event("set", number, channel="state", key=f"key {number}")
        here.hub.send_to_channel("state", Message("event", key="key 7"))
        expected = {f"key {number}": number for number in range(300) if number != 7}
        with one(tmp_path / "bus") as there:
            there.hub.send_event("set", "newest", channel="state", key="key 8")
            expected["key 8"] = "newest"
            wait_until(lambda: keys_of(there) == expected)
            wait_until(lambda: keys_of(here) == expected)
        assert keys_of(here) == expected


def test_what_all_processes_change_at_once_is_the_same_everywhere(tmp_path: Path) -> None:
    with connected(tmp_path / "bus", 3) as sites:

        def change(number: int) -> None:
            for turn in range(200):
                hub, key = sites[number].hub, str(turn % 5)
                if turn % 7 == 3:
                    hub.send_to_channel("state", Message("event", key=key))
                else:
                    hub.send_event("set", [number, turn], channel="state", key=key)

        with at_once(*[functools.partial(change, number) for number in range(3)]):
            pass
        last = [each.hub.send_event("set", channel="state", key="last") for each in sites]
        assert last == [None] * 3
        found = wait_until(
            lambda: (
                (each := [keys_of(site) for site in sites])
                and each[0] == each[1] == each[2]
                and each
            )
        )
        assert set(found[0]) <= {*"01234", "last"}
