"""What a history file has besides: other processes, restarts, and disks that fail."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import json
import os
import random
import resource
import sqlite3
import stat
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.interventions import after_reserving, machine_restarted, mounted, numbers_reserved
from ws_hub import ChannelRule, ConfigError, HistoryError, SqliteHistory
from ws_hub.backplane.sqlite_file import network_type

RULE = ChannelRule(pattern="*", history_messages=1000)
TEXT = b'{"type":"event","data":1}'


def opened(path: Path, rule: ChannelRule = RULE, **settings: int) -> SqliteHistory:
    store = SqliteHistory(path, **settings)
    store.open(lambda channel: rule)
    return store


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "hub.db"


@pytest.fixture
def make(path: Path) -> Iterator[Callable[..., SqliteHistory]]:
    made: list[SqliteHistory] = []

    def make_one(at: Path = path, rule: ChannelRule = RULE, **settings: int) -> SqliteHistory:
        made.append(opened(at, rule, **settings))
        return made[-1]

    yield make_one
    for store in made:
        store.close()


Make = Callable[..., SqliteHistory]


def test_a_store_that_ends_takes_no_number_from_another(path: Path, make: Make) -> None:
    first = opened(path)
    first.append("a", [TEXT])
    first.close()  # nothing is reserved now
    store, other = make(), opened(path)
    other.append("b", [TEXT])
    with after_reserving(other.close):  # which gives back what is reserved
        assert store.append("a", [TEXT]).last == 2


def test_messages_are_there_after_a_restart(path: Path) -> None:
    store = opened(path)
    before = store.append("a", [TEXT, TEXT])
    store.close()
    again = opened(path)
    assert [each.seq for each in again.read("a").messages] == [1, 2]
    after = again.append("a", [TEXT])
    assert (after.epoch, after.first) == (before.epoch, 3)
    again.close()


def test_two_stores_have_one_numbering(make: Make) -> None:
    one, other = make(), make()
    spans = [store.append("a", [TEXT]) for store in (one, other, one, other)]
    assert [span.first for span in spans] == [1, 2, 3, 4]
    assert len({span.epoch for span in spans}) == 1
    assert len(one.read("a").messages) == len(other.read("a").messages) == 4


def test_messages_of_another_store_are_a_change_and_its_reads_are_none(make: Make) -> None:
    one, other = make(), make()
    before = one.version()
    assert one.version() == before
    other.append("a", [TEXT])
    after = one.version()
    assert after != before
    other.read("a")
    other.head("a")
    other.version()
    assert one.version() == after


def test_another_file_in_its_place_is_a_change(path: Path, make: Make) -> None:
    store = make()
    store.append("a", [TEXT])
    before = store.version()
    for each in path.parent.glob("hub.db*"):
        each.rename(path.parent / f"aside-{each.name}")
    assert store.version() != before


def test_processes_have_one_numbering(path: Path, make: Make) -> None:
    store = make()
    code = (
        "import sys\n"
        "from ws_hub import ChannelRule, SqliteHistory\n"
        "rule = ChannelRule(pattern='*', history_messages=10_000)\n"
        "store = SqliteHistory(sys.argv[1])\n"
        "store.open(lambda channel: rule)\n"
        "print(*[store.append('a', [b'{}'] * 3).first for _ in range(200)])\n"
        "store.close()\n"
    )
    running = [
        subprocess.Popen([sys.executable, "-c", code, str(path)], stdout=subprocess.PIPE)
        for _ in range(2)
    ]
    own = [store.append("a", [b"{}"] * 3).first for _ in range(200)]
    others = [list(map(int, each.communicate(timeout=60)[0].split())) for each in running]
    assert [each.returncode for each in running] == [0, 0]
    assert all(found == sorted(found) for found in others)
    assert sorted([*own, *others[0], *others[1]]) == list(range(1, 1801, 3))


def test_only_its_user_may_read_the_file(path: Path, make: Make) -> None:
    mask = os.umask(0)
    try:
        make().append("a", [TEXT])
    finally:
        os.umask(mask)
    found = sorted(path.parent.iterdir())
    assert {each.name for each in found} == {"hub.db", "hub.db-shm", "hub.db-wal"}
    assert {stat.S_IMODE(each.stat().st_mode) for each in found} == {0o600}


def test_a_file_that_is_closed_is_one_file(path: Path) -> None:
    store = opened(path)
    store.append("a", [TEXT])
    store.close()
    assert [each.name for each in path.parent.iterdir()] == ["hub.db"]


def test_an_open_file_belongs_to_one_hub(make: Make) -> None:
    store = make()
    with pytest.raises(ConfigError, match="is in use by another hub"):
        store.open(lambda channel: RULE)


@pytest.mark.parametrize("given", [None, 3, "", b""])
def test_a_path_must_be_one(given: object) -> None:
    with pytest.raises(TypeError, match="takes the path of a file"):
        SqliteHistory(given)  # type: ignore[arg-type]


@pytest.mark.parametrize("name", [":memory:", "file:hub.db?mode=memory", "a\0b"])
def test_what_is_no_file_to_sqlite_is_refused(name: str) -> None:
    with pytest.raises(ConfigError, match="the path of no file"):
        SqliteHistory(name)


def test_max_bytes_must_be_positive(path: Path) -> None:
    with pytest.raises(ConfigError, match="max_bytes must be a positive number"):
        SqliteHistory(path, max_bytes=0)


def test_a_missing_directory_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="there is no directory"):
        opened(tmp_path / "none" / "hub.db")


def test_a_directory_in_place_of_a_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="it is a directory"):
        opened(tmp_path)


def test_a_database_of_another_program_is_refused_and_left_alone(path: Path) -> None:
    db = sqlite3.connect(path)
    db.execute("CREATE TABLE theirs (x)")
    db.commit()
    db.close()
    before = path.read_bytes()
    with pytest.raises(ConfigError, match="the file is of another program"):
        opened(path)
    assert path.read_bytes() == before


def test_a_file_that_another_process_makes_meanwhile_is_not_of_another_program(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    connect = sqlite3.connect

    class Looking(sqlite3.Connection):
        """One beside which another tries to write, between two looks at the same file."""

        def execute(self, text: str, *values: Any) -> sqlite3.Cursor:
            if "sqlite_master" in text:
                other = connect(path, timeout=0, isolation_level=None)
                with contextlib.closing(other), contextlib.suppress(sqlite3.OperationalError):
                    other.execute("CREATE TABLE late (x)")
            return super().execute(text, *values)

    monkeypatch.setattr(sqlite3, "connect", functools.partial(connect, factory=Looking))
    opened(path).close()


def test_a_file_that_another_process_is_making_is_waited_for(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    connect, tries = sqlite3.connect, []
    with contextlib.closing(connect(path, timeout=0, isolation_level=None)) as other:

        class Waiting(sqlite3.Connection):
            """One beside which another is about to write, until the second try."""

            def execute(self, text: str, *values: Any) -> sqlite3.Cursor:
                if "journal_mode" in text:
                    tries.append(text)
                    if len(tries) <= 2:
                        other.execute("BEGIN IMMEDIATE" if len(tries) == 1 else "COMMIT")
                return super().execute(text, *values)

        monkeypatch.setattr(sqlite3, "connect", functools.partial(connect, factory=Waiting))
        opened(path).close()
    assert len(tries) > 1


@pytest.mark.parametrize("version", [1, 999])
def test_a_file_of_another_version_is_refused(path: Path, version: int) -> None:
    opened(path).close()
    db = sqlite3.connect(path)
    db.execute(f"PRAGMA user_version={version}")
    db.close()
    with pytest.raises(ConfigError, match="the file is of another version of ws_hub"):
        opened(path)


def test_a_file_that_counted_the_bytes_of_kept_messages_counts_those_of_rows(path: Path) -> None:
    small = ChannelRule(pattern="*", history_messages=1000, history_bytes=40 * len(TEXT))
    store = opened(path, small)
    store.append("a", [TEXT] * 100)
    store.close()
    db = sqlite3.connect(path, isolation_level=None)
    counted = db.execute("SELECT bytes FROM channels").fetchone()
    db.execute("UPDATE channels SET bytes = 40 * ?", (len(TEXT),))
    db.execute("PRAGMA user_version=2")
    store = opened(path, small)
    assert db.execute("SELECT bytes FROM channels").fetchone() == counted
    db.close()
    store.append("a", [TEXT] * 50)
    assert [each.seq for each in store.read("a").messages] == list(range(111, 151))
    store.close()


@pytest.mark.parametrize("seed", range(6))
def test_pages_are_those_of_a_list_of_the_same_messages(make: Make, seed: int) -> None:
    chance = random.Random(seed)
    most, most_bytes = chance.choice(
        [(50, 10**7), (300, 10**7), (10**6, 90_000), (200, 9000), (10**6, 40)]
    )
    store = make(rule=ChannelRule(pattern="*", history_messages=most, history_bytes=most_bytes))
    kept: list[tuple[int, bytes]] = []  # what is to be kept, oldest first
    last = 0
    for _ in range(60):
        count, skip = chance.choice([1, 1, 2, 100, 128, 129, 400]), chance.choice([0, 0, 0, 3])
        texts = [_text(chance) for _ in range(count)]
        assert store.append("a", texts, skip=skip).first == last + skip + 1
        kept += enumerate(texts, last + skip + 1)
        last += skip + count
        while len(kept) > 1 and (
            len(kept) > most or sum(len(text) for _, text in kept) > most_bytes
        ):
            del kept[0]
        head = store.head("a")
        assert (head.first, head.last) == (kept[0][0], last)
        assert store.heads(["b", "a"])[1] == head
        for _ in range(5):
            at, limit = chance.randint(0, last + 2), chance.choice([0, 1, 7, 150, 1000])
            after = [each for each in kept if each[0] > at][:limit]
            below = [each for each in kept if each[0] < at]
            assert _page(store, after=at, limit=limit) == after
            assert _page(store, before=at, limit=limit) == below[max(len(below) - limit, 0) :]
            assert _page(store, last=limit) == kept[max(len(kept) - limit, 0) :]
    store.close()
    again = make()
    assert _page(again, limit=10**6) == kept


def _text(chance: random.Random) -> bytes:
    # A line feed is in no message of ours; a store keeps it all the same.
    size = chance.choice([3, 120, 120, 5000])
    return b"{%s%s}" % (b"x" * chance.randint(0, size), b"\n" * (chance.random() < 0.001))


def _page(store: SqliteHistory, **where: int) -> list[tuple[int, bytes]]:
    """Return numbers and texts of a page, without the numbers in the texts."""
    found = store.read("a", **where).messages
    return [(each.seq, each.text.rpartition(b',"seq":')[0] + b"}") for each in found]


# --- where it may be -----------------------------------------------------------------------

_MOUNTS = (
    "22 1 8:1 / / rw,relatime shared:1 - ext4 /dev/sda1 rw\n"
    "40 22 0:33 / {0} rw,relatime shared:9 master:1 - nfs4 server:/export rw,vers=4.2\n"
    "41 40 8:2 / {0}/local\\040disk rw - xfs /dev/sdb1 rw\n"
)


HEAD = "head, head_last, head_count, head_bytes, after, behind, lost"


class Releases:
    """Two releases that use a file, of which the older does not know the columns of beginnings."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def write(self, rule: ChannelRule, count: int) -> None:
        with contextlib.closing(opened(self.path, rule)) as store:
            for _ in range(count):
                store.append("a", [b'{"type":"event"}'] * 3)

    def write_as_older(self, rule: ChannelRule, count: int) -> None:
        with contextlib.closing(sqlite3.connect(self.path)) as db:
            known = db.execute(f"SELECT {HEAD} FROM channels").fetchone()
        self.write(dataclasses.replace(rule, history_head_bytes=0), count)
        with contextlib.closing(sqlite3.connect(self.path)) as db, db:
            db.execute(f"UPDATE channels SET ({HEAD}) = (?, ?, ?, ?, ?, ?, ?)", known)

    def kept(self) -> list[int]:
        with contextlib.closing(opened(self.path, RULE)) as store:
            found = [each.seq for each in store.read("a", limit=1000).messages]
        with contextlib.closing(sqlite3.connect(self.path)) as db:
            assert db.execute("SELECT count FROM channels").fetchone() == (len(found),)
        return found


