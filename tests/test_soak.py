"""The soak finds what it looks for, and nothing in a hub that is well."""

from __future__ import annotations

import copy
import dataclasses
import json
import types
from pathlib import Path
from typing import Any, ClassVar

import pytest

from bench import soak, visitors
from bench.ledger import LINES, Ledger, Spoiled, said
from tests.support import once_a_run
from ws_hub.protocol.frames import close_frame, ping_frame, text_frame
from ws_hub.protocol.message import Message, encode

SHORT = soak.Plan(
    *(1.2, 0.7, 0.35),
    residents=4,
    visitors=1,
    stuck=2,
    # So soon after the start memory still grows, as it should.
    margin=1.0,
    held_margin=1.0,
)


def frame(message: Message, **fields: Any) -> bytes:
    return text_frame(json.dumps({**json.loads(encode(message)), **fields}).encode())


def event(stream: str, number: int, channel: str = "", **fields: Any) -> bytes:
    return frame(Message("event", channel=channel, data=said(stream, number)), **fields)


def line(number: int, seq: int) -> bytes:
    message = Message("process_output", channel="process:p", data=str(number))
    return frame(message, seq=seq)


def status(word: str, seq: int) -> bytes:
    message = Message("process_status", channel="process:p", data={"status": word})
    return frame(message, seq=seq)


def ack(kind: str, channel: str, **data: Any) -> bytes:
    return frame(Message("ack", id=f"{kind} {channel}", data={"channel": channel, **data}))


def at(seq: int, replayed: int = 0, *, recovered: bool = True) -> dict[str, Any]:
    return {"epoch": "e", "seq": seq, "replayed": replayed, "recovered": recovered}


# --- the ledger ----------------------------------------------------------------------------


def test_what_comes_in_pieces_is_counted_and_the_rest_is_handed_over() -> None:
    ledger = Ledger(whole=True)
    data = event("a", 0) + ping_frame() + event("a", 1) + close_frame(1001, "away")
    others = [each for byte in data for each in ledger.feed(bytes([byte]))]
    assert [each.kind for each in others] == ["ping", "close"]
    assert (others[1].number, others[1].body["data"]) == (1001, "away")
    assert (ledger.messages, ledger.count("a")) == (2, 2)


@pytest.mark.parametrize(
    ("data", "text"),
    [
        (event("a", 1), "'a' goes on with 1, not 0"),
        (event("a", 0) * 2, "'a' goes on with 0, not 1"),
        (event("a", 0) + event("a", 2), "'a' goes on with 2, not 1"),
        (event("a", 0, "c", seq=2), "'c' goes on with 2, not 1"),
        (event("a", 0).replace(b"xxx", b"xxy", 1), "no message of ours"),
        (b"\x01" + event("a", 0)[1:], "no message of ours: 0x1"),
        (text_frame(b"{}"), "no message of ours"),
        (status("running", 1) + line(2, 2), "goes on with 2, not 1"),
        (status("running", 1) + line(1, 2) + status("exited", 3), f"after 1 of {LINES} lines"),
        (ack("unsubscribe", "c") + event("a", 0, "c"), "after the ack of unsubscribe"),
        (ack("subscribe", "c", **at(7)) + event("a", 0, "c", seq=9), "with 9, not 8"),
        (event("a", 0, "c", seq=1) + ack("subscribe", "c", **at(7, 3)), "from 5, not 2"),
    ],
)
def test_what_is_lost_doubled_or_torn_is_found(data: bytes, text: str) -> None:
    with pytest.raises(Spoiled, match=text):
        Ledger(whole=True).feed(data)


def test_a_channel_goes_on_where_its_ack_says() -> None:
    ledger = Ledger()
    ledger.feed(ack("subscribe", "c", **at(7, 2)) + event("c/0", 40, "c", seq=6))
    ledger.feed(event("c/0", 41, "c", seq=7) + event("c/0", 42, "c", seq=8))
    assert ledger.position("c") == 8
    # What is no longer kept is missing, in the streams as well.
    ledger.feed(ack("subscribe", "c", **at(20, 1, recovered=False)))
    ledger.feed(event("c/0", 60, "c", seq=20))
    ledger.feed(ack("unsubscribe", "c") + ack("subscribe", "c") + event("c/0", 80, "c"))


