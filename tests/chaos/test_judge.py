"""The judge finds what it looks for, and nothing where all is well."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import pytest

from tests.chaos.judge import Accepted, Verdict, judge
from tests.chaos.peers import count_of
from tests.chaos.plan import CHANNELS, FIRM, LOOSE, REMOTE, Plan, schedule, value_of
from tests.chaos.record import Record, Track

FIRST, *OTHERS = CHANNELS
LOST = None


def said(number: int, publisher: int = FIRM) -> int:
    return value_of({"publisher": publisher, "number": number})


def record(*seqs: int, name: str = "ann", values: Sequence[int] = (), **gaps: int | None) -> Record:
    """Return a client that has received so many of the first channel; `at_3=2` is a gap."""
    made = Record("python", name)
    told = [(int(at.removeprefix("at_")), count) for at, count in gaps.items()]
    made.tracks[FIRST] = Track(seqs, values or map(said, seqs), told)
    made.present = ["ann"]
    return made


def kept(*values: int, first: int = 1) -> dict[str, Any]:
    """Return a store that has these in its first channel, and nothing in the others."""
    numbered = [list(each) for each in enumerate(values, first)]
    held = {"first": first, "last": first + len(values) - 1, "messages": numbered}
    return {FIRST: held, **{each: {"first": 1, "last": 0, "messages": []} for each in OTHERS}}


def found(*records: Record, stored: dict[str, Any], **more: Any) -> Verdict:
    given: dict[str, Any] = {"accepted": [], "remote": [], "kills": {}, "living": ["ann"], **more}
    return judge(list(records), stored=stored, **given)


FIVE = kept(*map(said, range(1, 6)))
LATE = kept(said(4), said(5), first=4)


def test_what_is_whole_is_well() -> None:
    verdict = found(record(1, 2, 3, 4, 5), stored=FIVE)
    assert verdict.is_well
    assert verdict.kinds["python"].messages == 5


@pytest.mark.parametrize(
    ("client", "stored", "fault"),
    [
        (record(1, 2, 4, 5), FIVE, {"silent": 1}),
        (record(1, 2, 3), FIVE, {"silent": 2}),
        (record(3, 4, 5), FIVE, {"silent": 2}),
        (record(), FIVE, {"silent": 5}),
        (record(1, 2, 2, 3, 4, 5), FIVE, {"duplicates": 1}),
        (record(1, 3, 2, 4, 5), FIVE, {"silent": 1, "disordered": 1}),
        (record(1, 4, 5, at_1=1), LATE, {"told": 1, "untrue": 1}),
        (record(1, 4, 5, at_1=2), LATE, {"told": 1}),
        (record(1, 4, 5, at_1=LOST), LATE, {"told": 1}),
        (record(4, 5, at_0=3), LATE, {"told": 1}),
        (record(1, 2, 3, 4, 5, at_2=LOST), LATE, {"told": 1, "untrue": 1}),
        (record(1, 2, 3, 4, 5, at_5=1), LATE, {"told": 1, "untrue": 1}),
        (record(1, 2, 3, 5, at_3=1), FIVE, {"told": 1, "untrue": 1}),  # it could be had
    ],
)
def test_each_fault_of_a_client_is_counted(
    client: Record, stored: dict[str, Any], fault: dict[str, int]
) -> None:
    verdict = found(client, stored=stored)
    counts = vars(verdict.kinds["python"])
    wrong = {name: counts[name] for name in list(counts)[2:] if counts[name]}
    assert wrong == fault
    assert verdict.is_well is (set(fault) == {"told"})
    assert len(verdict.complaints) == fault.get("untrue", 0)


def test_names_that_are_missing_or_left_over_are_ghosts() -> None:
    client = record(1, 2, 3, 4, 5)
    client.present = ["bob", "bob"]
    assert found(client, stored=FIVE).kinds["python"].ghosts == 3


@pytest.mark.parametrize(
    ("records", "stored", "text"),
    [
        ([record(1, values=[said(7)])], kept(said(1)), "none for others"),
        ([record(1, 2)], kept(said(1)), "none for others"),
        (
            [record(1, 4, 5, at_1=2), record(1, 4, 5, values=[said(9), said(4), said(5)], at_1=2)],
            LATE,
            "none for others",
        ),
        ([record(1, 2, values=[said(1)] * 2)], kept(said(1), said(1)), "kept more than once"),
        ([record(1, 2, values=[said(2), said(1)])], kept(said(2), said(1)), "is late in"),
    ],
)
def test_numbers_that_do_not_say_the_same_are_found(
    records: list[Record], stored: dict[str, Any], text: str
) -> None:
    assert text in "\n".join(found(*records, stored=stored).complaints)


def test_numbers_that_the_store_leaves_out_are_found() -> None:
    stored = kept(said(1), said(2), said(3))
    del stored[FIRST]["messages"][1]
    complaints = found(record(1, 3), stored=stored).complaints
    assert f"the store leaves out numbers of {FIRST}" in complaints


def test_what_the_store_could_not_keep_is_received_once_and_told() -> None:
    stored = kept(said(1), said(2), said(3))
    del stored[FIRST]["messages"][1]
    client, other = record(1, 3, at_1=1), record(1, 3)
    client.tracks[FIRST].unnumbered.append(said(2))
    told = found(client, stored=stored, accepted=accepted(1, 2, 3, publisher=FIRM))
    assert told.is_well
    assert told.kinds["python"].unnumbered == 1
    untold = found(client, other, stored=stored)
    assert untold.kinds["python"].silent == 1
    client.tracks[FIRST].unnumbered.extend([said(2), said(3)])  # one twice, one with a number
    doubled = found(client, stored=stored)
    assert doubled.kinds["python"].duplicates == 2
    assert [each for each in doubled.complaints if each.endswith(f"in {FIRST} twice")] == [
        f"{client.name} has 2 of publisher {FIRM} in {FIRST} twice",
        f"{client.name} has 3 of publisher {FIRM} in {FIRST} twice",
    ]


def test_what_clients_publish_again_since_it_was_not_kept_is_no_fault() -> None:
    value = said(1, REMOTE[0])
    client = record(1, values=[value])
    client.tracks[FIRST].unnumbered.append(value)
    repeated = found(client, stored=kept(value))
    assert repeated.is_well
    assert repeated.kinds["python"].repeated == 1
    numbered = found(record(1, 2, values=[value, value]), stored=kept(value, value))
    assert not numbered.is_well


def accepted(*numbers: int, publisher: int = LOOSE, at: float = 10.0) -> list[Accepted]:
    return [Accepted(said(number, publisher), FIRST, at) for number in numbers]


def test_a_kill_may_lose_what_was_not_committed() -> None:
    stored = kept(said(1, LOOSE), said(1_000_001, LOOSE))
    client = record(1, 2, values=[said(1, LOOSE), said(1_000_001, LOOSE)])
    numbers = accepted(1, 2, 3, 1_000_001)
    verdict = found(client, stored=stored, accepted=numbers, kills={0: 10.25})
    assert (verdict.is_well, verdict.lost_at_kills, verdict.oldest_lost) == (True, 2, 0.25)


@pytest.mark.parametrize(
    ("numbers", "kills", "text"),
    [
        (accepted(1, 2), {1: 10.1}, "1 of chaos:present was accepted"),  # another was killed
        (accepted(1, publisher=FIRM), {0: 10.1}, "1 of chaos:present was accepted"),
        (accepted(1, 2), {0: 10.1}, "2 of chaos:present was accepted"),  # a later one is kept
    ],
)
def test_what_is_lost_without_a_kill_is_found(
    numbers: list[Accepted], kills: dict[int, float], text: str
) -> None:
    stored = kept(said(3, LOOSE))
    client = record(1, values=[said(3, LOOSE)])
    verdict = found(client, stored=stored, accepted=numbers, kills=kills)
    assert text in "\n".join(verdict.complaints)


@pytest.mark.parametrize(
    ("lacking", "is_well"),
    [
        (accepted(2), True),
        (accepted(2, 3), False),  # more than the numbers that tell
        (accepted(2, publisher=FIRM), False),
        ([Accepted(said(2, FIRM), FIRST, 10.0, sure=False)], True),
    ],
)
def test_what_the_store_could_not_keep_is_lost_where_a_number_tells(
    lacking: list[Accepted], is_well: bool
) -> None:
    stored = kept(said(1), said(2), said(3))
    del stored[FIRST]["messages"][1]
    verdict = found(
        record(1, 3, values=[said(1), said(3)], at_1=1), stored=stored, accepted=lacking
    )
    assert verdict.is_well is is_well


def test_what_clients_published_and_is_not_there_is_found() -> None:
    remote = [(FIRST, said(1, REMOTE[0])), (FIRST, said(2, REMOTE[0]))]
    stored = kept(remote[0][1])
    verdict = found(record(1, values=[remote[0][1]]), stored=stored, remote=remote)
    assert verdict.complaints == [
        f"1 messages of clients were accepted in {FIRST}, and are not there"
    ]


def test_a_peer_is_counted_by_what_it_published() -> None:
    published = set(map(said, range(1, 6)))
    count = count_of([said(1), said(3), said(2), said(2)], published)
    assert (count.messages, count.silent, count.duplicates, count.disordered) == (4, 2, 1, 1)


def test_a_seed_names_the_faults_of_a_run() -> None:
    faults = schedule(Plan(seconds=60, seed=7))
    assert faults == schedule(Plan(seconds=60, seed=7)) != schedule(Plan(seconds=60, seed=8))
    assert all(one.at <= other.at for one, other in itertools.pairwise(faults))
    assert {"kill", "pause", "clock", "restart"} <= {each.kind for each in faults}
