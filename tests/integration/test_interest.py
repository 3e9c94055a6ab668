"""Processes that are told what they want: over real sockets, with cuts, kills and newcomers."""

from __future__ import annotations

import itertools
import random
import shutil
import socket
import sys
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.harness import bus_connections, look_for_others
from tests.receivers import StandIn
from tests.support import TIMEOUT, wait_until
from ws_hub.backplane.bus import Notice, NoticeKind
from ws_hub.backplane.interest import Interest, channel_topic
from ws_hub.backplane.local import LocalBackplane

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="needs memfd_create")


class Process(StandIn):
    """A backplane with an interest, and what it heard."""

    def __init__(self, directory: Path, shares: bool) -> None:
        self.bus, self.interest = LocalBackplane(directory), Interest()
        self.heard: list[str] = []
        self.channels: set[str] = set()
        self.has_room = threading.Event()
        self.has_room.set()
        # Without, it is as one of another version, or of another system.
        self.bus.open(self, self.interest if shares else None)

    def receive(self, notice: Notice, source: str) -> bool:
        if not self.has_room.is_set():
            return False
        self.heard += [text.decode() for text in notice.texts]
        return True

    def subscribe(self, channel: str) -> None:
        if channel not in self.channels:
            self.interest.begin(channel_topic(channel))
            self.channels.add(channel)

    def unsubscribe(self, channel: str) -> None:
        if channel in self.channels:
            self.channels.remove(channel)
            self.interest.end(channel_topic(channel))

    def publish(self, channel: str, text: str) -> None:
        self.bus.tell(Notice(NoticeKind.PUBLISH, channel, (text.encode(),)))

    def end(self) -> None:
        self.bus.close(TIMEOUT)


