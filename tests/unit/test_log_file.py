"""Logs of whole outputs: what is in the file is what a viewer shows, whatever is drawn anew."""

from __future__ import annotations

import gzip
import json
import os
import random
import re
import stat
import subprocess
import sys
import threading
import tracemalloc
import zlib
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("pyte")

from tests.screens import Viewer, reads
from tests.support import TIMEOUT
from tests.unit.test_screens import RECORDINGS, token
from ws_hub.errors import ConfigError
from ws_hub.lines import MAX_PIECE, Lines, Numbers, Texts
from ws_hub.process import log_index
from ws_hub.process.log_file import (
    MARK_LINES,
    CastLog,
    LogFile,
    ProcessLog,
    TextLog,
    as_log,
    open_log,
)
from ws_hub.process.log_folder import find_log
from ws_hub.process.log_index import FileLines
from ws_hub.process.log_reader import LINE_BYTES, read_page, search_lines
from ws_hub.process.log_sink import MEMBER_BYTES, GzipSink, PlainSink
from ws_hub.process.spawn import ProcessStartError

ENDS = (".log", ".log.gz")


def content(path: Path | str) -> str:
    data = Path(path).read_bytes()
    return (gzip.decompress(data) if str(path).endswith(".gz") else data).decode()


def so_far(path: Path | str) -> str:
    """Return what can be read of a file that is being written."""
    data, found = Path(path).read_bytes(), b""
    if not str(path).endswith(".gz"):
        return data.decode()
    while data:
        member = zlib.decompressobj(31)
        found += member.decompress(data)
        data = member.unused_data
    return found.decode()


class Streams:
    """Streams of a program, whose texts go to a log as `OutputReader` delivers them."""

    def __init__(self, log: LogFile, count: int = 1, columns: int | None = None) -> None:
        numbers = Numbers()
        self.streams = [Lines(columns=columns, numbers=numbers) for _ in range(count)]
        self.log = log
        self.viewer = Viewer()
        self.most = 0

    def feed(self, data: bytes, stream: int = 0) -> None:
        self._deliver(stream, self.streams[stream].feed(data))

    def look(self, stream: int = 0) -> None:
        self._deliver(stream, self.streams[stream].partial())

    def finish(self) -> None:
        for stream, lines in enumerate(self.streams):
            self._deliver(stream, lines.finish())

    def _deliver(self, stream: int, texts: Texts) -> None:
        if not texts:
            return
        for other in self.streams:
            if other is not self.streams[stream] and other.cut:
                self._take(other.break_off())
        self._take(texts)

    def _take(self, texts: Texts) -> None:
        self.log.lines(texts)
        for text, number in zip(texts, texts.numbers, strict=True):
            self.most = max(self.most, number)
            self.viewer.take(text, number)

    @property
    def text(self) -> str:
        """What a viewer shows, line N in the place N, without blank ones at the end."""
        lines = [self.viewer.lines.get(number, "") for number in range(1, self.most + 1)]
        return "".join(f"{line}\n" for line in lines).rstrip("\n")


def logged(path: Path, count: int = 1, columns: int | None = None) -> Streams:
    return Streams(open_log(ProcessLog(path, overwrite=True)), count, columns)


@pytest.mark.parametrize("group", range(8))
def test_the_log_of_a_recorded_output_is_what_a_viewer_shows(tmp_path: Path, group: int) -> None:
    for name in list(RECORDINGS)[group::8]:
        columns, data = RECORDINGS[name]
        chance = random.Random(name)
        path = tmp_path / f"{name}{chance.choice(ENDS)}"
        output = logged(path, columns=columns)
        for part in reads(data, [chance.randrange(len(data)) for _ in range(30)]):
            output.feed(part)
            if chance.random() < 0.5:
                output.look()
                output.log.turn()
        output.finish()
        output.log.close(0)
        assert content(path).rstrip("\n") == output.text, name
        assert not output.log.lost, name


