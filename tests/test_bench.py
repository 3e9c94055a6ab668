"""The benchmark measures what it says: its schema, its counting, one tiny run of each row."""

from __future__ import annotations

import dataclasses
import functools
import json
import re
import socket
import subprocess
import time
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from bench import archive, document, engine, line, machine, plot, programs, run, wire
from bench.programs import PROGRAMS, Program
from bench.result import Result, relate, result_of, table
from bench.rows import ROWS, Incomplete, Plan, Point, Row, Sample, Setup, crowd, plain
from bench.rows.base import subscribe
from bench.servers import CONTENDERS, FLOORS, PEERS, RIVALS
from bench.servers.hub import sized
from bench.stage import Process, ProcessFailed, Stage, installed, missing, staged
from tests.support import wait_until
from ws_hub.protocol.frames import text_frame
from ws_hub.protocol.message import encode

TINY = Plan(repeats=1, work=0.002, crowd=0.05)
ECHO = wire.echo_text("echo", 64)
FONTS = pytest.mark.leaves(
    files=[r"\.ttf$"], why="Matplotlib keeps the fonts open that it has read"
)
SWEEPS = {row.point.sweep: row for row in ROWS if row.point}
# Peers that are no Python processes.
FOREIGN = [name for name in RIVALS if CONTENDERS[name].program is not None]
ENDS = [row for row in ROWS if row.point and SWEEPS[row.point.sweep] is row]


@pytest.fixture
def stage() -> Iterator[Stage]:
    with staged("ws_hub") as found:
        found.connect(3)
        yield found


# --- every row -----------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.timeout(120)
@pytest.mark.parametrize("setup", {row.setup: "" for row in ROWS})
def test_every_row_comes_to_a_figure(setup: Setup) -> None:
    ours = [
        dataclasses.replace(row, servers=tuple(set(row.servers) - {*RIVALS}))
        for row in ROWS
        if row.setup == setup and (row.point is None or row in ENDS)
    ]
    results = engine.measure(ours, TINY)
    assert [(each.row, each.server) for each in results] == [
        (row.name, server) for row in ours for server in row.servers
    ]
    for each in results:
        assert each.median is not None and each.median > 0, (each.row, each.server, each.note)


@pytest.mark.parametrize("name", [name for name in CONTENDERS if name not in FOREIGN])
def test_every_server_delivers_and_answers_beside_a_computing_thread(name: str) -> None:
    require(name)
    with staged(name, spinner=True) as stage:
        stage.connect(2, offer=name.endswith(", compression"))
        stage.spin(on=True)
        assert stage.burst(3).messages == 6
        stage.spin(on=False)
        answers(stage)


@pytest.mark.parametrize("name", FOREIGN)
def test_every_foreign_server_delivers_answers_and_loses_its_clients(name: str) -> None:
    require(name)
    began = time.monotonic()
    with staged(name) as stage:
        stage.connect(2)
        burst = stage.burst(3)
        assert burst.messages == 6
        # Its clock is the load's: from another the difference would be anything.
        assert 0 < burst.publishing < time.monotonic() - began
        assert 0 < burst.seconds < time.monotonic() - began
        answers(stage)
        stage.disconnect(timeout=10)


def require(name: str) -> None:
    """Skip the test unless what a server needs is installed."""
    if not installed(name):
        pytest.skip(f"{missing(name)} is not installed")


def answers(stage: Stage) -> None:
    """Let two clients send requests, where the server is in the rows of echoes."""
    if any(stage.name in row.servers for row in ROWS if row.name == "echo"):
        found = stage.load.ask("exchange", texts=[ECHO], clients=2, count=2, timeout=5)
        assert len(found["ns"]) == 4


@pytest.mark.parametrize("name", ["picows", *FOREIGN])
def test_a_peer_sends_the_same_message_as_every_peer(name: str) -> None:
    require(name)
    with staged(name) as stage:
        stage.connect(2)
        assert published(stage, 200) == [wire.text(200).encode()]