@pytest.mark.parametrize("older", [1, 4, 30])
def test_a_beginning_that_an_older_release_has_let_go_of_holds_nothing(
    path: Path, older: int
) -> None:
    rule = ChannelRule("*", history_messages=20, history_bytes=10_000, history_head_bytes=5000)
    releases = Releases(path)
    releases.write(rule, 20)
    assert len(releases.kept()) == 20 and releases.kept()[0] == 1
    releases.write_as_older(rule, older)
    releases.write(rule, 1)
    assert len(releases.kept()) == 20 and releases.kept()[0] > 1
    releases.write(rule, 20)
    last = 3 * (20 + older + 21)
    assert releases.kept() == list(range(last - 19, last + 1))


def test_a_large_message_stays_where_an_older_release_has_written_to_a_beginning(
    path: Path,
) -> None:
    rule = ChannelRule("*", history_messages=1000, history_bytes=300, history_head_bytes=200)
    releases = Releases(path)
    releases.write(rule, 1)
    releases.write_as_older(rule, 2)
    releases.write(rule, 2)
    with contextlib.closing(opened(path, rule)) as store:
        for _ in range(2):
            span = store.append("a", [b"{%s}" % (b"x" * 1000)])
            assert store.read("a", last=1).messages[0].seq == span.last
            assert store.head("a").last == span.last


