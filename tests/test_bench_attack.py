"""The attacks of the benchmark attack, and what is said of them is what was measured."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from bench import attack, attackers, document, machine
from bench.attack import ATTACKS, Attack, Plan
from bench.attackers import KINDS, address
from bench.control import Answer
from bench.result import Result, result_of
from bench.stage import Process, ProcessFailed
from bench.trial import Assault, Trial
from tests.support import wait_until
from tests.test_bench import check_schema

NAMED = {each.name: each for each in ATTACKS}
# Kinds that are not answered, with what the hub counts instead.
SILENT = {
    "published-history": "published",
    "reconnects": "connected",  # it is gone before it is answered
    "slow-readers": "connected",
}
ANSWERED = {"enough": 1}
PATIENCE = 100.0  # seconds for the end of an attack
SECONDS = (0.3, 1.0, 5.0, 20.0)  # of an attack, until something has come of it


@pytest.fixture
def attacker() -> Iterator[Process]:
    found = Process(None, "bench.attackers")
    yield found
    found.close()


@pytest.fixture
def sink() -> Iterator[Process]:
    found = Process(None, "bench.servers.sink")
    yield found
    found.close()


def work(attacker: Process, kind: str, hello: Answer, most: float, **more: Any) -> Answer:
    """Let an attacker work for some seconds."""
    where = {"port": hello["port"], "path": hello["path"]}
    return attacker.ask("attack", kind=kind, number=1, most=most, **where, **more)


# --- what attackers do ---------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMED)
def test_an_attack_reaches_a_hub_which_answers_it_or_counts_it(
    name: str, attacker: Process
) -> None:
    assault = NAMED[name].assault
    hub = Process(None, "bench.servers.attacked", *assault.words)
    try:
        hello = hub.ask("hello")
        if assault.kept:
            hub.ask("keep")
        before, counted = hub.ask("stats"), SILENT.get(name)
        ask = {"kind": assault.kind, "port": hello["port"], "path": hello["path"], "number": 1}
        attacker.tell("attack", **ask, connections=2, most=90.0, **({} if counted else ANSWERED))
        if counted:
            wait_until(lambda: hub.ask("stats")[counted] > before[counted], 60.0)
            attacker.tell("rest")
        found = attacker.answer(PATIENCE)
        assert counted or found["down"] >= 1
        assert found["opened"] >= 1 and hub.ask("stats")["connected"] > before["connected"]
    finally:
        hub.close()


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_a_sink_takes_what_the_same_attack_sends(
    kind: str, attacker: Process, sink: Process
) -> None:
    hello = sink.ask("hello")
    for seconds in SECONDS:
        before = sink.ask("usage")["bytes"]
        found = work(attacker, kind, hello, seconds)
        # What was in the kernel when the attacker left comes after it.
        wait_until(lambda: sink.ask("usage")["bytes"] - before == found["up"])  # noqa: B023
        if found["up"] or not (KINDS[kind].say or KINDS[kind].hello):
            break
    else:
        pytest.fail(f"{kind} sent nothing")
    assert (found["refused"], found["cut"], found["down"]) == (0, 0, 0)


def test_an_attacker_is_held_to_a_rate(attacker: Process, sink: Process) -> None:
    found = work(attacker, "json-pings", sink.ask("hello"), 0.5, rate=1000.0)
    at_once = len(KINDS["json-pings"].say(None))  # type: ignore[arg-type, misc]
    assert found["up"] <= 1000 * found["seconds"] + at_once


def test_an_attacker_that_reconnects_does_so_from_its_own_address(
    attacker: Process, sink: Process
) -> None:
    hello = sink.ask("hello")
    opened = 0
    for seconds in SECONDS:
        opened = work(attacker, "reconnects", hello, seconds)["opened"]
        if opened > 1:
            break
    assert opened > 1


def test_an_attack_ends_when_the_attacker_is_called_back(attacker: Process, sink: Process) -> None:
    hello = sink.ask("hello")
    where = {"port": hello["port"], "path": hello["path"]}
    attacker.tell("attack", kind="json-pings", number=1, most=60.0, **where)
    wait_until(lambda: sink.ask("usage")["bytes"] > 0)
    attacker.tell("rest")
    assert attacker.answer()["seconds"] < 60.0
    assert attacker.answer() == {}
    sink.ask("await_clients", count=0, timeout=5.0)


def test_an_attacker_that_is_refused_tries_again(attacker: Process, sink: Process) -> None:
    closed = {"port": 1, "path": "/"}  # nobody listens there
    found = work(attacker, "json-pings", closed, 0.3)
    assert found["refused"] >= 1 and found["opened"] == 0


def test_every_attacker_has_an_address_of_its_own() -> None:
    found = [address(number) for number in range(130_000)]
    assert len(set(found)) == len(found) and "127.0.0.1" not in found
    assert all(0 < int(part) < 255 for each in found for part in each.split(".")[::3])


def test_messages_of_attacks_are_no_longer_than_a_hub_takes() -> None:
    assert 64_000 < len(attackers.nested()) <= 64 * 1024
    packed = attackers.compressed(attackers.nested())
    assert len(packed) < 400 and packed[0] == 0xC1


# --- a run ---------------------------------------------------------------------------------

TINY = Plan(pairs=1, seconds=0.3, clients=2, attackers=(1,))


@pytest.mark.slow
@pytest.mark.timeout(120)
def test_the_command_measures_pairs_and_writes_what_it_prints(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    little = ["--pairs", "2", "--seconds", "0.3", "--attackers", "1"]
    path = tmp_path / "new" / "found.json"
    assert attack.main(["--rows", "json-pings", *little, "--json", str(path)]) == 0
    printed = capsys.readouterr().out
    assert "json-pings" in printed and "goal" in printed
    found = json.loads(path.read_text(encoding="utf-8"))
    check_attack_schema(found)
    assert attack.main(["--show", str(path)]) == 0
    assert capsys.readouterr().out in printed.replace(f"; written to {os.path.relpath(path)}", "")
    (row,) = found["rows"]
    hub, control = row["results"]
    assert row["point"] == {"sweep": "json-pings", "x": 1, "of": "attacker"}
    assert (hub["server"], control["server"]) == ("ws_hub", "control")
    assert (hub["repeats"], control["repeats"]) == (2, 2)
    for each in (hub, control):
        assert each["extra"]["requests"] > 0 and each["extra"]["MB/s up"] > 0
        assert each["extra"]["MB peak"] >= each["extra"]["MB before"] > 0
    assert control["extra"]["hub connected"] == 0  # nobody works on that hub
    assert hub["extra"]["hub connected"] >= 1
    assert hub["ratios"]["control"] == pytest.approx(hub["median"] / control["median"])


def test_an_attack_by_which_a_hub_grows_too_much_is_called_off() -> None:
    pair = Trial(Assault("json-pings"), 1, clients=1, seconds=0.3, seed=1, ceiling=-1e12)
    try:
        found = pair.run(sink=False)
    finally:
        pair.close()
    assert found["called off"] == 1.0
    (said, _) = attack.results("some", [found], [found])
    assert said.note == "called off: the hub grew too much"


def test_an_attack_that_does_not_come_to_figures_fails_the_run_and_says_why(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise ProcessFailed("it has ended")

    monkeypatch.setattr(attack, "measure", fail)
    path = tmp_path / "found.json"
    assert attack.main(["--rows", "nested", "--attackers", "1", "--json", str(path)]) == 1
    assert "it has ended" in capsys.readouterr().out
    found = json.loads(path.read_text(encoding="utf-8"))
    check_attack_schema(found)
    assert found["goals"][0]["why"] == ["it has ended"]


# --- what is said of it --------------------------------------------------------------------

CALM = {
    **dict.fromkeys(("http p50", "message p50", "publish p50"), 1.0),
    **dict.fromkeys(("http p99", "message p99", "publish p99"), 9.0),
    **dict.fromkeys(("messages missing", "messages not published", "clients lost"), 0.0),
    **{"requests failed": 0.0, "MB grown": 1.0, "called off": 0.0},
}
SOME = Attack("some", "nothing", Assault("json-pings"), 64.0, (1, 5))


def said(attackers: int = 1, control: dict[str, float] = CALM, **worse: float) -> dict[str, Any]:
    figures = {**CALM, **{key.replace("_", " "): value for key, value in worse.items()}}
    return attack.verdict(SOME, attackers, attack.results("some", [figures] * 3, [control] * 3))


def test_a_goal_holds_while_others_notice_little() -> None:
    assert said()["holds"] and said(http_p50=2.0, message_p50=1.9, http_p99=99.0)["holds"]


@pytest.mark.parametrize(
    ("worse", "why"),
    [
        ({"http_p50": 2.5}, "p50 2.5 x the control's"),
        ({"message_p50": 3.0}, "p50 3 x the control's"),
        ({"http_p99": 101.0}, "p99 101 ms"),
        ({"message_p99": 250.0}, "p99 250 ms"),
        ({"MB_grown": 65.0}, "grew by 65 MB"),
        ({"clients_lost": 1.0}, "1 clients lost"),
        ({"messages_missing": 2.0}, "2 messages missing"),
        ({"requests_failed": 3.0}, "3 requests failed"),
    ],
)
def test_a_goal_that_does_not_hold_says_why(worse: dict[str, float], why: str) -> None:
    found = said(**worse)
    assert not found["holds"] and found["why"] == [why]


def test_memory_has_a_bound_where_the_fewest_attackers_work() -> None:
    assert said(5, MB_grown=1000.0)["holds"] and not said(1, MB_grown=1000.0)["holds"]


def test_what_the_control_loses_as_well_is_not_the_attack() -> None:
    assert said(control={**CALM, "clients lost": 1.0}, clients_lost=1.0)["holds"]


def test_the_table_has_a_line_an_attack_with_the_control_in_brackets() -> None:
    rows = [
        (SOME, 1, attack.results("some-1", [{**CALM, "http p50": 5.0}], [CALM])),
        (SOME, 5, [result_of("some-5", "ws_hub", "ms", (), note="it stopped")]),
    ]
    found = attack.report(rows, TINY, machine.facts(), 1.0)
    check_attack_schema(found)
    table, page = attack.table(found), attack.markdown(found)
    assert "5 (1, 5 x)" in table and "p50 5 x the control's" in table
    assert "| some | 1 | 5 (1, 5 x) | 9 (9) | 1 (1, 1 x) | 9 (9) | 9 (9) | 1 of 64 |" in page
    assert "it stopped" in table and page.count("\n| some |") == 2


# --- the command ---------------------------------------------------------------------------


def test_only_a_whole_run_has_a_place_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attack, "RESULTS", Path("results"))
    assert attack.place(attack.parse([]), "2030-01-31") == Path("results/attack-2030-01-31.json")
    for asked in (["--quick"], ["--rows", "nested"], ["--attackers", "1"]):
        assert attack.place(attack.parse(asked), "2030-01-31") is None
    assert attack.place(attack.parse(["--quick", "--json", "a"]), "2030-01-31") == Path("a")


def test_a_quick_run_is_one_short_pair_and_options_say_otherwise() -> None:
    quick = attack.planned(attack.parse(["--quick"]))
    assert (quick.pairs, quick.attackers) == (1, None) and quick.seconds < Plan().seconds
    asked = ["--pairs", "7", "--seconds", "2", "--attackers", "3", "4", "--seed", "5"]
    assert attack.planned(attack.parse(asked)) == Plan(7, 2.0, Plan().clients, (3, 4), 5)


def test_attacks_are_listed_and_an_unknown_one_is_refused(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert attack.main(["--list"]) == 0
    listed = [text.split()[0] for text in capsys.readouterr().out.splitlines()]
    assert listed == [each.name for each in ATTACKS]
    with pytest.raises(SystemExit):
        attack.main(["--rows", "nonsense"])
    assert "no such attack: nonsense" in capsys.readouterr().err
    assert all(each.assault.kind in KINDS and each.counts for each in ATTACKS)


def check_attack_schema(found: dict[str, Any]) -> None:
    """Hold a file of results against what readers of it rely on."""
    check_schema(found)
    assert {"pairs", "seconds", "clients", "attackers", "seed"} == set(found["plan"])
    assert len(found["goals"]) == len(found["rows"])
    for row, goal in zip(found["rows"], found["goals"], strict=True):
        assert row["name"] == f"{goal['attack']}-{goal['attackers']}"
        assert goal["holds"] == (not goal["why"])
        hub = row["results"][0]
        assert set(hub) == set(Result.__dataclass_fields__)
        if hub["median"] is not None:
            assert {"http p99", "message p50", "message p99", "publish p99"} <= set(hub["extra"])
            assert {"p50 ratio", "p99", "MB grown", "MB allowed"} <= set(goal)


def test_committed_results_of_attacks_have_the_schema() -> None:
    for path in attack.RESULTS.glob("attack-*.json"):
        check_attack_schema(json.loads(path.read_text(encoding="utf-8")))


def test_the_page_of_the_project_has_a_place_for_attacks(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(document.PAGE.read_text(encoding="utf-8"), encoding="utf-8")
    document.replace(page, attack.BEGIN, attack.FINISH, "a table\n")
    assert "a table\n<!-- end of attacks -->" in page.read_text(encoding="utf-8")