def test_a_program_that_prints_all_its_lines_may_run_again() -> None:
    ledger = Ledger()
    ledger.feed(line(LINES, 5) + status("exited", 6) + status("running", 7) + line(1, 8))
    assert ledger.position("process:p") == 8


def test_returning_client_continues_with_the_missed_messages() -> None:
    ledger = Ledger()
    ledger.feed(ack("subscribe", "news", **at(7)))
    again = ledger.successor()
    assert (again.position("news"), again.epochs) == (7, {"news": "e"})
    with pytest.raises(Spoiled, match="from 9, not 8"):
        again.feed(ack("subscribe", "news", **at(9, 1)))


# --- the verdict ---------------------------------------------------------------------------

REST: dict[str, Any] = {
    "threads": 10,
    "kinds": {"reader:#": 4, "run": 1, "ws-hub:writer:#": 1},
    "clients": 4,
    "descriptors": 8,
    "held_bytes": 50_000_000,
    "blocks": 100_000,
    "used_bytes": 20_000_000,
    "faults": [],
    "load": {"faults": []},
}


def changed(**figures: Any) -> dict[str, Any]:
    return {**copy.deepcopy(REST), **figures}


@pytest.mark.parametrize(
    ("figures", "complaints"),
    [
        ({"threads": 9, "kinds": {"run": 1}, "held_bytes": 57_000_000, "blocks": 102_999}, []),
        (
            {"threads": 12, "kinds": {"reader:#": 5, "run": 1, "new": 1}},
            ["threads: 10, then 12: 1 more of 'new', 1 more of 'reader:#'"],
        ),
        (  # one kind for another
            {"kinds": {"reader:#": 5}},
            ["threads: 10, then 10: 1 more of 'reader:#'"],
        ),
        ({"descriptors": 9}, ["descriptors: 8, then 9"]),
        (
            {"held_bytes": 58_000_000},
            ["resident bytes, held: 50,000,000, then 58,000,000: more than 15% above"],
        ),
        ({"blocks": 105_001}, ["blocks of Python's: 100,000, then 105,001: more than 5% above"]),
        (
            {"used_bytes": 21_000_001},
            ["bytes of malloc's: 20,000,000, then 21,000,001: more than 5% above"],
        ),
        ({"faults": ["a"], "load": {"faults": ["b"]}}, ["a", "b"]),
    ],
)
def test_the_verdict_names_what_is_more_than_it_was(
    figures: dict[str, Any], complaints: list[str]
) -> None:
    assert soak.verdict(REST, changed(**figures), soak.Plan()) == complaints


def test_fault_115_a_writer_that_starts_late_is_no_leak_while_it_has_a_client() -> None:
    kinds = REST["kinds"]
    late = changed(threads=13, kinds={**kinds, "ws-hub:writer:#": 4})
    assert soak.verdict(REST, late, soak.Plan()) == []
    leaked = changed(threads=14, kinds={**kinds, "ws-hub:writer:#": 5})
    assert soak.verdict(REST, leaked, soak.Plan()) == [
        "threads: 10, then 14: 1 more of 'ws-hub:writer:#'"
    ]


def test_the_second_thread_of_a_crew_and_a_reader_for_each_client_are_no_leak() -> None:
    rest = changed(kinds={**REST["kinds"], "ws-hub:reader": 1})
    kinds = rest["kinds"]
    busy = {**rest, "threads": 15, "kinds": {**kinds, "ws-hub:reader": 2, "ws-hub:reader:#": 4}}
    assert soak.verdict(rest, busy, soak.Plan()) == []
    leaked = {**busy, "threads": 16, "kinds": {**kinds, "ws-hub:reader": 7}}
    assert soak.verdict(rest, leaked, soak.Plan()) == [
        "threads: 10, then 16: 1 more of 'ws-hub:reader'"
    ]


# --- a run ---------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    def run() -> str:
        lines: list[str] = []
        found = soak.soak(SHORT, lines.append)
        assert len(lines) == len(found["samples"]) + len(found["rests"])
        return json.dumps(found)

    return json.loads(once_a_run(tmp_path_factory, "soak", run))  # type: ignore[no-any-return]


