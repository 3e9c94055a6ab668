"""The judge: compares what each client received with what the store holds.

Numbers (`seq`) are the truth: of a client and a channel they must rise by one, but for gaps
that the client was told, each of the size that it was told. What is no longer kept in the
store is known from those that have received it: one number says the same to all.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from tests.chaos.plan import FIRM, LIFE, LOOSE, MARK, REMOTE, parts_of
from tests.chaos.record import Record, Track

__all__ = ["Accepted", "Count", "Verdict", "judge"]

Stored = Mapping[str, Mapping[str, Any]]


@dataclass
class Count:
    """What one kind of client makes: messages received, and what is wrong with them.

    `repeated` is no fault: what a client published came twice, and once without a number. The
    store could not keep it, and the client whose ack was lost published it again.
    """

    clients: int = 0
    messages: int = 0
    silent: int = 0
    duplicates: int = 0
    disordered: int = 0
    told: int = 0
    unnumbered: int = 0
    repeated: int = 0
    untrue: int = 0
    ghosts: int = 0

    @property
    def faults(self) -> int:
        """How much of it is wrong."""
        return self.silent + self.duplicates + self.disordered + self.untrue + self.ghosts

    def add(self, other: Count) -> None:
        for name in vars(other):
            setattr(self, name, getattr(self, name) + getattr(other, name))


@dataclass(frozen=True)
class Accepted:
    """A message of a publisher in the server: its value, its channel, when it was accepted.

    `sure` says that it was; else it may have been, or was accepted and not kept.
    """

    value: int
    channel: str
    at: float
    sure: bool = True


@dataclass
class Verdict:
    """What was found.

    Attributes:
        kinds: the counts of each kind of client.
        complaints: whatever else is wrong.
        lost_at_kills: how many messages a kill has lost before they were committed.
        oldest_lost: how long before its kill the first of them was accepted, in seconds.
    """

    kinds: dict[str, Count] = field(default_factory=dict)
    complaints: list[str] = field(default_factory=list)
    lost_at_kills: int = 0
    oldest_lost: float = 0.0

    @property
    def is_well(self) -> bool:
        """Whether nothing is wrong."""
        return not self.complaints and not any(each.faults for each in self.kinds.values())


def judge(
    records: Sequence[Record],
    living: Iterable[str],
    stored: Stored,
    accepted: Sequence[Accepted],
    remote: Sequence[tuple[str, int]],
    kills: Mapping[int, float],
    again: int = 0,
) -> Verdict:
    """Compare all that was received, accepted and kept.

    Args:
        records: the clients.
        living: the users that are there at the end.
        stored: of each channel `first`, `last`, and `messages`: number and value of each.
        accepted: what publishers in the server had accepted.
        remote: channel and value of what clients published, each once.
        kills: when each life of a server ended that was killed.
        again: how often clients may have published again what they got no ack for.
    """
    verdict, living = Verdict(), set(living)
    unnumbered, holes = _unnumbered(records), _holes(stored)
    known = _known(records, stored, verdict)
    for channel, missing in holes.items():
        # It counts past what it could not keep, so that clients see that something is missing.
        unkept = {each.value for each in accepted if each.channel == channel}
        unkept.update(value for where, value in remote if where == channel)
        unkept.difference_update(known[channel].values())
        if len(missing) > len(unkept | unnumbered.get(channel, set())) + again:
            verdict.complaints.append(f"the store leaves out numbers of {channel}")
    for record in records:
        count = verdict.kinds.setdefault(record.kind, Count())
        count.clients += 1
        for channel, track in record.tracks.items():
            untrue: list[str] = []
            count.add(_of_track(track, stored[channel], holes[channel], untrue))
            verdict.complaints += [f"{record.name}, {channel}: {each}" for each in untrue]
            doubled = _doubled_values(track)
            # Clients publish again what they get no ack for.
            repeated = {value for value in doubled if parts_of(value)[0] in REMOTE}
            count.repeated += len(repeated)
            count.duplicates += len(doubled - repeated)
            for publisher, number in map(parts_of, sorted(doubled - repeated)):
                verdict.complaints.append(
                    f"{record.name} has {number} of publisher {publisher} in {channel} twice"
                )
        count.ghosts += len(living ^ set(record.present)) + _doubled(record.present)
        verdict.complaints += [f"{record.name}: {each}" for each in record.complaints]
    _judge_remote(remote, known, unnumbered, stored, verdict)
    _judge_accepted(accepted, known, unnumbered, holes, kills, verdict)
    return verdict


def _doubled(names: Sequence[Any]) -> int:
    return len(names) - len(set(names))


def _unnumbered(records: Sequence[Record]) -> dict[str, set[int]]:
    """Return what was received without a number: the store could not keep it."""
    found: dict[str, set[int]] = {}
    for record in records:
        for channel, track in record.tracks.items():
            found.setdefault(channel, set()).update(track.unnumbered)
    return found


def _holes(stored: Stored) -> dict[str, set[int]]:
    """Return the numbers that the store leaves out, of each channel."""
    return {
        channel: set(range(kept["first"], kept["last"] + 1)) - {seq for seq, _ in kept["messages"]}
        for channel, kept in stored.items()
    }


def _known(
    records: Sequence[Record], stored: Stored, verdict: Verdict
) -> dict[str, dict[int, int]]:
    """Return what each number of each channel says; complain where that is disputed."""
    known: dict[str, dict[int, int]] = {}
    for channel, kept in stored.items():
        says = known[channel] = dict(kept["messages"])
        for record in records:
            track = record.tracks[channel]
            others = 0
            for seq, value in zip(track.seqs, track.values, strict=True):
                if seq in says or seq < kept["first"]:
                    others += says.setdefault(seq, value) != value
                else:
                    others += 1
            if others:
                verdict.complaints.append(
                    f"{record.name} has {others} messages of {channel} that are none for others"
                )
        value_counts = Counter(says.values())
        doubled = sum(1 for number in value_counts.values() if number > 1)
        if doubled:
            verdict.complaints.append(f"{doubled} messages of {channel} are kept more than once")
    return known


def _of_track(track: Track, stored: Mapping[str, Any], holes: set[int], untrue: list[str]) -> Count:
    """Return what one client received of one channel, from its first number to the last.

    What is kept at the end could be had at any time. Adds to `untrue` what it was told wrongly.
    """
    kept, last = stored["first"], stored["last"]
    count = Count(messages=len(track.seqs), told=len(track.gaps), unnumbered=len(track.unnumbered))
    at, seen, gaps = 0, set[int](), iter([*track.gaps, None])
    gap = next(gaps)
    for place, seq in enumerate([*track.seqs, last + 1]):
        told: list[int | None] = []
        while gap is not None and gap[0] <= place:
            told.append(gap[1])
            gap = next(gaps)
        if seq in seen:
            count.duplicates += 1
            untrue += [f"told that {each} are missing before {seq}, again" for each in told]
            continue
        if seq <= at:
            count.disordered += 1
            untrue += [f"told that {each} are missing before {seq}, late" for each in told]
            continue
        seen.add(seq)
        missing = seq - at - 1
        if not told:
            count.silent += missing
        elif not _is_size(missing, told):
            untrue.append(f"told that {told} are missing before {seq}, and had {at}")
        if told and (held := sum(each not in holes for each in range(max(at + 1, kept), seq))):
            untrue.append(f"told that {told} are missing before {seq}, of which {held} are kept")
        at = seq
    count.untrue = len(untrue)
    return count


def _doubled_values(track: Track) -> set[int]:
    """Return what came more than once, and at least once without a number."""
    loose = Counter(value for value in track.unnumbered if parts_of(value)[0] != MARK)
    return {value for value, times in loose.items() if times > 1} | loose.keys() & set(track.values)


def _is_size(missing: int, told: Sequence[int | None]) -> bool:
    """Return whether a client that misses so many was told so; None is some."""
    if None in told:
        return missing > 0
    return sum(each or 0 for each in told) == missing


def _judge_remote(
    remote: Sequence[tuple[str, int]],
    known: Mapping[str, Mapping[int, int]],
    unnumbered: Mapping[str, set[int]],
    stored: Stored,
    verdict: Verdict,
) -> None:
    """Look for what clients published with success and nobody has."""
    for channel, says in known.items():
        values = set(says.values()) | unnumbered.get(channel, set())
        lacking = [value for where, value in remote if where == channel and value not in values]
        if len(lacking) > stored[channel]["last"] - len(says):  # what nobody has may be these
            verdict.complaints.append(
                f"{len(lacking)} messages of clients were accepted in {channel}, and are not there"
            )


def _judge_accepted(
    accepted: Sequence[Accepted],
    known: Mapping[str, Mapping[int, int]],
    unnumbered: Mapping[str, set[int]],
    holes: Mapping[str, set[int]],
    kills: Mapping[int, float],
    verdict: Verdict,
) -> None:
    """Look for what the server accepted of itself, and did not keep although it lived on.

    Of what nobody waited for, it may lose so many as it has left out numbers, which tells.
    """
    for channel, says in known.items():
        _judge_order(channel, says, verdict)
        last = max(says, default=0)
        if len(says) + len(holes[channel]) < last:
            continue  # nobody knows all of it
        values = set(says.values()) | unnumbered.get(channel, set())
        newest = _newest_of_lives(says.values())
        untold = []
        for each in accepted:
            if each.channel != channel or each.value in values or not each.sure:
                continue
            publisher, life = _life_of(each.value)
            kill = kills.get(life)
            if publisher == LOOSE and kill is not None and each.value > newest.get(life, 0):
                verdict.lost_at_kills += 1
                verdict.oldest_lost = max(verdict.oldest_lost, kill - each.at)
            else:
                untold.append(each.value)
        firm = [value for value in untold if parts_of(value)[0] == FIRM]
        if len(untold) > len(holes[channel]):
            firm = untold
        for _, number in map(parts_of, firm):
            verdict.complaints.append(f"{number} of {channel} was accepted, and is not there")


def _newest_of_lives(values: Iterable[int]) -> dict[int, int]:
    """Return the last value that was kept of `LOOSE` in each life of a server."""
    newest: dict[int, int] = {}
    for value in values:
        publisher, life = _life_of(value)
        if publisher == LOOSE:
            newest[life] = max(newest.get(life, 0), value)
    return newest


def _life_of(value: int) -> tuple[int, int]:
    publisher, number = parts_of(value)
    return publisher, number // LIFE


def _judge_order(channel: str, says: Mapping[int, int], verdict: Verdict) -> None:
    """Complain where the numbers of one publisher do not rise with the channel's."""
    newest: dict[tuple[int, int], int] = {}
    for seq in sorted(says):
        publisher, number = parts_of(says[seq])
        life = _life_of(says[seq])  # those of several processes are at work at once
        if number < newest.get(life, 0):  # the same one again is complained of elsewhere
            verdict.complaints.append(f"{number} of publisher {publisher} is late in {channel}")
        newest[life] = number