class Site:
    """The processes of one directory."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.processes: list[Process] = []

    def begin(self, *, shares: bool = True) -> Process:
        self.processes.append(Process(self.directory, shares))
        return self.processes[-1]

    def end(self, process: Process) -> None:
        self.processes.remove(process)
        process.end()
        self.wait_for_peers()  # or it would be taken for one that begins

    def wait_for_peers(self) -> None:
        count = len(self.processes) - 1
        wait_until(lambda: all(each.bus.stats().peers == count for each in self.processes))

    def settle(self) -> None:
        """Wait until everything that was told so far is heard, by a word that all want."""
        count = len(self.processes) - 1
        self.wait_for_peers()
        word = f"settled {next(_words)}"
        for each in self.processes:
            each.bus.tell(Notice(NoticeKind.PUBLISH, "keyed", (word.encode(),), key="k"))
        wait_until(
            lambda: all(each.heard.count(word) == count for each in self.processes),
            what="all to have heard",
        )


_words = itertools.count()


@pytest.fixture
def site() -> Iterator[Site]:
    folder = Path(tempfile.mkdtemp(prefix="wsh-", dir="/tmp"))
    found = Site(folder / "bus")
    yield found
    for each in found.processes:
        each.end()
    shutil.rmtree(folder)


def test_nothing_is_told_or_encoded_where_nobody_else_is(site: Site) -> None:
    alone = site.begin()
    alone.bus.tell(Notice(NoticeKind.PUBLISH, "news", (b"\n",)))  # to encode that would raise
    late = site.begin()
    site.settle()
    assert [each for each in late.heard if "settled" not in each] == []
    assert late.lost == 0


def test_each_process_is_told_what_it_wants_and_counts_no_loss(site: Site) -> None:
    one, two, three = site.begin(), site.begin(), site.begin()
    two.subscribe("a")
    three.subscribe("a")
    three.subscribe("b")
    for number in range(50):
        one.publish("a", f"a{number}")
        one.publish("b", f"b{number}")
        one.publish("c", f"c{number}")
    site.settle()
    texts = [f"{name}{number}" for number in range(50) for name in "ab"]
    assert [each for each in three.heard if "settled" not in each] == texts
    assert [each for each in two.heard if "settled" not in each] == texts[::2]
    assert (two.lost, three.lost) == (0, 0)
    assert one.bus.stats().told == 50 + 100 + 2


def test_users_and_broadcasts_go_where_there_are_any(site: Site) -> None:
    one, two = site.begin(), site.begin()
    site.settle()
    told = one.bus.stats().told
    one.bus.tell(Notice(NoticeKind.USER, "ann", (b"to ann",)))
    one.bus.tell(Notice(NoticeKind.PUBLISH, "", (b"to all",)))
    one.bus.tell(Notice(NoticeKind.DISCONNECT, "ann", code=4401))
    site.settle()
    assert one.bus.stats().told == told + 2
    assert "to ann" not in two.heard
    assert "to all" not in two.heard


def test_what_a_new_process_subscribes_to_reaches_it_at_once(site: Site) -> None:
    """When its backplane is open those that were there know it: no wait, and no look."""
    one = site.begin()
    for number in range(30):
        late = site.begin()
        late.subscribe(f"c{number}")
        one.publish(f"c{number}", f"for {number}")
        wait_until(lambda late=late, number=number: f"for {number}" in late.heard)  # type: ignore[misc]
        site.end(late)
        wait_until(lambda: one.bus.stats().peers == 0)


def test_losses_are_counted_among_what_is_left_out(site: Site) -> None:
    """16 MiB wait for one that takes nothing: what does not fit is missed, and nothing else."""
    one, two, three = site.begin(), site.begin(), site.begin()
    two.subscribe("a")
    three.subscribe("b")
    site.settle()
    two.has_room.clear()
    size, sent = 256 * 1024, 120
    for number in range(sent):
        one.publish("a", f"{number} ".ljust(size, "x"))
        one.publish("b", f"b{number}")
        wait_until(lambda number=number: f"b{number}" in three.heard)  # type: ignore[misc]
    two.has_room.set()

    def got() -> int:
        return sum(each.endswith("x") for each in two.heard)

    wait_until(lambda: two.lost + got() == sent, what="all to be heard or missed")
    site.settle()
    assert 0 < got() < sent
    assert two.lost + got() == sent
    assert three.lost == 0
    assert one.bus.stats().lost == two.lost


def test_one_without_a_table_is_told_all(site: Site) -> None:
    one, two = site.begin(), site.begin(shares=False)
    one.publish("a", "for nobody")
    wait_until(lambda: "for nobody" in two.heard)
    two.subscribe("a")
    two.publish("b", "for nobody")
    site.settle()
    assert "for nobody" not in one.heard


@pytest.mark.parametrize("seed", range(12))
def test_no_subscriber_misses_anything_but_by_a_cut(site: Site, seed: int) -> None:
    """Subscriptions, processes that end and begin, and connections that are cut, at random.

    What is published after a subscription is heard by it, every time, also when a cut has healed.
    """
    rng = random.Random(seed)
    for _ in range(3):
        site.begin()
    texts = itertools.count()
    expected: dict[Process, list[str]] = {}
    for _ in range(200):
        process, channel = rng.choice(site.processes), f"c{rng.randrange(6)}"
        match rng.randrange(16):
            case 0 if len(site.processes) > 1:
                site.settle()
                site.end(process)
            case 1 if len(site.processes) < 5:
                site.begin()
            case 2:
                site.settle()
                cut(site, process)
            case 3 | 4 | 5 | 6:
                process.subscribe(channel)
            case 7 | 8:
                process.unsubscribe(channel)
            case _:
                text = f"{channel} {next(texts)}"
                process.publish(channel, text)
                for each in site.processes:
                    if each is not process and channel in each.channels:
                        expected.setdefault(each, []).append(text)
    site.settle()
    for each in site.processes:
        heard = [text for text in each.heard if not text.startswith("settled")]
        missing = set(expected.get(each, ())) - set(heard)
        assert not missing, f"seed {seed}"
        assert len(heard) == len(set(heard))
        assert each.lost == 0  # nothing was on its way when connections were cut


def cut(site: Site, process: Process) -> None:
    """End all connections of a process, as a fault would, and wait until there are others."""
    count, before = len(site.processes) - 1, bus_connections(process.bus)
    for each in before:
        each.shutdown(socket.SHUT_RDWR)

    def is_whole() -> bool:
        for each in site.processes:
            look_for_others(each.bus)
        return not any(each in before for each in bus_connections(process.bus)) and all(
            len(bus_connections(each.bus)) == 2 * count for each in site.processes
        )

    wait_until(is_whole, what="all to be connected again")
