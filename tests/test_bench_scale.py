"""The benchmark of several workers measures what it says, and leaves nothing running."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from bench import document, machine, scale, sockets
from bench.fleet import Fleet, redis, redis_program
from bench.fleet_trial import REDIS, FleetTrial, Plan
from bench.result import Result, result_of
from bench.scale import ONE, PEER, ROWS, Subject
from bench.sockets import Limit
from bench.stage import Process, ProcessFailed, installed
from tests.test_bench import check_schema, state

TINY = Plan(repeats=1, seconds=0.05, clients=8, messages=10, workers=(2,), backplanes=("local",))
TWO, BY_REDIS = Subject("ws_hub", 2, "local"), Subject("ws_hub", 2, REDIS)


@pytest.fixture
def two() -> Iterator[tuple[Fleet, Process]]:
    """Two workers, and their clients."""
    load = Process(None, "bench.readers")
    with contextlib.closing(load), contextlib.closing(Fleet("ws_hub", 2, backplane="local")) as it:
        yield it, load


# --- workers and their clients -------------------------------------------------------------


def test_what_each_worker_publishes_is_read_by_all_clients_wherever_they_are(
    two: tuple[Fleet, Process],
) -> None:
    trial = FleetTrial(*two, TINY)
    connected = trial.connects()
    assert connected.value > 0
    assert connected.extra["fewest in a worker"] + connected.extra["most"] == TINY.clients
    for everybody in (False, True):
        burst = trial.bursts(everybody=everybody)
        assert burst.value > 0 and burst.extra["us a call"] > 0
    rows = trial.singles()
    assert {"one-to-all", "own clients", "others' clients"} >= set(rows)
    assert all(0 < each.value <= each.extra["p99"] for each in rows.values())
    quiet = trial.listened(everywhere=False)
    assert (quiet.extra["listeners"], quiet.value > 0) == (1, True)
    assert quiet.extra["notices a message"] == 0
    loud, homes = trial.listened(everywhere=True), bool(connected.extra["fewest in a worker"])
    assert (loud.extra["listeners"], loud.extra["notices a message"]) == (1 + homes, homes)


def test_a_worker_that_has_ended_fails_the_run_and_all_of_them_end(
    two: tuple[Fleet, Process],
) -> None:
    found, load = two
    pids = [worker.pid for worker in found.workers]
    os.kill(pids[0], signal.SIGKILL)
    with pytest.raises(ProcessFailed, match="a worker"):
        FleetTrial(found, load, TINY).connects()
    found.close()
    assert {state(pid) for pid in pids} <= {"", "Z"}


def test_an_application_that_does_not_begin_is_not_waited_for() -> None:
    with pytest.raises(ProcessFailed, match="0 of 1 workers began"):
        Fleet("nonsense", 1)


def test_workers_of_flask_socketio_reach_each_others_clients_by_redis() -> None:
    program = redis_program()
    if program is None or not installed(PEER):
        pytest.skip(f"{PEER} or a Redis server is not installed")
    load = Process(None, "bench.readers")
    with contextlib.closing(load), redis(program) as queue:
        with contextlib.closing(Fleet(PEER, 2, queue=queue, threads=16)) as found:
            trial = FleetTrial(found, load, TINY)
            assert trial.connects().value > 0
            assert trial.bursts(everybody=False).value > 0
            assert set(trial.singles()) == {"one-to-all"}


def test_a_server_of_redis_ends_with_its_block() -> None:
    program = redis_program()
    if program is None:
        pytest.skip("no Redis server is installed")
    with redis(program) as address:
        port = int(address.rpartition(":")[2].partition("/")[0])
        socket.create_connection(("127.0.0.1", port), 5).close()
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", port), 5)


# --- the command ---------------------------------------------------------------------------


@pytest.mark.timeout(120)
def test_the_command_measures_each_number_of_workers_and_writes_what_it_prints(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "new" / "found.json"
    asked = ["--quick", "--no-peers", "--clients", "8", "--seconds", "0.05", "--workers", "2"]
    assert scale.main([*asked, "--json", str(path)]) == 0
    printed = capsys.readouterr().out
    found = json.loads(path.read_text(encoding="utf-8"))
    check_schema(found)
    assert [row["name"] for row in found["rows"]][:4] == list(ROWS)[:4]
    for row in found["rows"]:
        assert row["name"] in printed and row["counts"] in printed
    connects = found["rows"][0]["results"]
    others = [TWO.name] if redis_program() is None else [TWO.name, BY_REDIS.name]
    assert [each["server"] for each in connects] == [ONE.name, *others]
    assert connects[1]["ratios"] == {
        ONE.name: pytest.approx(connects[1]["median"] / connects[0]["median"])
    }


def test_a_peer_that_is_not_installed_is_left_out_and_the_others_are_measured(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    said: list[str] = []
    monkeypatch.setattr(scale, "redis_program", lambda: None)
    monkeypatch.setattr(scale, "run", lambda *_: iter([("connects", scale.Sample(1.0))]))
    results = scale.measure(scale.replace(TINY, backplanes=("local", REDIS)), said.append)
    assert said[:2] == [
        f"{each} is left out: a Redis server is not installed" for each in (PEER, REDIS)
    ]
    assert [(each.row, each.server) for each in results] == [
        ("connects", ONE.name),
        ("connects", TWO.name),
    ]


def test_workers_that_fail_have_a_line_that_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    def run(subject: Subject, *_: Any) -> Iterator[tuple[str, scale.Sample]]:
        yield "connects", scale.Sample(1.0)
        if subject == TWO:
            raise ProcessFailed("it has ended")
        yield "burst", scale.Sample(2.0)

    monkeypatch.setattr(scale, "run", run)
    found = {
        (each.row, each.server): (each.median, each.note)
        for each in scale.measure(scale.replace(TINY, peers=False))
    }
    assert found["connects", ONE.name] == (1.0, "") and found["burst", ONE.name] == (2.0, "")
    assert found["connects", TWO.name] == (1.0, "it has ended")
    assert found["burst", TWO.name] == (None, "it has ended")


def test_only_a_whole_run_has_a_place_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scale, "RESULTS", Path("results"))
    date = "2030-01-31"
    assert scale.place(scale.parse([]), date) == Path("results/scale-2030-01-31.json")
    for asked in (["--quick"], ["--workers", "2"], ["--no-peers"], ["--backplane", "local?a"]):
        assert scale.place(scale.parse(asked), date) is None
    assert scale.place(scale.parse(["--quick", "--json", "a"]), date) == Path("a")


# --- what is said of it --------------------------------------------------------------------


def test_ratios_are_to_one_worker_and_to_as_many_of_the_peer() -> None:
    who = scale.subjects(TINY, peers=True)
    assert [each.name for each in who] == [ONE.name, TWO.name, f"2 workers, {PEER}"]
    results = [
        result_of("burst", who[0].name, "deliveries/s", [4.0]),
        result_of("burst", who[1].name, "deliveries/s", [6.0]),
        result_of("burst", who[2].name, "deliveries/s", [2.0]),
        result_of("burst, all publish", who[1].name, "deliveries/s", [8.0]),
        result_of("own clients", who[0].name, "ms", [1.0]),
        result_of("others' clients", who[1].name, "ms", [3.0]),
        result_of("one-to-all", who[1].name, "ms", [], note="it failed"),
    ]
    scale.relate(results, who)
    assert [each.ratios for each in results] == [
        {},
        {"1 worker": 1.5, PEER: 3.0},
        {"1 worker": 0.5},
        {"1 worker": 2.0},
        {},
        {"1 worker": 3.0},
        {},
    ]


@pytest.mark.parametrize(("number", "said"), [(2, "shares them"), (8, "a core of its own, and")])
def test_the_page_has_a_table_a_row_and_says_what_the_load_had(number: int, said: str) -> None:
    results = [
        Result("burst", "1 worker", "deliveries/s", "higher", 2.0, 1.0, 3.0, 3),
        Result("burst", "2 workers, local", "deliveries/s", "higher", None, note="it stopped"),
    ]
    found = scale.report(results, TINY, {**machine.facts(), "cores": number}, 1.0)
    check_schema(found)
    page = scale.markdown(found)
    assert "| 1 worker | 2 | 1 .. 3 |  |  |" in page
    assert "| 2 workers, local | - |  |  | it stopped |" in page
    assert said in page


def test_committed_results_have_the_schema() -> None:
    for path in scale.RESULTS.glob("scale-*.json"):
        check_schema(json.loads(path.read_text(encoding="utf-8")))


def test_the_page_of_the_project_has_a_place_for_them(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(document.PAGE.read_text(encoding="utf-8"), encoding="utf-8")
    document.replace(page, scale.BEGIN, scale.FINISH, "a table\n")
    assert "a table\n<!-- end of scale -->" in page.read_text(encoding="utf-8")


# --- many sockets --------------------------------------------------------------------------


def test_sockets_come_from_several_addresses_and_all_read_a_message(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert scale.main(["--sockets", "24"]) == 0
    printed = capsys.readouterr().out
    assert "24 sockets of 24: no limit of the machine met" in printed
    assert "one to all ms" in printed and "kB of a worker each" in printed


def test_what_limits_the_number_of_sockets_is_named(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    found = sockets.limits()
    assert [each.sockets for each in found] == sorted(each.sockets for each in found)
    assert any("RLIMIT_NOFILE" in each.why for each in found)
    monkeypatch.setattr(sockets, "limits", lambda: [Limit(10, "something"), *found])
    monkeypatch.setattr(sockets, "measure", lambda count, backplane: {"sockets": count})
    assert scale.main(["--sockets"]) == 0
    assert "10 sockets of 40,000: limited by something" in capsys.readouterr().out