@pytest.mark.parametrize("end", ENDS)
@pytest.mark.parametrize("count", [1, 2])
def test_random_sequences_of_two_streams_leave_what_a_viewer_shows(
    tmp_path: Path, count: int, end: str
) -> None:
    for seed in range(60):
        chance = random.Random(f"{count} {seed}")
        path = tmp_path / f"{seed}{end}"
        output = logged(path, count)
        for _ in range(chance.choice([5, 30, 200])):
            words = [token(chance, "\n") for _ in range(chance.choice([1, 3, 20]))]
            if chance.random() < 0.02:
                words.append("\n" + "y" * chance.choice([MAX_PIECE, 3 * MAX_PIECE]) + "\n")
            output.feed("".join(words).encode(), chance.randrange(count))
            if chance.random() < 0.3:
                output.look(chance.randrange(count))
        output.finish()
        output.log.close(0)
        assert content(path).rstrip("\n") == output.text, seed
        assert not output.log.lost


@pytest.mark.parametrize("end", ENDS)
def test_lines_are_in_the_file_when_they_are_finished_and_again_when_they_change(
    tmp_path: Path, end: str
) -> None:
    path = tmp_path / f"a{end}"
    moments = [0.0]
    sink = GzipSink if end.endswith("gz") else PlainSink
    log = TextLog(str(path), sink(_new(path)), lambda: moments[0])
    output = Streams(log, columns=80)

    def shown() -> str:
        moments[0] += 0.3
        log.turn()
        return so_far(path)

    output.feed(b"layer 1: 0%\r\nlayer 2: 0%\r\n")
    assert shown() == "layer 1: 0%\nlayer 2: 0%\n"
    output.feed(b"\x1b[2Alayer 1: 100%")
    output.look()
    assert shown() == "layer 1: 0%\nlayer 2: 0%\n"  # it is likely to change again
    moments[0] += 0.7
    assert shown() == "layer 1: 100%\nlayer 2: 0%\n"
    output.feed(b"\x1b[2B\r" + b"more\r\n" * 50)
    assert shown() == "layer 1: 100%\nlayer 2: 0%\n" + "more\n" * 50
    output.finish()
    log.close(0)
    assert content(path) == "layer 1: 100%\nlayer 2: 0%\n" + "more\n" * 50


def _new(path: Path) -> int:
    return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)


def test_an_unfinished_line_is_completed_when_others_have_followed(tmp_path: Path) -> None:
    output = logged(tmp_path / "a.log", 2)
    output.feed(b"building... ")
    output.look()
    output.feed(b"warning\n" * 100, 1)
    assert so_far(tmp_path / "a.log") == "building... \n" + "warning\n" * 100
    output.feed(b"done\n")
    assert so_far(tmp_path / "a.log") == "building... done\n" + "warning\n" * 100
    output.log.close(0)


@pytest.mark.parametrize("end", ENDS)
def test_a_change_beyond_reach_is_counted(tmp_path: Path, end: str) -> None:
    output = logged(tmp_path / f"a{end}", 2)
    output.feed(b"building... ")
    output.look()
    for _ in range(3 * MARK_LINES):
        output.feed(b"warning\n", 1)
    output.feed(b"done\n")
    output.log.close(0)
    assert content(tmp_path / f"a{end}") == "building... \n" + "warning\n" * 3 * MARK_LINES
    assert output.log.lost == 1


@pytest.mark.parametrize("end", ENDS)
def test_a_line_without_an_end_takes_no_memory(tmp_path: Path, end: str) -> None:
    output = logged(tmp_path / f"a{end}")
    output.feed(b"0123456789abcdef" * 4096 * 20)
    tracemalloc.start()
    try:
        for _ in range(40):
            output.log.lines(output.streams[0].feed(b"0123456789abcdef" * 4096))
        assert tracemalloc.get_traced_memory()[1] < 1 << 20
    finally:
        tracemalloc.stop()
    output.feed(b"\nnext\n")
    output.finish()
    output.log.close(0)
    text = content(tmp_path / f"a{end}")
    assert text == "0123456789abcdef" * 4096 * 60 + "\nnext\n"


