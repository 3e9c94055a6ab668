"""The benchmark measures what it says: its schema, its counting, one tiny run of each row."""

from __future__ import annotations

import dataclasses
import json
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from bench import document, engine, machine, run, wire
from bench.result import Result, relate, result_of, table
from bench.rows import ROWS, Incomplete, Plan, Row, Sample
from bench.servers import CONTENDERS, FLOORS, PEERS
from bench.stage import ProcessFailed, Stage, installed, staged
from ws_hub.frames import text_frame

TINY = Plan(repeats=1, work=0.002, crowd=0.05)
ECHO = wire.echo_text("echo", 64)


@pytest.fixture
def stage() -> Iterator[Stage]:
    with staged("ws_hub") as found:
        found.connect(3)
        yield found


# --- every row -----------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.timeout(120)
def test_every_row_comes_to_a_figure() -> None:
    ours = [dataclasses.replace(row, servers=tuple(set(row.servers) - set(PEERS))) for row in ROWS]
    results = engine.measure(ours, TINY)
    assert [(each.row, each.server) for each in results] == [
        (row.name, server) for row in ours for server in row.servers
    ]
    for each in results:
        assert each.median is not None and each.median > 0, (each.row, each.server, each.note)


@pytest.mark.parametrize("name", CONTENDERS)
def test_every_server_delivers_and_answers_beside_a_computing_thread(name: str) -> None:
    if not installed(name):
        pytest.skip(f"{CONTENDERS[name].needs} is not installed")
    echoes = {server for row in ROWS if row.name == "echo" for server in row.servers}
    with staged(name, spinner=True) as stage:
        stage.connect(2)
        stage.spin(on=True)
        assert stage.burst(3).messages == 6
        stage.spin(on=False)
        if name in echoes:
            found = stage.load.ask("exchange", texts=[ECHO], clients=2, count=2, timeout=5)
            assert len(found["ns"]) == 4


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


def test_a_published_message_has_the_size_that_was_asked_for(stage: Stage) -> None:
    with socket.create_connection(("127.0.0.1", stage.port)) as sock:
        sock.sendall(wire.upgrade("127.0.0.1", stage.port, "/ws", bytes(16)))
        head = sock.recv(4096)
        assert head.startswith(b"HTTP/1.1 101")
        stage.await_clients(4)
        stage.server.ask("publish", count=1, size=200)
        data = head.partition(b"\r\n\r\n")[2]
        while not (found := list(wire.frames(data))):
            data += sock.recv(4096)
        assert [len(payload) for _, payload in found] == [200]


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
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run, "_QUICK", TINY)
    path = tmp_path / "new" / "found.json"
    assert run.main(["--quick", "--rows", "encode", "--json", str(path)]) == 0
    assert "encode" in capsys.readouterr().out
    found = json.loads(path.read_text(encoding="utf-8"))
    check_schema(found)
    assert [row["name"] for row in found["rows"]] == ["encode"]
    assert found["plan"] == {"repeats": 1, "work": 0.002, "crowd": 0.05}


def test_committed_results_have_the_schema() -> None:
    paths = list((Path(run.__file__).parent / "results").glob("[0-9]*.json"))
    for path in paths:
        check_schema(json.loads(path.read_text(encoding="utf-8")))


def test_an_unknown_row_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        run.main(["--rows", "nonsense"])
    assert "no such row: nonsense" in capsys.readouterr().err


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
        assert {"name", "counts", "unit", "results"} == set(row)
        for result in row["results"]:
            assert set(result) == set(Result.__dataclass_fields__)
            assert result["row"] == row["name"] and result["better"] in ("lower", "higher")
            if result["median"] is None:
                assert result["note"]
            else:
                assert result["low"] <= result["median"] <= result["high"]
                assert result["repeats"] >= 1


# --- the page ------------------------------------------------------------------------------


def test_the_page_gets_the_figures_between_its_marks_and_keeps_its_words(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
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
    document.document(found, page)
    text = page.read_text(encoding="utf-8")
    assert text == marked.format(document.markdown(found))
    assert "| ws_hub | 1.5 | 1 .. 2 | 1.25 x floor |  |" in text
    assert "| floor | - |  |  | it stopped |" in text
    assert "busy with other work" in text


def test_a_page_without_a_place_for_figures_is_left_alone(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("words\n", encoding="utf-8")
    with pytest.raises(ValueError, match="no place"):
        document.document({}, page)
    assert page.read_text(encoding="utf-8") == "words\n"


def test_the_page_of_the_project_has_a_place_for_figures() -> None:
    text = (Path(run.__file__).parent.parent / "docs" / "performance.md").read_text("utf-8")
    assert text.count("<!-- results: made by bench.document -->\n") == 1
    assert text.count("<!-- end of results -->\n") == 1