@pytest.mark.parametrize("name", FOREIGN)
def test_a_foreign_server_refuses_what_it_cannot_do_and_goes_on(name: str) -> None:
    require(name)
    with staged(name) as stage:
        with pytest.raises(ProcessFailed, match="only ws_hub has channels"):
            stage.server.ask("publish", count=1, size=160, targets=["some"])
        with pytest.raises(ProcessFailed, match="0 clients, not 1"):
            stage.server.ask("await_clients", count=1, timeout=0.01)
        with pytest.raises(ProcessFailed, match="Error"):
            stage.server.ask("no such request")
        assert stage.server.ask("await_clients", count=0, timeout=5)["now"] > 0


@pytest.mark.parametrize("killed", [False, True], ids=["closed", "killed"])
@pytest.mark.parametrize("name", FOREIGN)
def test_a_foreign_server_ends_with_its_stage(name: str, killed: bool) -> None:
    require(name)
    with staged(name) as stage:
        stage.connect(2)
        pid = stage.server.serving
        if killed:
            stage.server.kill()
    wait_until(lambda: state(pid) in ("", "Z"), 10, what=f"{name} has ended")
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", stage.port))


def test_a_foreign_server_has_no_thread_that_computes_in_python() -> None:
    assert FOREIGN
    assert not [row.name for row in ROWS if row.setup.spinner and set(FOREIGN) & {*row.servers}]