def test_a_network_file_system_is_refused(tmp_path: Path) -> None:
    table = tmp_path / "mountinfo"
    share = tmp_path / "share"
    (share / "deep").mkdir(parents=True)
    table.write_text(_MOUNTS.format(share))
    with mounted(table):
        with pytest.raises(ConfigError, match=r"network file system \(nfs4\)"):
            opened(share / "deep" / "hub.db")
        assert network_type(share / "local disk" / "x") == ""
        assert network_type(tmp_path) == ""
        assert network_type(tmp_path / "share2") == ""
    assert list((share / "deep").iterdir()) == []


def test_where_nothing_tells_what_is_mounted_a_file_is_used(tmp_path: Path, make: Make) -> None:
    with mounted(tmp_path / "none"):
        make().append("a", [TEXT])


# --- disks that fail -----------------------------------------------------------------------


def test_a_damaged_file_is_set_aside(
    path: Path, make: Make, caplog: pytest.LogCaptureFixture
) -> None:
    store = opened(path)
    epoch = store.append("a", [TEXT]).epoch
    store.close()
    path.write_bytes(b"no database at all" * 1000)
    again = make()
    span = again.append("a", [TEXT])
    assert span.epoch != epoch
    assert span.first == 1
    (aside,) = path.parent.glob("hub.db.damaged-*")
    assert aside.read_bytes().startswith(b"no database")
    assert "is damaged" in caplog.text
    assert str(aside) in caplog.text