def test_a_compressed_log_begins_new_members_at_ends_of_lines(tmp_path: Path) -> None:
    output = logged(tmp_path / "a.log.gz")
    line = b"x" * 99 + b"\n"
    for _ in range(3 * MEMBER_BYTES // 100 // 500 + 1):
        output.feed(line * 500)
    output.log.close(0)
    data, members = (tmp_path / "a.log.gz").read_bytes(), 0
    while data:
        member = zlib.decompressobj(31)
        text, data, members = member.decompress(data), member.unused_data, members + 1
        assert member.eof and (not text or text.endswith(b"\n"))
    assert members == 3


# --- the file ------------------------------------------------------------------------------


def test_only_its_user_may_read_a_log(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        log = open_log(ProcessLog(tmp_path / "a.log"))
    finally:
        os.umask(before)
    log.close(0)
    assert stat.S_IMODE((tmp_path / "a.log").stat().st_mode) == 0o600


def test_a_file_that_is_there_is_replaced_only_when_told_so(tmp_path: Path) -> None:
    path = tmp_path / "a.log"
    path.write_text("before")
    path.chmod(0o644)
    with path.open() as reader:
        with pytest.raises(ProcessStartError, match=r"exists already: .*overwrite=True"):
            open_log(ProcessLog(path))
        assert path.read_text() == "before"
        output = logged(path)
        output.feed(b"after\n")
        output.log.close(0)
        assert reader.read() == "before"  # who reads it keeps it
    assert path.read_text() == "after\n"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_a_link_is_not_followed(tmp_path: Path) -> None:
    target = tmp_path / "passwd"
    target.write_text("root")
    (tmp_path / "a.log").symlink_to(target)
    (tmp_path / "b.log").symlink_to(tmp_path / "nothing")
    for name in "a.log", "b.log":
        with pytest.raises(ProcessStartError, match="exists already"):
            open_log(ProcessLog(tmp_path / name))
    open_log(ProcessLog(tmp_path / "a.log", overwrite=True)).close(0)
    assert target.read_text() == "root"


def test_a_folder_that_is_missing_is_said(tmp_path: Path) -> None:
    with pytest.raises(ProcessStartError, match=r"cannot be written: .*Its folder must be there"):
        open_log(ProcessLog(tmp_path / "no" / "a.log"))


@pytest.mark.parametrize("given", [5, b"a.log", "", "a\0b", ["a.log"], 1.5])
def test_what_is_no_path_is_refused(given: Any) -> None:
    with pytest.raises(ConfigError, match="log must be the path of a file"):
        as_log(given, "a")
    with pytest.raises(ConfigError, match="overwrite must be"):
        ProcessLog("a.log", overwrite=given)


def test_a_folder_of_logs_names_files_by_their_process_ids(tmp_path: Path) -> None:
    folder = tmp_path / "logs"
    assert as_log(None, "a", folder) is None and as_log(False, "a", folder) is None
    for process_id in "build-42", "..", ".", "a.log", "\u00e9/../b%2f":
        log = as_log(True, process_id, folder)
        assert log is not None
        path = Path(log.path)
        assert path.parent == folder and not path.is_dir()
        open_log(log).close(0)
        assert find_log(folder, process_id) == str(path)
    assert len([each for each in folder.iterdir() if each.suffix != ".times"]) == 5
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert find_log(folder, "nothing") is None


def test_a_relative_path_stays_in_the_folder_of_logs(tmp_path: Path) -> None:
    folder = tmp_path / "logs"
    log = as_log("2026/42.log.gz", "a", folder)
    assert log is not None and log.path == str(folder / "2026" / "42.log.gz")
    assert log.is_compressed and not log.is_recording
    (folder / "out").symlink_to(tmp_path)
    for given in "../42.log", "a/../../42.log", "out/42.log", "..":
        with pytest.raises(ConfigError, match=r"must stay inside HubConfig\.logs"):
            as_log(given, "a", folder)
        with pytest.raises(ConfigError, match="must stay inside"):
            as_log(ProcessLog(given, overwrite=True), "a", folder)
    absolute = as_log(tmp_path / "42.log", "a", folder)
    assert absolute is not None and absolute.path == tmp_path / "42.log"
    with pytest.raises(ConfigError, match=r"log=True needs HubConfig\(logs"):
        as_log(True, "a")


# --- a full disk ---------------------------------------------------------------------------

ROOT = Path(__file__).parents[2]
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(ROOT)}  # for the scripts, which import this module
FULL = """
import resource, sys
from tests.unit.test_log_file import Streams
from ws_hub.process.log_file import TextLog, CastLog
from ws_hub.process.log_sink import GzipSink, PlainSink
import os, random

path, most = sys.argv[1], int(sys.argv[2])
now = [0.0]
fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
sink = (GzipSink if path.endswith(".gz") else PlainSink)(fd)
log = (CastLog if ".cast" in path else TextLog)(path, sink, lambda: now[0])
log.begin((80, 24))
output = Streams(log, columns=80)
chance = random.Random(7)

def write(first, count):
    for number in range(first, first + count):
        data = b"%06d %s\\r\\n" % (number, chance.randbytes(30).hex().encode())
        output.feed(data)
        log.output("stdout", data)
        now[0] += 0.01
        log.turn()

write(1, 100)
resource.setrlimit(resource.RLIMIT_FSIZE, (most, resource.RLIM_INFINITY))
write(101, 1000)
print(log.lost > 0, bool(log.error), os.path.getsize(path) <= most)
resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
now[0] += 1.5
write(1101, 100)
output.finish()
log.close(0)
print(log.lost)
"""


def full(tmp_path: Path, name: str, most: int) -> tuple[list[str], str]:
    script = tmp_path / "full.py"
    script.write_text(FULL)
    command = [sys.executable, str(script), str(tmp_path / name), str(most)]
    done = subprocess.run(
        command, capture_output=True, text=True, check=True, timeout=60, cwd=ROOT, env=ENVIRONMENT
    )
    assert done.stderr.count("cannot be written") == 1  # once
    return done.stdout.split(), content(tmp_path / name)


@pytest.mark.parametrize(("name", "most"), [("a.log", 20_000), ("a.log.gz", 10_000)])
def test_a_full_disk_leaves_a_gap_of_the_size_that_is_counted(
    tmp_path: Path, name: str, most: int
) -> None:
    said, text = full(tmp_path, name, most)
    assert said[:3] == ["True", "True", "True"]
    lost = int(said[3])
    lines = text.split("\n")
    assert lines.pop() == ""
    assert len(lines) == 1200  # line N is in its place
    missing = {place for place, line in enumerate(lines, 1) if line[:6] != f"{place:06d}"}
    said_missing = set[int]()
    for place, line in enumerate(lines, 1):
        if found := re.search(r"\(ws_hub: ([0-9,]+) lines from here on were not written: ", line):
            said_missing |= set(range(place, place + int(found[1].replace(",", ""))))
    assert missing == said_missing and len(missing) == lost
    assert max(missing) < 1200  # it went on


def test_a_recording_goes_on_after_a_full_disk_and_counts_its_events(tmp_path: Path) -> None:
    said, text = full(tmp_path, "a.cast", 20_000)
    events = [json.loads(line) for line in text.splitlines()]
    assert events[0]["version"] == 3
    assert len([each for each in events[1:] if each[1] == "o"]) == 1200 - int(said[3])
    assert events[-1][1:] == ["x", "0"]
    passed = sum(each[0] for each in events[1:])
    assert 13.4 < passed < 13.6  # by the clock of the script


def test_a_size_has_the_time_at_which_it_was_set(tmp_path: Path) -> None:
    now = [100.0]
    fd = os.open(tmp_path / "a.cast", os.O_WRONLY | os.O_CREAT, 0o600)
    log = CastLog(str(tmp_path / "a.cast"), PlainSink(fd), lambda: now[0])
    log.begin((80, 24))
    now[0] = 101.0
    log.output("stdout", b"one")
    now[0] = 101.5
    log.resized(80, 24)  # the same one
    log.resized(90, 30)
    now[0] = 104.0
    log.output("stdout", b"two")
    now[0] = 103.0
    log.resized(91, 30)  # told by another thread, which was slower
    now[0] = 104.0
    log.close(7)
    lines = [json.loads(line) for line in content(tmp_path / "a.cast").splitlines()]
    assert lines[1:] == [
        [1.0, "o", "one"],
        [0.5, "r", "90x30"],
        [2.5, "o", "two"],
        [0.0, "r", "91x30"],
        [0.0, "x", "7"],
    ]


def test_a_recording_begun_on_a_full_disk_gets_its_header(tmp_path: Path) -> None:
    script = FULL.replace(
        "log.begin",
        "resource.setrlimit(resource.RLIMIT_FSIZE, (0, resource.RLIM_INFINITY))\nlog.begin",
    ).replace("write(1, 100)\n", "")
    (tmp_path / "begin.py").write_text(script)
    command = [sys.executable, str(tmp_path / "begin.py"), str(tmp_path / "a.cast"), "0"]
    subprocess.run(command, capture_output=True, check=True, timeout=60, cwd=ROOT, env=ENVIRONMENT)
    events = [json.loads(line) for line in content(tmp_path / "a.cast").splitlines()]
    assert events[0]["version"] == 3 and events[1][2].startswith("001101 ")


@pytest.mark.parametrize("name", ["a.log", "a.log.gz"])
def test_a_line_that_goes_on_changing_moves_none_that_a_reader_has_a_place_of(
    tmp_path: Path, name: str
) -> None:
    now, path = [0.0], str(tmp_path / name)
    fd = os.open(path, os.O_WRONLY | os.O_CREAT, 0o600)
    log = TextLog(path, (GzipSink if name.endswith(".gz") else PlainSink)(fd), lambda: now[0])
    log.begin((80, 24))
    reader, numbers = FileLines(path), Numbers()
    bar, lines = Lines(columns=80, numbers=numbers), Lines(columns=80, numbers=numbers)
    bar.feed(b"0%")
    log.lines(bar.partial())
    for turn in range(60):
        log.lines(lines.feed(b"".join(b"line %d.%d\r\n" % (turn, n) for n in range(500))))
        bar.feed(b"\r%d%% " % turn + b"x" * (turn % 7))
        log.lines(bar.partial())
        now[0] += 1.1
        log.turn()
        reader.span()
    log.close(0)
    for first in (1, 2, 15_000, 28_000):
        assert read_page(reader, first, 2) == read_page(FileLines(path), first, 2)
    assert read_page(reader, 15_002, 1)[0].text == "line 30.0"


# --- reading, step by step -------------------------------------------------------------------


class Steps:
    """A time for a read that is over after so many looks at it."""

    def __init__(self, count: int) -> None:
        self.left = count

    def __call__(self) -> bool:
        self.left -= 1
        return self.left < 0


def test_a_first_read_of_a_large_file_goes_on_where_the_last_one_has_stopped(
    tmp_path: Path,
) -> None:
    path = tmp_path / "a.log"
    with path.open("wb") as file:
        file.write(b"first\n")
        file.truncate(1 << 28)  # of zeros, a line without an end
        file.seek(0, os.SEEK_END)
        file.write(b"\n" + b"".join(b"line %d\n" % n for n in range(3, 10_000)))
    reader = FileLines(str(path))
    blocks = (1 << 28) // log_index.BLOCK
    calls = taken = 0
    while True:
        steps = Steps(blocks // 10)
        span = reader.span(steps)
        calls, taken = calls + 1, taken + blocks // 10 - max(steps.left, 0)
        if span.complete:
            break
        assert calls < 20 and span.last <= 2
    assert span == (1, 9999, True)
    assert 10 <= calls and taken < 1.5 * blocks
    # After which a read goes to the place at once.
    steps = Steps(1000)
    assert read_page(reader, 9_000, 1, steps) == ((9_000, "line 9000", "", None),)
    assert steps.left > 900


@pytest.mark.parametrize("members", [1, 40])
def test_a_compressed_file_of_any_program_is_read_step_by_step(
    tmp_path: Path, members: int
) -> None:
    """Also of one member, as gzip makes it, which has no place to begin at but the first."""
    text = b"".join(b"line %d %d\n" % (n, n * n) for n in range(1, 400_001))
    part = len(text) // members + 1
    data = b"".join(gzip.compress(text[at : at + part], 1) for at in range(0, len(text), part))
    (tmp_path / "a.log.gz").write_bytes(data)
    reader = FileLines(str(tmp_path / "a.log.gz"))
    calls = 0
    while not reader.span(Steps(6)).complete:
        calls += 1
        assert calls < 30
    assert calls > 1
    steps = Steps(1000)
    assert read_page(reader, 300_000, 1, steps)[0].text == f"line 300000 {300_000**2}"
    assert steps.left > 970  # of the forty blocks
    found, first = list[int](), 1
    while first is not None:
        lines, first = search_lines(reader, "99999 ", first, 1000, late=Steps(0))  # type: ignore[assignment]
        found += [line.number for line in lines]
    assert found == [n for n in range(1, 400_001) if str(n).endswith("99999")]


@pytest.mark.parametrize("end", ["log", "log.gz"])
def test_a_line_of_many_megabytes_is_read_step_by_step(tmp_path: Path, end: str) -> None:
    data = b"x" * (40 << 20) + b"\nneedle\n"
    path = tmp_path / f"a.{end}"
    path.write_bytes(gzip.compress(data, 1) if end == "log.gz" else data)
    reader = FileLines(str(path))
    page = read_page(reader, 1, 10, Steps(0))
    assert page == ((1, "x" * LINE_BYTES, "", None),)
    found, first, calls = list[int](), 1, 0
    while first is not None:
        lines, first = search_lines(reader, "needle", first, 10, late=Steps(0))  # type: ignore[assignment]
        found += [line.number for line in lines]
        calls += 1
    assert (found, calls > 10) == ([2], True)


def test_a_reader_waits_for_no_other_longer_than_it_has_time(tmp_path: Path) -> None:
    path = tmp_path / "a.log"
    path.write_bytes(b"".join(b"line %d\n" % n for n in range(1, 1_000_001)))
    reader = FileLines(str(path))
    parked, go_on = threading.Event(), threading.Event()

    def late() -> bool:
        parked.set()
        go_on.wait(TIMEOUT)
        return False

    found: list[object] = []
    first = threading.Thread(target=lambda: found.append(reader.span(late)))
    first.start()
    try:
        assert parked.wait(TIMEOUT)
        span = reader.span(lambda: True)
        assert not span.complete and span.last < 1_000_000
        assert read_page(reader, 5, 1)[0].text == "line 5"
        assert search_lines(reader, "line 999999", 1, 10)[1] is None
    finally:
        go_on.set()
        first.join(TIMEOUT)
    assert found == [(1, 1_000_000, True)] == [reader.span()]


@pytest.mark.parametrize("seed", range(4))
def test_random_files_are_read_alike_through_any_places(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seed: int
) -> None:
    rnd = random.Random(seed)
    for turn in range(40):
        for name, values in {
            "BLOCK": (7, 64, 1000, 1 << 14), "_RAW": (5, 50, 4096), "_UNSURE_LINES": (0, 3, 20),
            "_UNSURE_BYTES": (10, 200, 5000), "_SPACING": (1, 50, 1000), "_MOST_INSIDE": (1, 4),
            "_MOST_PLACES": (3, 8, 100), "LINE_BYTES": (10, 40, 1000),
        }.items():  # fmt: skip
            monkeypatch.setattr(log_index, name, rnd.choice(values))
        sizes = [rnd.choice([0, 0, 1, 3, 10, 60, rnd.randrange(500)]) for _ in range(turn * 6)]
        lines = [bytes(rnd.choices(b"abz\xc3\xa9", k=size)) for size in sizes]
        data = b"".join(line + b"\n" for line in lines)
        if rnd.random() < 0.4:
            lines.append(b"unfinished")
            data += lines[-1]
        path = tmp_path / f"{turn}.log{rnd.choice(['', '.gz'])}"
        if path.suffix == ".gz":
            cuts = sorted(rnd.randrange(len(data) + 1) for _ in range(rnd.choice([0, 1, 5])))
            ends = zip([0, *cuts], [*cuts, len(data)], strict=True)
            data = b"".join(gzip.compress(data[start:end]) for start, end in ends)
        path.write_bytes(data)
        most: int = log_index.LINE_BYTES
        shown = [line[:most].decode("utf-8", "replace") for line in lines]
        reader = FileLines(str(path))
        for _ in range(20):
            late = Steps(rnd.choice([0, 1, 3, 1000]))
            if rnd.random() < 0.4:
                span = reader.span(late)
                assert span.last <= len(lines) and (span.last == len(lines) or not span.complete)
                continue
            first, count = rnd.randrange(1, len(lines) + 5), rnd.randrange(20)
            page = read_page(reader, first, count, late)
            texts = shown[first - 1 : first - 1 + count]
            assert [line.text for line in page] == texts[: len(page)], (seed, turn)
            assert [line.number for line in page] == list(range(first, first + len(page)))
            assert [line.text for line in read_page(reader, first, count)] == texts, (seed, turn)
        assert reader.span() == (1, len(lines), True)