def state(pid: int) -> str:
    """Return the letter for what a process does; "" when there is none."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
    return text.rpartition(")")[2].split()[0]


def test_a_child_that_serves_is_what_is_measured_and_stopped(stage: Stage) -> None:
    with subprocess.Popen(["sleep", "60"]) as child:
        wait_until(lambda: state(child.pid) == "S", 10, what="the child sleeps")
        stage.server.serve_from(child.pid)
        assert stage.server.usage().threads == 1
        stage.server.pause(on=True)
        wait_until(lambda: state(child.pid) == "T", 10, what="the child is stopped")
        stage.server.pause(on=False)
        wait_until(lambda: state(child.pid) == "S", 10, what="the child goes on")
        child.kill()
        child.wait()
    stage.server.pause(on=False)  # a server that has lost it can still be closed


def test_a_program_that_is_not_installed_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(PROGRAMS, "bun", Program("bun, the program", lambda: None))
    row = Row("some", "nothing", "ms", lambda *_: Sample(1.0), servers=("bun publish",))
    (absent,) = engine.measure([row], TINY)
    assert (absent.median, absent.note) == (None, "bun, the program is not installed")


def test_the_results_name_the_versions_of_the_programs_that_are_installed(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for name, words in {
        "nginx": "echo 'nginx version: nginx/1.22.1 (Debian)' >&2",
        "node": "echo v20.20.2",
        "cc": "echo 12",
    }.items():
        (tmp_path / name).write_text(f"#!/bin/sh\n{words}\n", encoding="ascii")
        (tmp_path / name).chmod(0o755)
        monkeypatch.setitem(PROGRAMS, name, Program(name, functools.partial(Path, tmp_path, name)))
    monkeypatch.setitem(PROGRAMS, "bun", Program("bun", lambda: None))
    monkeypatch.setattr(programs, "NODE_MODULES", tmp_path)
    package = tmp_path / "ws" / "package.json"
    package.parent.mkdir()
    package.write_text('{"version": "8.23.0"}', encoding="ascii")
    programs.versions.cache_clear()
    try:
        found = {"cc": "12", "nginx": "1.22.1", "node": "20.20.2", "ws": "8.23.0"}
        assert programs.versions() == found
        assert found.items() <= machine.facts()["versions"].items()
    finally:
        programs.versions.cache_clear()


def test_each_package_of_npm_is_pinned_and_locked() -> None:
    folder = Path(run.__file__).parent / "servers" / "npm"
    wanted = json.loads((folder / "package.json").read_text(encoding="utf-8"))
    locked = json.loads((folder / "package-lock.json").read_text(encoding="utf-8"))["packages"]
    for name, version in {**wanted["dependencies"], **wanted["optionalDependencies"]}.items():
        assert re.fullmatch(r"\d+\.\d+\.\d+", version)
        assert locked[f"node_modules/{name}"]["version"] == version
    assert all("integrity" in each for name, each in locked.items() if name)


def test_a_server_that_is_not_installed_is_named_and_the_others_are_measured(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(engine, "installed", lambda name: name != "flask-sock")
    row = Row("some", "nothing", "ms", lambda *_: Sample(1.0), servers=("flask-sock", "floor"))
    absent, floor = engine.measure([row], TINY)
    assert (absent.median, absent.note) == (None, "flask-sock is not installed")
    assert floor.median == 1.0


def test_rows_have_names_of_their_own_and_say_what_they_count() -> None:
    assert len({row.name for row in ROWS}) == len(ROWS)
    assert all(row.counts and row.unit for row in ROWS)
    assert all(server in CONTENDERS for row in ROWS for server in row.servers)


# --- counting ------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [40, 125, 126, 160, 1024, 16 * 1024, 70_000])
def test_a_frame_carries_the_mark_once_header_included(size: int) -> None:
    frame = text_frame(wire.text(size).encode())
    assert frame.count(wire.MARK) == 1
    assert [len(payload) for _, payload in wire.frames(frame)] == [size]


@pytest.mark.parametrize("step", [1, 2, 3, 7, 100, 1_000_000])
def test_frames_are_counted_wherever_reads_cut_them(step: int) -> None:
    sizes = [0, 1, 125, 126, 127, 65_535, 65_536, 70_000, 3]
    stream = b"".join(text_frame(b"x" * size) for size in sizes)
    counter = wire.Frames()
    found = [counter.feed(stream[at : at + step]) for at in range(0, len(stream), step)]
    assert (sum(found), counter.bytes) == (len(sizes), len(stream))
    ends, at = [], 0
    for size in sizes:
        at += len(text_frame(b"x" * size))
        ends.append((at - 1) // step)
    assert found == [ends.count(turn) for turn in range(len(found))]


def test_a_report_is_as_long_as_asked_for_and_each_is_another() -> None:
    texts = [wire.text(4000, functools.partial(wire.report, number)) for number in range(3)]
    assert [len(each) for each in texts] == [4000] * 3 and len(set(texts)) == 3
    assert all(len(zlib.compress(each.encode())) < 1500 for each in texts)


@pytest.mark.parametrize("size", [10, 124, 0x17C, 0x7C00])
def test_a_size_whose_header_would_carry_the_mark_or_hold_nothing_is_refused(size: int) -> None:
    with pytest.raises(ValueError, match="the mark|more than"):
        wire.text(size)


def test_a_masked_frame_is_what_rfc_6455_says() -> None:
    assert wire.masked(b"ab") == b"\x81\x82\x00\x00\x00\x00ab"
    assert wire.masked(b"a" * 126)[:4] == b"\x81\xfe\x00\x7e"


def test_a_burst_counts_every_message_at_every_client(stage: Stage) -> None:
    burst = stage.burst(7)
    assert (burst.complete, burst.messages) == (3, 21)
    assert 0 < burst.publishing < burst.seconds + 1


def test_a_burst_that_comes_short_says_by_how_much(stage: Stage) -> None:
    burst = stage.burst(2, each=5, timeout=0.3)
    assert (burst.complete, burst.messages) == (0, 6)


def test_more_messages_than_were_published_fail_the_row(stage: Stage) -> None:
    with pytest.raises(ProcessFailed, match="more than were published"):
        stage.burst(20, each=1)


def test_a_burst_to_some_counts_theirs_and_fails_when_others_get_it(stage: Stage) -> None:
    subscribed = [[subscribe("some")], [subscribe("some")], []]
    stage.disconnect()
    stage.connect(3, hello=subscribed)
    burst = stage.burst(4, targets=["some"], clients=2)
    assert (burst.clients, burst.complete, burst.messages) == (2, 2, 8)
    with pytest.raises(ProcessFailed, match="more than were published"):
        stage.burst(4, targets=["some"], clients=1, each=5, timeout=0.3)


def test_a_published_message_has_the_size_that_was_asked_for(stage: Stage) -> None:
    assert [len(payload) for payload in published(stage, 200)] == [200]


def published(stage: Stage, size: int) -> list[bytes]:
    """Publish once; return the payloads that one more client gets."""
    with socket.create_connection(("127.0.0.1", stage.port), 10) as sock:
        sock.sendall(wire.upgrade("127.0.0.1", stage.port, stage.path, bytes(16)))
        head = sock.recv(4096)
        assert head.startswith(b"HTTP/1.1 101")
        stage.await_clients(stage.connected + 1)
        stage.server.ask("publish", count=1, size=size)
        data = head.partition(b"\r\n\r\n")[2]
        while not (found := list(wire.frames(data))):
            data += sock.recv(4096)
    assert {first for first, _ in found} == {0x81}  # whole text frames, not compressed
    return [payload for _, payload in found]


@pytest.mark.parametrize("data", [row.point.x for row in ROWS if row.group == "size" and row.point])
def test_a_message_of_the_size_sweep_has_that_much_data_and_the_mark_once(data: int) -> None:
    size = data + wire.ENVELOPE
    message = sized(size, "")
    assert len(message.data) == data
    frame = text_frame(encode(message, 1.5))
    assert frame.count(wire.MARK) == 1
    assert [len(payload) for _, payload in wire.frames(frame)] == [size]
    assert text_frame(wire.text(size).encode()).count(wire.MARK) == 1


def test_an_exchange_gives_each_client_its_own_answers(stage: Stage) -> None:
    found = stage.load.ask("exchange", texts=[ECHO], clients=3, count=5, timeout=5)
    assert len(found["ns"]) == 15


def test_a_server_that_fails_says_why(stage: Stage) -> None:
    with pytest.raises(ProcessFailed, match="TypeError"):
        stage.server.ask("publish", count="many", size=160)
    with pytest.raises(ProcessFailed, match="KeyError"):
        stage.server.ask("no such request")


def test_connections_that_are_refused_fail_the_stage(stage: Stage) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    with pytest.raises(ProcessFailed, match="ConnectionRefusedError"):
        stage.load.ask("connect", port=port, path="/", count=1)


def test_usage_is_what_the_server_holds(stage: Stage) -> None:
    before = stage.server.usage()
    stage.connect(2)
    after = stage.server.usage()
    assert after.descriptors == before.descriptors + 2
    assert after.threads >= before.threads > 1 and after.now > before.now
    assert after.rss_bytes > 1e7 and after.cpu_seconds > 0
    assert after.peak_rss_bytes >= before.peak_rss_bytes > 1e7
    stage.server.forget_peak()  # begins anew from what is held, where the kernel can
    assert stage.server.usage().peak_rss_bytes <= after.peak_rss_bytes + 1e7


def test_a_process_answers_several_requests_in_their_order(stage: Stage) -> None:
    for count in (3, 4):
        stage.server.tell("await_clients", count=count, timeout=0.01)
    assert stage.server.answered(30.0)
    assert stage.server.answer()["now"] > 0
    with pytest.raises(ProcessFailed, match="3 clients, not 4"):
        stage.server.answer()
    assert not stage.server.answered()


# --- clients that read at a pace -----------------------------------------------------------


def collect(stage: Stage, **how: Any) -> list[dict[str, Any]]:
    """Publish three messages to clients that read until they have so many."""
    stage.load.tell("collect", **how)
    stage.load.answer()
    stage.server.ask("publish", count=3, size=1000)
    clients: list[dict[str, Any]] = stage.load.answer()["clients"]
    return clients


def test_clients_that_collect_are_counted_each_by_itself(stage: Stage) -> None:
    found = collect(stage, messages=3, timeout=30, rates=[None, None, 10_000_000])
    assert [(each["messages"], each["cut"]) for each in found] == [(3, False)] * 3
    assert all(each["bytes"] > 3000 and each["seconds"] < 30 for each in found)


def test_a_client_with_a_rate_reads_no_faster_and_comes_short(stage: Stage) -> None:
    found = collect(stage, messages=3, timeout=0.5, rates=[100, None])
    assert [each["messages"] >= 3 for each in found] == [False, True, False]
    assert all(each["bytes"] <= 100 * each["seconds"] for each in found[::2])


def test_a_client_that_is_cut_while_it_collects_is_said_to_be(stage: Stage) -> None:
    stage.load.tell("collect", messages=3, timeout=30)
    stage.load.answer()
    stage.server.close()
    assert [each["cut"] for each in stage.load.answer()["clients"]] == [True] * 3


def test_a_reader_that_is_cut_in_a_replay_is_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    row = next(row for row in ROWS if row.name == "slow-replay")
    counts = iter([{"clients": 2}])
    ask = Process.ask

    def stats(self: Process, do: str, *args: Any, **more: Any) -> dict[str, Any]:
        found = ask(self, do, *args, **more)
        return next(counts, {"clients": 1}) if do == "stats" else found

    monkeypatch.setattr(Process, "ask", stats)
    (found,) = engine.measure([row], TINY)
    assert found.median is not None and found.note == ""
    assert found.extra["cut"] == 2


# --- plain requests ------------------------------------------------------------------------


@pytest.fixture
def gunicorn() -> Iterator[Stage]:
    with staged("ws_hub, gunicorn") as found:
        yield found


def test_plain_requests_are_timed_beside_clients_that_are_read(gunicorn: Stage) -> None:
    gunicorn.connect(6)  # more than the server has threads
    gunicorn.server.ask("repeat", every=0.001)
    found = gunicorn.request(0.5, timeout=10)
    gunicorn.server.ask("repeat", every=None)
    assert found["messages"] >= 6
    assert found["ns"] and all(each > 0 for each in found["ns"])
    gunicorn.disconnect()


def test_a_plain_request_that_is_not_answered_ends_the_row_with_the_sockets_it_took(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(plain, "NO_ANSWER", 0.2)
    if not installed("flask-sock, gunicorn"):
        pytest.skip("flask-sock is not installed")
    row = next(row for row in ROWS if row.name == "plain-2000")
    ours = dataclasses.replace(row, servers=("flask-sock, gunicorn",))
    (found,) = engine.measure([ours], TINY)
    assert found.median is None
    assert found.note == "with 4 sockets connected a plain request got no answer for 0.2 s"


def test_a_crowd_that_does_not_go_is_said_to_have_stayed(stage: Stage) -> None:
    before = dataclasses.replace(stage.server.usage(), threads=1)
    left, note = crowd.leave(stage, before, within=0.0)
    assert note == "0 s after all had left at once, not all was gone"
    assert left["threads left"] > 0 and "all gone s" not in left


# --- failures of a server ------------------------------------------------------------------


def test_a_server_that_does_not_deliver_leaves_the_others_their_figures() -> None:
    def sample(stage: Stage, plan: Plan) -> Sample:
        if stage.name == "floor":
            raise Incomplete("it did not")
        return Sample(3.0, {"beside": 4.0}, "as expected")

    row = Row("some", "nothing", "ms", sample, servers=("floor", "ws_hub"))
    floor, ours = engine.measure([row], TINY)
    assert (floor.median, floor.note) == (None, "it did not")
    assert (ours.median, ours.extra, ours.note) == (3.0, {"beside": 4.0}, "as expected")


def test_a_server_that_does_not_take_the_clients_is_asked_once_for_all_rows(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    tried: list[str] = []

    def seat(self: Setup, stage: Stage, plan: Plan) -> None:
        tried.append(stage.name)
        raise ProcessFailed("too many")

    monkeypatch.setattr(Setup, "seat", seat)
    rows = [Row(name, "nothing", "ms", lambda *_: Sample(1.0)) for name in ("one", "other")]
    found = engine.measure(rows, TINY)
    assert [(each.median, each.note) for each in found] == [(None, "too many")] * 2
    assert tried == ["ws_hub"]


def test_a_row_is_not_named_while_servers_are_measured_that_it_does_not_have() -> None:
    def sample(stage: Stage, plan: Plan) -> Sample:
        return Sample(1.0)

    rows = [
        Row("one", "nothing", "ms", sample, servers=("floor",), setup=Setup(alone=True)),
        Row("other", "nothing", "ms", sample, servers=("ws_hub",), setup=Setup(alone=True)),
    ]
    named: list[str] = []
    engine.measure(rows, TINY, lambda row, seconds: named.append(row))
    assert named == ["one", "one", "other", "other"]


# --- results -------------------------------------------------------------------------------


def test_a_result_is_the_median_with_its_spread() -> None:
    found = result_of("row", "ws_hub", "ms", [5.0, 1.0, 2.0])
    assert (found.median, found.low, found.high, found.repeats) == (2.0, 1.0, 5.0, 3)


def test_ratios_are_of_medians_of_one_row_to_its_floors_and_its_best_other_peer() -> None:
    results = [
        result_of("a", "floor", "ms", [1.0]),
        result_of("a", "ws_hub", "ms", [1.5]),
        result_of("a", PEERS[0], "ms", [3.0]),
        result_of("a", PEERS[1], "ms", [6.0]),
        result_of("b", "ws_hub", "messages/s", [100.0], higher=True),
        result_of("b", PEERS[0], "messages/s", [10.0], higher=True),
        result_of("b", PEERS[1], "messages/s", [20.0], higher=True),
        result_of("b", PEERS[2], "messages/s", []),
    ]
    relate(results, floors=FLOORS, peers=PEERS)
    assert [each.ratios for each in results] == [
        {},
        {"floor": 1.5, "best peer": 0.5},
        {"floor": 3.0, "best peer": 0.5},
        {"floor": 6.0, "best peer": 2.0},
        {"best peer": 5.0},
        {"best peer": 0.5},
        {"best peer": 2.0},
        {},
    ]


def test_the_table_has_a_line_a_result_and_names_each_row_once() -> None:
    results = [
        Result("a", "floor", "ms", "lower", 1.0, 0.5, 2.0, 3),
        Result("a", "ws_hub", "ms", "lower", None, note="it stopped"),
    ]
    lines = [line for line in table(results).splitlines() if line]
    assert [line.split()[:2] for line in lines[1:]] == [["a", "floor"], ["ws_hub", "-"]]
    assert lines[2].endswith("it stopped")


# --- the command ---------------------------------------------------------------------------


def test_the_command_prints_the_table_and_writes_the_json(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "new" / "found.json"
    assert run.main(["--quick", "--rows", "encode", "--json", str(path)], quick=TINY) == 0
    assert "encode" in capsys.readouterr().out
    found = json.loads(path.read_text(encoding="utf-8"))
    check_schema(found)
    assert [row["name"] for row in found["rows"]] == ["encode"]
    assert found["plan"] == {"repeats": 1, "work": 0.002, "crowd": 0.05}


def test_committed_results_have_the_schema() -> None:
    folder = Path(run.__file__).parent / "results"
    for path in (*folder.glob("[0-9]*.json"), *folder.glob("progress-*.json")):
        check_schema(json.loads(path.read_text(encoding="utf-8")))


def test_only_a_whole_run_has_a_place_of_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run, "RESULTS", tmp_path)
    paths = [run.place(run.parse(asked), "2030-01-31") for asked in ([], ["--full"])]
    assert paths == [tmp_path / "2030-01-31.json", tmp_path / "2030-01-31-full.json"]
    for asked in (["--quick"], ["--rows", "encode"], ["--full", "--quick"]):
        assert run.place(run.parse(asked), "2030-01-31") is None
    assert run.place(run.parse(["--quick", "--json", "a"]), "2030-01-31") == Path("a")


def test_a_sweep_is_asked_for_by_its_own_name_as_a_whole(
    capsys: pytest.CaptureFixture[str],
) -> None:
    chosen = run.chosen(run.parse(["--rows", "subscribers", "encode"]))
    assert chosen == [row for row in ROWS if row.group in ("subscribers", "encode")]
    assert len(chosen) > 5
    with pytest.raises(SystemExit):
        run.main(["--rows", "subscribers-10"])
    assert run.main(["--list"]) == 0
    listed = [text.split()[0] for text in capsys.readouterr().out.splitlines() if text]
    assert listed == list(dict.fromkeys(row.group for row in ROWS))


def test_an_unknown_row_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        run.main(["--rows", "nonsense"])
    assert "no such row: nonsense" in capsys.readouterr().err


POINT = ("sweep", "x", "of")


def check_schema(found: dict[str, object]) -> None:
    """Hold a file of results against what readers of it rely on."""
    assert found["schema"] == run.SCHEMA
    assert {"when", "seconds", "plan", "machine", "servers", "rows"} <= set(found)
    machine = found["machine"]
    assert isinstance(machine, dict)
    assert {"cpu", "cores", "kernel", "python", "versions", "load_average"} <= set(machine)
    rows = found["rows"]
    assert isinstance(rows, list) and rows
    for row in rows:
        assert {"name", "counts", "unit", "results"} == set(row) - {"point"}
        assert set(row.get("point", POINT)) == set(POINT)
        for result in row["results"]:
            assert set(result) == set(Result.__dataclass_fields__)
            assert result["row"] == row["name"] and result["better"] in ("lower", "higher")
            if result["median"] is None:
                assert result["note"]
            else:
                assert result["low"] <= result["median"] <= result["high"]
                assert result["repeats"] >= 1
    for each in found.get("lines", ()):
        assert set(each) == {"sweep", "server", "slope", "base", "r2", "off"}


# --- lines ---------------------------------------------------------------------------------


def test_a_straight_sweep_has_its_slope_and_its_base_and_is_off_by_nothing() -> None:
    found = line.fit([(x, 3.0 + 0.5 * x) for x in (1, 10, 100, 1000)])
    assert found is not None
    assert (found.slope, found.base) == (pytest.approx(0.5), pytest.approx(3.0))
    assert (found.r2, found.off) == (pytest.approx(1.0), pytest.approx(0.0, abs=1e-9))
    assert found.at(10) == pytest.approx(8.0)


def test_a_sweep_that_bends_is_off_at_the_small_end_too() -> None:
    square = line.fit([(x, float(x * x)) for x in (1, 10, 100, 1000)])
    assert square is not None
    assert square.off > 0.5 and square.r2 < 0.9


def test_two_points_are_no_line() -> None:
    assert line.fit([(1, 1.0), (2, 2.0)]) is None


def test_each_server_of_a_sweep_gets_a_line_and_a_row_that_failed_is_no_point() -> None:
    found = swept("2030-01-01", [2.0, 3.0, None, 5.0])
    (straight,) = found["lines"]
    assert (straight["sweep"], straight["server"]) == ("clients", "ws_hub")
    assert straight["slope"] == pytest.approx(1.0)
    assert line.sentence(straight, found["rows"]) == (
        "1 us a client, and 1 us whatever their number; R² 1.0000, no point further than 0% "
        "from the line"
    )


# --- the archive ---------------------------------------------------------------------------


def swept(when: str, heights: Sequence[float | None]) -> dict[str, Any]:
    """Return a run that found a sweep over 1, 2, 3 ... clients of these heights."""
    rows, results = [], []
    for x, height in enumerate(heights, 1):
        name = f"clients-{x}"
        point = Point("clients", x, "client")
        rows.append(Row(name, "what it is", "us", lambda *_: Sample(1.0), point=point))
        results.append(result_of(name, "ws_hub", "us", [height] if height else [], note="it broke"))
    return {**run.report(rows, results, TINY, machine.facts(), 1.0), "when": when}


def kept(when: str, row: Row, median: float) -> dict[str, Any]:
    """Return a run that found a figure for every server of a row."""
    results = [result_of(row.name, name, row.unit, [median]) for name in row.servers]
    return {**run.report([row], results, TINY, machine.facts(), 1.0), "when": when}


def write(folder: Path, *runs: dict[str, Any]) -> None:
    for number, found in enumerate(runs):
        (folder / f"{number}.json").write_text(json.dumps(found), encoding="utf-8")


def test_each_row_is_of_the_newest_run_that_has_it_and_a_sweep_of_one(tmp_path: Path) -> None:
    old = swept("2030-01-01", [1.0, 2.0, 3.0, 4.0])
    old["rows"] += kept("", ROWS[0], 1.0)["rows"] + kept("", ROWS[1], 1.0)["rows"]
    new = swept("2030-01-02", [5.0, 6.0, 7.0])
    newest = kept("2030-01-03", ROWS[0], 2.0)
    write(tmp_path, new, newest, old)
    found = archive.newest({"clients", ROWS[0].name, ROWS[1].name}, tmp_path)
    assert [(each["when"][-2:], [row["name"] for row in each["rows"]]) for each in found] == [
        ("03", [ROWS[0].name]),
        ("02", ["clients-1", "clients-2", "clients-3"]),
        ("01", [ROWS[1].name]),
    ]
    assert [len(each["lines"]) for each in found] == [0, 1, 0]


def test_a_row_that_there_is_no_more_is_left_out(tmp_path: Path) -> None:
    write(tmp_path, swept("2030-01-01", [1.0, 2.0, 3.0]))
    assert archive.newest({"others"}, tmp_path) == []


@FONTS
def test_the_pictures_are_drawn_from_the_newest_and_twice_the_same(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    named = {row.name: row for row in ROWS}
    runs = [kept("2030-01-01", named[name], 4.0) for name, _, _ in plot.PANELS]
    write(tmp_path, swept("2030-01-01", [2.0, 3.0, None, 5.0]), *runs)
    drawn = plot.draw(tmp_path, tmp_path)
    assert sorted(path.name for path in drawn) == ["bench-clients.svg", "bench.svg"]
    first = [path.read_bytes() for path in drawn]
    assert b"1 us a client" in first[0]
    assert all(name.encode() in first[1] for name in named["one-to-100"].servers)
    plot.draw(tmp_path, tmp_path)
    assert [path.read_bytes() for path in drawn] == first


def test_a_chart_that_lacks_a_panel_is_not_drawn(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    write(tmp_path, kept("2030-01-01", ROWS[0], 4.0))
    assert plot.draw(tmp_path, tmp_path) == []


# --- the page ------------------------------------------------------------------------------


def test_the_page_gets_the_figures_between_its_marks_and_keeps_its_words(tmp_path: Path) -> None:
    page, top = tmp_path / "page.md", tmp_path / "top.md"
    top.write_text("<!-- summary: made by bench.document -->\n<!-- end of summary -->\n", "utf-8")
    marked = "before\n<!-- results: made by bench.document -->\n{}<!-- end of results -->\nafter\n"
    page.write_text(marked.format("old\n"), encoding="utf-8")
    found = run.report(
        [ROWS[0]],
        [
            Result(ROWS[0].name, "ws_hub", "us", "lower", 1.5, 1.0, 2.0, 5, "", {"floor": 1.25}),
            Result(ROWS[0].name, "floor", "us", "lower", None, note="it stopped"),
        ],
        TINY,
        {**machine.facts(), "load_average": 100.0},
        1.0,
    )
    older = swept("2020-01-01", [2.0, 3.0, None, 5.0])
    write(tmp_path, older, found)
    document.document(page, top, tmp_path)
    text = page.read_text(encoding="utf-8")
    assert text == marked.format(document.markdown(found) + document.markdown(older))
    assert "| ws_hub | 1.5 | 1 .. 2 | 1.25 x floor |  |" in text
    assert "| floor | - |  |  | it stopped |" in text
    assert "busy with other work" in text
    assert "| client | ws_hub |\n|---:|---:|\n| 1 | 2 (2 .. 2) |" in text
    assert "| 3 | it broke |" in text
    assert "- ws_hub: 1 us a client" in text
    assert "![clients](images/bench-clients.svg)" in text


def test_a_page_without_a_place_for_figures_is_left_alone(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("words\n", encoding="utf-8")
    with pytest.raises(ValueError, match="no place"):
        document.document(page, page, tmp_path)
    assert page.read_text(encoding="utf-8") == "words\n"


@pytest.mark.parametrize(
    ("page", "named"), [(document.PAGE, "results"), (document.SUMMARY, "summary")]
)
def test_the_pages_of_the_project_have_a_place_for_figures(page: Path, named: str) -> None:
    text = page.read_text("utf-8")
    assert text.count(f"<!-- {named}: made by bench.document -->\n") == 1
    assert text.count(f"<!-- end of {named} -->\n") == 1


def test_the_summary_has_the_best_of_each_kind() -> None:
    def result(server: str, median: float | None) -> dict[str, object]:
        return {"server": server, "median": median, "better": "higher", "unit": "messages/s"}

    found = [
        result("ws_hub", 200.0),
        result("floor", 100.0),
        result("floor in C", 150.0),
        result("flask-sock", 50.0),
        result("websockets asyncio", 60.0),
        result("bun publish", 300.0),
        result("Node ws", None),
    ]
    table = document.summary([{"rows": [{"name": "burst-to-100", "results": found}]}])
    assert table.splitlines()[3:-1] == [
        "| a burst of messages to 100 clients | 200 messages/s | 0.5 x | 0.75 x "
        "| 0.3 x, websockets asyncio | 1.5 x, bun publish |",
    ]


def test_the_pages_show_pictures_that_there_are() -> None:
    for page in (document.PAGE, document.SUMMARY):
        for name in re.findall(r"\]\(([^)]*bench[^)]*\.svg)\)", page.read_text("utf-8")):
            assert (page.parent / name).read_bytes().startswith(b"<?xml"), name
    assert f"images/{plot.CHART}" in document.SUMMARY.read_text("utf-8")