def test_damage_is_found_while_it_is_in_use(path: Path, make: Make) -> None:
    store = opened(path, ChannelRule(pattern="*", history_messages=10_000))
    epoch = store.append("a", [TEXT * 40] * 1000).epoch
    store.close()
    size = path.stat().st_size
    with path.open("r+b") as file:
        file.seek(8192)  # the schema is left
        file.write(b"\xff" * (size - 8192))
    again = make()
    assert again.append("a", [TEXT]).epoch != epoch
    assert len(list(path.parent.glob("hub.db.damaged-*"))) == 1


def test_a_file_that_was_set_aside_by_another_process_is_left(path: Path, make: Make) -> None:
    one, other = make(), make()
    one.append("a", [TEXT])
    other.append("a", [TEXT])
    for each in path.parent.glob("hub.db*"):
        each.rename(path.parent / f"aside-{each.name}")
    assert one.append("a", [TEXT]).first == 1
    assert other.append("a", [TEXT]).first == 2


def test_a_full_disk_is_an_error_and_nothing_is_kept_in_part(path: Path, make: Make) -> None:
    store = make()
    store.append("a", [TEXT])
    limit = path.stat().st_size + 300_000
    with files_at_most(limit):
        with pytest.raises(HistoryError, match="cannot be used"):
            store.append("a", [TEXT * 1000] * 100)
        assert store.head("a").last == 1
    assert store.append("a", [TEXT]).first == 2