def test_a_hub_that_is_well_passes_and_everything_has_happened(found: dict[str, Any]) -> None:
    assert found["complaints"] == []
    last = found["rests"][-1]
    assert last["clients"] == SHORT.residents
    assert all(last[key] for key in ("published", "programs", "listened", "blocks", "held_bytes"))
    assert all(last["load"][key] for key in ("messages", "visits", "visited", "stuck"))


@pytest.mark.parametrize(("complaints", "code"), [([], 0), (["threads: 1, then 2"], 1)])
def test_the_command_says_how_it_went_and_writes_the_json(
    found: dict[str, Any],
    complaints: list[str],
    code: int,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    plans: list[soak.Plan] = []

    def run(plan: soak.Plan, tell: object) -> dict[str, Any]:
        plans.append(plan)
        return {**found, "complaints": complaints}

    monkeypatch.setattr(soak, "soak", run)
    path = tmp_path / "new" / "soak.json"
    assert soak.main(["--minutes", "1", "--json", str(path)]) == code
    assert (plans[0].seconds, plans[0].first) == (60.0, 30.0)
    out = capsys.readouterr().out
    assert ("WRONG: threads: 1, then 2" in out) == bool(complaints)
    assert ("As it was" in out) != bool(complaints)
    assert json.loads(path.read_text(encoding="utf-8"))["complaints"] == complaints


def test_a_resident_that_has_not_all_at_the_end_is_a_fault() -> None:
    ledger = Ledger(whole=True)
    ledger.feed(event("a", 0))
    all_of_it = visitors.Visitors()
    all_of_it.residents[0] = types.SimpleNamespace(ledger=ledger)  # type: ignore[assignment]
    all_of_it.catch_up(said={"a": 1}, timeout=0)
    assert all_of_it.usage()["faults"] == []
    all_of_it.catch_up(said={"a": 2}, timeout=0)
    assert all_of_it.usage()["faults"] == ["a resident has 1 of 2 messages of 'a'"]


class Told:
    """A process that answers what it is told to."""

    answers: ClassVar[dict[str, Any]] = {}
    asked: ClassVar[list[tuple[str, dict[str, Any]]]] = []

    def __init__(self, core: int | None, module: str, **how: Any) -> None:
        self.module = module

    def ask(self, do: str, patience: float = 0, /, **arguments: Any) -> dict[str, Any]:
        self.asked.append((do, arguments))
        answer = self.answers.get(f"{self.module} {do}", {})
        if isinstance(answer, Exception):
            raise answer
        return copy.deepcopy(answer)

    def close(self) -> None:
        self.asked.append(("close", {}))


def test_a_fault_ends_the_load_at_once_and_nothing_is_waited_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    usage = {**REST, "rss_bytes": 1, "clients": 1, "cut": 0, "now": 1.0, "cpu_seconds": 1.0}
    monkeypatch.setattr(soak, "Process", Told)
    monkeypatch.setattr(Told, "asked", [])
    monkeypatch.setattr(
        Told,
        "answers",
        {
            "bench.servers.soak hello": {"port": 1, "path": "/ws"},
            "bench.servers.soak usage": {**usage, "published": 1, "delivered": 1},
            "bench.servers.soak rest": {"said": {}},
            "bench.servers.soak settle": soak.ProcessFailed("39 clients, not 40"),
            "bench.visitors usage": {"faults": ["a gap"], "cpu_seconds": 1.0},
        },
    )
    plan = dataclasses.replace(SHORT, every=0.0)
    found = soak.soak(plan, lambda line: None)
    assert found["complaints"] == ["39 clients, not 40", "a gap"]
    assert len(found["samples"]) == len(found["rests"]) == 1
    assert [each["timeout"] for do, each in Told.asked if do == "settle"] == [1.0]
    assert [do for do, _ in Told.asked[-3:]] == ["leave", "close", "close"]


def test_a_server_that_ends_fails_the_command(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fails(plan: soak.Plan, tell: object) -> dict[str, Any]:
        raise soak.ProcessFailed("the server has ended")

    monkeypatch.setattr(soak, "soak", fails)
    assert soak.main(["--minutes", "1"]) == 1
    assert "WRONG: the server has ended" in capsys.readouterr().out