@contextlib.contextmanager
def files_at_most(size: int) -> Iterator[None]:
    """Have no file of this process grow beyond a size: its disk is full."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_the_oldest_channels_are_forgotten_at_the_bound(path: Path) -> None:
    times = iter(range(100))
    store = SqliteHistory(path, max_bytes=2500, clock=lambda: float(next(times)))
    public = ChannelRule(pattern="chat:*", history_messages=9, publish=True)
    store.open(lambda channel: public if public.matches(channel) else RULE)
    for channel in "a", "b", "chat:1", "chat:2", "c":
        store.append(channel, [b"x" * 1000])
    store.expire(50.0)
    assert store.names() == ["b", "c"]
    store.close()


# --- power ---------------------------------------------------------------------------------


def test_after_a_power_failure_numbers_begin_above_what_may_have_been_given(path: Path) -> None:
    store = opened(path)
    before = store.append("a", [TEXT] * 3)
    copy = path.parent / "copy.db"
    for end in "", "-wal":  # what a machine leaves that stops at once
        Path(f"{copy}{end}").write_bytes(Path(f"{path}{end}").read_bytes())
    store.close()
    with machine_restarted():
        again = opened(copy)
        head = again.head("a")
        assert head.epoch == before.epoch
        assert head.last >= 10_000
        assert [each.seq for each in again.read("a").messages] == [1, 2, 3]
        assert again.append("a", [TEXT]).first == head.last + 1
        again.close()


def test_a_file_that_was_closed_has_no_gap_when_the_machine_restarts(path: Path) -> None:
    store = opened(path)
    store.append("a", [TEXT] * 3)
    store.close()
    with machine_restarted():
        again = opened(path)
        assert again.head("a").last == 3
        assert again.append("a", [TEXT]).first == 4
        again.close()


def test_numbers_beyond_the_reserved_ones_are_reserved_first(path: Path) -> None:
    with numbers_reserved(10):
        store = opened(path)
        assert [store.append("a", [TEXT] * 7).first for _ in range(9)] == list(range(1, 64, 7))
        assert store.append("a", [TEXT] * 50).first == 64
        assert store.append("a", [TEXT], skip=1000).first == 1114
        store.close()
        with machine_restarted():
            again = opened(path)
            assert again.head("a").last == 1114
            again.close()


# --- forks ---------------------------------------------------------------------------------


def test_a_forked_child_opens_a_connection_of_its_own(path: Path, make: Make) -> None:
    store = make()
    store.append("a", [TEXT])
    read, write = os.pipe()
    child = os.fork()
    if not child:  # no test goes on in the child
        try:
            store.open(lambda channel: RULE)
            found = [store.append("a", [TEXT]).first for _ in range(100)]
            store.close()
            os.write(write, json.dumps(found).encode())
        finally:
            os._exit(0)
    os.close(write)
    own = [store.append("a", [TEXT]).first for _ in range(100)]
    with os.fdopen(read, "rb") as pipe:
        others = json.loads(pipe.read())
    os.waitpid(child, 0)
    assert sorted([*own, *others]) == list(range(2, 202))


def test_a_store_that_is_not_open_is_forked_in_peace(path: Path) -> None:
    store = SqliteHistory(path)
    child = os.fork()
    if not child:
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0
    assert not path.exists()
    store.close()
