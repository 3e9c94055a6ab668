"""Whole logs of programs, through the front door: written, read over HTTP, and what goes wrong."""

from __future__ import annotations

import datetime
import gzip
import http.client
import itertools
import json
import os
import queue
import signal
import subprocess
import sys
import tempfile
import textwrap
import tracemalloc
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest

from tests.support import TIMEOUT, wait_until, without_usage
from ws_hub import (
    AuthResult,
    Hub,
    HubConfig,
    HubNotRunning,
    InvalidName,
    ProcessLog,
    Server,
    SqliteHistory,
    middleware,
    serve,
)
from ws_hub.errors import ConfigError, HistoryError
from ws_hub.hub import logs
from ws_hub.hub.statuses import stored_status_of
from ws_hub.page import page_app
from ws_hub.process import ProcessStartError
from ws_hub.process.log_folder import note_log

pytestmark = pytest.mark.skipif(os.name != "posix", reason="needs POSIX pipes")

COUNT = "for i in range(1, %d): print('line', i)"


class Site:
    """A hub with its page, served, whose logs are in a folder."""

    def __init__(self, folder: Path | None, **settings: Any) -> None:
        self.hub = Hub(HubConfig(logs=folder, **settings))
        self.server: Server = serve(self.hub, app=page_app(self.hub))

    def __enter__(self) -> Site:
        return self

    def __exit__(self, *_: object) -> None:
        self.server.close()

    def run(self, program: str, process_id: str, **options: Any) -> Any:
        process = self.hub.run_process([sys.executable, "-c", program], process_id, **options)
        self.ends(process)
        return process

    def run_in_steps(self, program: str, process_id: str, *texts: str, **options: Any) -> None:
        """Run a program that waits by `step()` until each of some texts has been read."""
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "step"
            os.mkfifo(path)  # and not its input, which a terminal would show
            head = f"step = lambda: open({str(path)!r}).read()\n"
            read: queue.Queue[str] = queue.Queue()
            process = self.hub.run_process(
                [sys.executable, "-c", head + program],
                process_id,
                on_line=lambda text, stream: read.put(text),
                **options,
            )
            for text in texts:
                while read.get(timeout=TIMEOUT) != text:
                    pass
                path.open("w").close()
            self.ends(process)

    def ends(self, process: Any) -> None:
        """Wait until a program has ended, and its channel has its exit status."""
        process.wait(TIMEOUT)
        channel = self.hub.process_channel(process.process_id)

        def is_kept() -> bool:
            last = self.hub.history(channel, last=1).messages
            return any(
                each.type == "process_status" and each.data["status"] == "exited" for each in last
            )

        wait_until(is_kept)

    def get(
        self, process_id: str, query: str = "", method: str = "GET", **headers: str
    ) -> tuple[int, dict[str, str], bytes]:
        connection = http.client.HTTPConnection("127.0.0.1", self.server.port, timeout=TIMEOUT)
        try:
            path = f"/api/processes/{quote(process_id, safe='')}/log"
            connection.request(method, f"{path}?{query}", headers=headers)
            answer = connection.getresponse()
            return answer.status, dict(answer.getheaders()), answer.read()
        finally:
            connection.close()

    def page(self, process_id: str, query: str = "") -> Any:
        status, _, body = self.get(process_id, query)
        assert status == 200, body
        return json.loads(body)

    def refusal(self, process_id: str, query: str = "", **headers: str) -> tuple[int, str, str]:
        status, _, body = self.get(process_id, query, **headers)
        answer = json.loads(body)
        return status, answer["code"], answer["error"]


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    with Site(tmp_path / "logs") as made:
        yield made


def numbers(answer: Any) -> list[int]:
    return [each["line"] for each in answer["lines"]]


def texts(answer: Any) -> list[str]:
    return [each["text"] for each in answer["lines"]]


def plain(lines: Any) -> list[dict[str, Any]]:
    """Return lines without what is different in each run: when they were read."""
    return [
        {name: value for name, value in each.items() if name not in ("stream", "time")}
        for each in lines
    ]


# --- written -------------------------------------------------------------------------------


@pytest.mark.parametrize("end", ["log", "log.gz"])
def test_a_log_has_all_lines_when_the_program_has_ended(
    site: Site, tmp_path: Path, end: str
) -> None:
    program = "import sys\nfor i in range(1, 30001): print('line', i)\nprint('10%\\r20%\\rdone')"
    site.run(program, "a", log=f"2026/a.{end}")
    path = tmp_path / "logs" / "2026" / f"a.{end}"
    data = path.read_bytes()
    text = (gzip.decompress(data) if end == "log.gz" else data).decode()
    assert text == "".join(f"line {i}\n" for i in range(1, 30001)) + "done\n"
    assert path.stat().st_mode & 0o777 == 0o600
    assert texts(site.page("a", "from=1&lines=2")) == ["line 1", "line 2"]
    page = site.page("a", "lines=2")
    page |= {"status": without_usage(page["status"]), "lines": plain(page["lines"])}
    assert page == {
        "processId": "a",
        "status": {"status": "exited", "exitCode": 0},
        "source": "file",
        "first": 1,
        "last": 30001,
        "lines": [{"line": 30000, "text": "line 30000"}, {"line": 30001, "text": "done"}],
        "next": None,
        "complete": True,
    }


@pytest.mark.parametrize("end", ["cast", "cast.gz"])
def test_a_recording_has_the_output_of_a_terminal_with_times(
    site: Site, tmp_path: Path, end: str
) -> None:
    program = "print('a\\tb', flush=True)\nprint('\\u00e9')\nexit(3)"
    environment = {**os.environ, "COLUMNS": "100", "LINES": "30", "PYTHONUTF8": "1"}
    site.run(program, "a", log=f"a.{end}", pty=True, env=environment)
    data = (tmp_path / "logs" / f"a.{end}").read_bytes()
    header, *events = [
        json.loads(line)
        for line in (gzip.decompress(data) if end == "cast.gz" else data).splitlines()
    ]
    assert header["version"] == 3
    assert (header["term"]["cols"], header["term"]["rows"]) == (100, 30)
    assert events[-1][1:] == ["x", "3"]
    output = [each for each in events if each[1] == "o"]
    assert "".join(each[2] for each in output) == "a\tb\r\n\u00e9\r\n"
    assert all(each[0] >= 0 for each in events)
    # Its lines are those that the channel keeps.
    answer = site.page("a")
    assert (answer["source"], texts(answer)) == ("history", ["a\tb", "\u00e9"])
    status, headers, body = site.get("a", "download")
    assert (status, body) == (200, data)
    assert headers["Content-Disposition"].endswith(f"a.{end}")


@pytest.mark.parametrize("end", ["cast", "cast.gz"])
def test_a_recording_has_the_sizes_of_its_terminal_and_no_input(
    site: Site, tmp_path: Path, end: str
) -> None:
    program = """
import getpass, os, sys
for line in sys.stdin:
    print(*os.get_terminal_size(), flush=True)
    if line == 'secret\\n': break
getpass.getpass('')
"""
    process = site.hub.run_process(
        [sys.executable, "-c", program], "a", pty=(100, 30), stdin=True, log=f"a.{end}"
    )
    said = lambda text: any(line.text == text for line in site.hub.read_log("a").lines)  # noqa: E731
    process.write("first\n")
    wait_until(lambda: said("100 30"))
    process.resize(90, 20)
    process.resize(90, 20)
    process.write("secret\n")
    wait_until(lambda: said("90 20"))
    process.resize(132, 50)
    wait_until(lambda: not process.shows_input)
    process.write("swordfish\n")
    assert process.wait(TIMEOUT) == 0
    data = (tmp_path / "logs" / f"a.{end}").read_bytes()
    text = (gzip.decompress(data) if end == "cast.gz" else data).decode()
    assert "swordfish" not in text
    header, *events = [json.loads(line) for line in text.splitlines()]
    assert (header["term"]["cols"], header["term"]["rows"]) == (100, 30)
    kinds = [(kind, data) for _, kind, data in events if kind != "o"]
    assert kinds == [("r", "90x20"), ("r", "132x50"), ("x", "0")]
    first, second = (at for at, each in enumerate(events) if each[1] == "r")
    before, after = ("".join(each[2] for each in part) for part in (events[:first], events[first:]))
    assert "100 30\r\n" in before and "90 20" not in before and "90 20\r\n" in after
    assert "90 20" in "".join(each[2] for each in events[first:second])
    assert {type(each[0]) for each in events} == {float} and all(each[0] >= 0 for each in events)


def test_a_recording_of_pipes_has_what_a_terminal_would_make_of_them(
    site: Site, tmp_path: Path
) -> None:
    site.run("import os; os.kill(os.getpid(), 9)", "a", log="a.cast")
    events = (tmp_path / "logs" / "a.cast").read_text().splitlines()
    assert json.loads(events[-1])[1:] == ["x", "137"]
    site.run("print('x')", "b", log="b.cast")
    assert json.loads((tmp_path / "logs" / "b.cast").read_text().splitlines()[1])[2] == "x\r\n"


def test_lines_are_in_the_file_while_the_program_runs(site: Site, tmp_path: Path) -> None:
    program = (
        "import sys\nprint('first', flush=True)\nsys.stdin.read()\nimport time\ntime.sleep(60)"
    )
    processes = [
        site.hub.run_process([sys.executable, "-c", program], f"a{end}", log=f"a{end}")
        for end in (".log", ".log.gz")
    ]
    for process in processes:
        answer = wait_until(lambda id=process.process_id: site.page(id)["lines"] or None)  # type: ignore[misc]
        assert plain(answer) == [{"line": 1, "text": "first"}]
        status = site.page(process.process_id)["status"]
        assert without_usage(status) == {"status": "running"}
        process.close()


@pytest.mark.parametrize("end", ["log", "log.gz", "cast", "cast.gz"])
def test_a_secret_reaches_no_log(site: Site, tmp_path: Path, end: str) -> None:
    program = "import sys\nfor part in ('pass', 'word-1', ' next\\n'):\n"
    program += "    sys.stdout.write(part)\n    sys.stdout.flush()"
    site.run(program, "a", log=f"a.{end}", mask=["password-1"])
    data = (tmp_path / "logs" / f"a.{end}").read_bytes()
    text = (gzip.decompress(data) if end.endswith("gz") else data).decode()
    assert "***" in text and "word-1" not in text


def test_a_log_that_cannot_be_made_starts_no_program(site: Site, tmp_path: Path) -> None:
    (tmp_path / "logs").mkdir()
    (tmp_path / "logs" / "a.log").write_text("before")
    mark = tmp_path / "started"
    program = f"open({str(mark)!r}, 'w')"
    for given, says in [
        (True, "exists already"),
        ("a.log", "exists already"),
        (tmp_path / "none" / "a.log", "Its folder must be there"),
        ("b.log/c", None),
    ]:
        if says is None:
            (tmp_path / "logs" / "b.log").write_text("a file")
            says = "cannot be written"
        with pytest.raises(ProcessStartError, match=says):
            site.run(program, "a", log=given)
    with pytest.raises(ConfigError, match="must stay inside"):
        site.run(program, "a", log="../a.log")
    assert not mark.exists()
    assert (tmp_path / "logs" / "a.log").read_text() == "before"
    site.run("print('after')", "a", log=ProcessLog("a.log", overwrite=True))
    assert (tmp_path / "logs" / "a.log").read_text() == "after\n"


def test_a_program_that_cannot_start_leaves_no_log(site: Site, tmp_path: Path) -> None:
    with pytest.raises(ProcessStartError, match="no-such-program"):
        site.hub.run_process(["no-such-program"], "a", log=True)
    assert list((tmp_path / "logs").iterdir()) == []
    site.run("print(1)", "a", log=True)


# --- what goes wrong -----------------------------------------------------------------------

KILLED = """
import sys, threading
from ws_hub import Hub, HubConfig
hub = Hub(HubConfig(logs=sys.argv[1])).start()
program = "i = 0\\nwhile True:\\n    i += 1\\n    print('line', i, 'x' * 50)"
for end in ("log", "log.gz", "cast.gz"):
    hub.run_process([sys.executable, "-c", program], end.replace(".", "-"), log="a." + end)
print("runs", flush=True)
threading.Event().wait()
"""


def test_kill_9_in_mid_write_leaves_whole_logs_up_to_there(tmp_path: Path) -> None:
    command = [sys.executable, "-c", KILLED, str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as writer:
        assert writer.stdout is not None and writer.stdout.readline() == b"runs\n"
        for name in "a.log", "a.log.gz", "a.cast.gz":
            wait_until(lambda name=name: (tmp_path / name).stat().st_size > 30_000)  # type: ignore[misc]
        writer.send_signal(signal.SIGKILL)
    for name in "a.log", "a.log.gz":
        data = (tmp_path / name).read_bytes()
        text = (inflated(data) if name.endswith(".gz") else data).decode()
        lines = text.split("\n")
        assert len(lines) > 500
        for number, line in enumerate(lines[:-1], 1):
            assert line == f"line {number} " + "x" * 50
        assert (f"line {len(lines)} " + "x" * 50).startswith(lines[-1])
    events = inflated((tmp_path / "a.cast.gz").read_bytes()).decode().split("\n")
    assert json.loads(events[0])["version"] == 3 and len(events) > 1
    for event in events[1:-1]:
        assert json.loads(event)[1] == "o"
    with Site(tmp_path) as after:  # another process, of which nobody ran these programs
        (tmp_path / "a.log").rename(tmp_path / "log.log")
        (tmp_path / "a.log.gz").rename(tmp_path / "log-gz.log.gz")
        for process_id in "log", "log-gz":
            answer = after.page(process_id, "from=200&lines=2")
            assert answer["status"] is None
            assert [text[:8] for text in texts(answer)] == ["line 200", "line 201"]


def inflated(data: bytes) -> bytes:
    """Return what can be read of a gzip file whose end is missing."""
    found = b""
    while data:
        member = zlib.decompressobj(31)
        found += member.decompress(data)
        data = member.unused_data
    return found


FULL = """
import json, resource, sys, threading
from ws_hub import Hub, HubConfig
hub = Hub(HubConfig(logs=sys.argv[1])).start()
got, over = [], threading.Event()
def take(message):
    got.append(message)
    if message.type == "process_status" and message.data["status"] == "exited":
        over.set()
hub.listen("process:a", take)
resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, resource.RLIM_INFINITY))
program = "import random\\nfor i in range(5000): print('line', i, random.random())"
process = hub.run_process([sys.executable, "-c", program], "a", log=sys.argv[2])
code = process.wait(60)
assert over.wait(60)
hub.stop()
lines = [each for each in got if each.type == "process_output" and each.data[-1:] != chr(13)]
print(json.dumps([code, len(lines), got[-1].data]))
"""


@pytest.mark.parametrize("name", ["a.log", "a.log.gz", "a.cast"])
def test_a_full_disk_is_logged_once_counted_and_stops_no_line(tmp_path: Path, name: str) -> None:
    command = [sys.executable, "-c", FULL, str(tmp_path), name]
    done = subprocess.run(command, capture_output=True, text=True, timeout=100, check=True)
    code, lines, status = json.loads(done.stdout)
    assert (code, lines) == (0, 5000)
    assert status["status"] == "exited" and status["logLost"] > 0
    assert done.stderr.count("cannot be written") == 1
    assert "File too large" in done.stderr
    if name == "a.log":
        whole = (tmp_path / name).read_text().split("\n")
        assert len(whole) - 1 <= 5000  # fewer where there was no room for the note at the end
        there = [i for i, line in enumerate(whole) if line.split()[:2] == ["line", str(i)]]
        assert len(there) + status["logLost"] == 5000


# --- read ----------------------------------------------------------------------------------


@pytest.fixture(params=["log", "log.gz", "history", "sqlite"])
def read(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Site]:
    """A site whose program `a` has printed 5,000 lines, in each place that they are read from."""
    settings: dict[str, Any] = {}
    if request.param == "sqlite":
        settings["history"] = SqliteHistory(tmp_path / "hub.db")
    with Site(tmp_path / "logs", **settings) as made:
        log = f"a.{request.param}" if request.param.startswith("log") else None
        made.run(COUNT % 5001, "a", log=log)
        yield made


def test_lines_are_read_by_their_numbers(read: Site) -> None:
    answer = read.page("a", "from=100&lines=3")
    assert (answer["first"], answer["last"], answer["next"]) == (1, 5000, 103)
    assert plain(answer["lines"]) == [{"line": n, "text": f"line {n}"} for n in (100, 101, 102)]
    assert numbers(read.page("a", "before=100&lines=3")) == [97, 98, 99]
    assert numbers(read.page("a", "before=3")) == [1, 2]
    assert numbers(read.page("a", "before=1")) == []
    assert numbers(read.page("a", "before=99999&lines=2")) == [4999, 5000]
    assert numbers(read.page("a", "last=2")) == [4999, 5000]
    assert numbers(read.page("a", "last=0")) == []
    assert numbers(read.page("a")) == list(range(4001, 5001))
    answer = read.page("a", "from=4999&lines=9")
    assert (numbers(answer), answer["next"]) == ([4999, 5000], None)
    assert read.page("a", "from=5001")["lines"] == []
    assert len(read.page("a", "last=1000000")["lines"]) == 5000
    page = read.hub.read_log("a", first=7, lines=1)
    assert [line[:2] for line in page.lines] == [(7, "line 7")] and (page.first, page.last) == (
        1,
        5000,
    )
    assert [line.number for line in read.hub.read_log("a", before=7, lines=2).lines] == [5, 6]
    assert [line.number for line in read.hub.read_log("a", last=1).lines] == [5000]


@pytest.mark.parametrize("log", ["a.log", "a.log.gz"])
def test_of_long_lines_the_last_ones_below_a_number_are_read(site: Site, log: str) -> None:
    """An answer has four megabytes of text."""
    site.run("for i in range(1, 1501): print(str(i) + 'x' * 5_000)", "a", log=log)
    for query, end in ("last=1500", 1500), ("before=1401&lines=1400", 1400):
        found = numbers(site.page("a", query))
        assert found == list(range(end - len(found) + 1, end + 1))
        assert 800 < len(found) < 900


def test_a_search_finds_all_and_says_where_to_go_on(read: Site) -> None:
    answer = read.page("a", "search=line%2049&lines=3")
    assert (numbers(answer), answer["next"]) == ([49, 490, 491], 492)
    found, first = list[int](), 1
    while first:
        answer = read.page("a", f"search=E%2049&ignorecase&lines=7&from={first}")
        found += numbers(answer)
        first = answer["next"]
    assert found == [n for n in range(1, 5001) if str(n).startswith("49")]
    assert read.page("a", "search=LINE")["lines"] == []
    matches = read.hub.search_log("a", "4999")
    assert ([line[:2] for line in matches.lines], matches.next) == ([(4999, "line 4999")], None)


def test_all_of_it_is_downloaded(read: Site, tmp_path: Path) -> None:
    status, headers, body = read.get("a", "download")
    assert status == 200
    name = headers["Content-Disposition"].partition("''")[2]
    assert headers["Content-Disposition"].startswith("attachment; ")
    if name == "a.log.gz":
        assert headers["Content-Type"] == "application/gzip"
        assert "Content-Encoding" not in headers
        assert body == (tmp_path / "logs" / "a.log.gz").read_bytes()
        body = gzip.decompress(body)
    else:
        assert (name, headers["Content-Type"]) == ("a.log", "text/plain; charset=utf-8")
    assert body == "".join(f"line {n}\n" for n in range(1, 5001)).encode()
    status, again, body = read.get("a", "download", "HEAD")
    assert (status, body) == (200, b"") and again["Content-Type"] == headers["Content-Type"]
    assert read.get("a", "download", "POST")[0] == 405


def test_a_digest_has_both_ends(read: Site) -> None:
    answer = read.page("a", "digest")
    assert without_usage(answer["status"]) == {"status": "exited", "exitCode": 0}
    assert [each["line"] for each in answer["head"]] == list(range(1, 21))
    assert [each["line"] for each in answer["tail"]] == list(range(4901, 5001))
    assert (answer["first"], answer["last"], answer["searched"]) == (1, 5000, 5000)
    assert answer["complete"] and answer["errors"] == answer["groups"] == []


def test_the_tail_of_a_digest_is_the_end_of_the_log_whatever_its_size(site: Site) -> None:
    site.run("for n in range(1, 151): print(n, 60_000 * 'x')", "a", log=True)
    tail = [each["line"] for each in site.page("a", "digest")["tail"]]
    assert tail == list(range(tail[0], 151))  # 100 of them have 6 MB, more than an answer
    assert 51 < tail[0] < 150


def test_a_digest_names_what_looks_like_an_error(site: Site) -> None:
    program = textwrap.dedent("""
        print('::group::Compile')
        print('\\x1b[1msrc/a.c:10:5:\\x1b[0m \\x1b[31merror:\\x1b[0m no x')
        print('0 errors, error free')
        for i in range(30000): print('fine')
        import sys
        sys.stdout.flush()
        raise ValueError('bad')
    """)
    site.run(program, "a", log=True)
    answer = site.page("a", "digest")
    assert without_usage(answer["status"]) == {"status": "exited", "exitCode": 1}
    assert answer["groups"] == [{"line": 1, "title": "Compile"}]
    assert plain(answer["errors"])[0] == {
        "line": 2, "text": "src/a.c:10:5: error: no x", "file": "src/a.c", "fileLine": 10,
        "column": 5,
    }  # fmt: skip
    assert [each["text"] for each in answer["errors"][1:]] == [
        "Traceback (most recent call last):",
        "ValueError: bad",
    ]
    assert answer["errorCount"] == 3


def test_history_is_read_as_rows_of_the_last_run(site: Site) -> None:
    site.run("print('the run before')", "a")
    draw = "print('one\\ntwo')\nprint('\\x1b[2A\\x1b[2KONE\\n\\nthree', end='\\r')"
    site.run(draw, "a", pty=True)
    assert plain(site.page("a")["lines"]) == [
        {"line": 1, "text": "ONE"}, {"line": 2, "text": "two"}, {"line": 3, "text": "three"}
    ]  # fmt: skip
    with site.hub.writer("prints") as file:
        print("no numbers" + "y" * 20000, file=file)
    wait_until(lambda: site.get("prints", "search=no")[0] == 200)
    answer = site.page("prints", "search=no")
    assert len(answer["lines"]) == 1 and len(texts(answer)[0]) == 20010


def test_a_search_looks_past_colours_and_at_one_line_of_any_length(site: Site) -> None:
    program = r"""
print('\x1b[31mer\x1b[1mror\x1b[0m 1')
print('z' * 10**7)
print('\u00c4RGER error 2')
"""
    site.run(program, "a", log=True)
    assert numbers(site.page("a", "search=error")) == [1, 3]
    assert numbers(site.page("a", "search=%C3%A4rger&ignorecase")) == [3]
    assert len(texts(site.page("a", "from=2&lines=1"))[0]) == 65536
    assert texts(site.page("a", "last=1")) == ["\u00c4RGER error 2"]


def test_a_large_log_is_read_with_little_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logs, "late_at", lambda until: lambda: False)  # all the time it takes
    with (tmp_path / "a.log").open("w") as plain, gzip.open(tmp_path / "b.log.gz", "wt") as packed:
        for start in range(1, 200_001, 1000):
            lines = "".join(f"{n:07d} {'text ' * 15}\n" for n in range(start, start + 1000))
            plain.write(lines)
            packed.write(lines)
    with Site(tmp_path) as site:
        site.page("a")
        tracemalloc.start()
        try:
            for process_id in "a", "b":
                for query in "from=100000&lines=100", "last=100", "search=0150000", "digest":
                    assert site.page(process_id, query)["last"] == 200_000
            assert site.get("b", "download")[2] == (tmp_path / "b.log.gz").read_bytes()
            assert tracemalloc.get_traced_memory()[1] < 12 << 20  # of 16 MB, and of 2 compressed
        finally:
            tracemalloc.stop()


@pytest.mark.parametrize("end", ["log", "log.gz"])
def test_a_log_that_takes_longer_than_a_request_is_read_by_several(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, end: str
) -> None:
    def late_at(until: float) -> Callable[[], bool]:
        """Count blocks in the place of seconds."""
        looks = itertools.count()
        return lambda: next(looks) >= 24

    monkeypatch.setattr(logs, "late_at", late_at)
    text = "".join(f"line {n} {'x' * 40}\n" for n in range(1, 400_001)).encode()
    (tmp_path / f"a.{end}").write_bytes(gzip.compress(text, 1) if end == "log.gz" else text)
    with Site(tmp_path) as site:
        answer = site.page("a", "last=2")
        assert not answer["complete"] and answer["lines"] == [] and answer["next"] is None
        assert 1 < answer["last"] < 400_000
        digest = site.page("a", "digest")
        assert len(digest["head"]) == 20 and digest["tail"] == [] and not digest["complete"]
    with Site(tmp_path) as site:
        page = site.hub.read_log("a", last=2)
        assert page.lines == () and page.last > 1 and not page.complete
        # Its beginning is there, and so is a search of it, piece by piece.
        found, first, calls = list[int](), 1, 0
        while first:
            answer = site.page("a", f"search=99%20x&from={first}")
            assert answer["next"] is None or answer["next"] > first
            found, first, calls = found + numbers(answer), answer["next"], calls + 1
        assert found == [n for n in range(1, 400_001) if n % 100 == 99] and calls > 2
    with Site(tmp_path) as site:
        answer = site.page("a", "from=1&lines=2")
        assert (numbers(answer), answer["next"], answer["complete"]) == ([1, 2], 3, False)
        calls = 0
        while not (answer := site.page("a", "last=2"))["complete"]:
            calls += 1
            assert calls < 100
        assert answer["last"] == 400_000
        page = site.hub.read_log("a", first=400_000)
        assert [line.text[:11] for line in page.lines] == ["line 400000"] and page.complete


def test_a_log_that_is_replaced_is_read_anew(site: Site) -> None:
    site.run(COUNT % 20001, "a", log=True)
    assert site.page("a")["last"] == 20000
    site.run(COUNT % 11, "a", log=ProcessLog("a.log", overwrite=True))
    assert site.page("a", "from=1")["last"] == 10


# --- streams and times ---------------------------------------------------------------------

TWO = """
import sys
print('one', flush=True)
step()
print('error: two', file=sys.stderr, flush=True)
step()
print('three', flush=True)
"""


@pytest.mark.parametrize("where", ["log", "log.gz", "history"])
def test_each_line_has_its_stream_and_the_time_at_which_it_was_read(site: Site, where: str) -> None:
    before = datetime.datetime.now(datetime.UTC)
    log = None if where == "history" else f"a.{where}"
    site.run_in_steps(TWO, "a", "one", "error: two", log=log)
    after = datetime.datetime.now(datetime.UTC)
    lines = site.hub.read_log("a").lines
    assert [(line.text, line.stream) for line in lines] == [
        ("one", "stdout"), ("error: two", "stderr"), ("three", "stdout")
    ]  # fmt: skip
    moments = [line.time for line in lines if line.time is not None]
    assert len(moments) == 3 and moments == sorted(moments)
    assert before <= moments[0] < moments[1] < moments[2] <= after
    # As on the wire, where `time` has microseconds since 1970.
    sent = [message.read_at for message in outputs(site, "a")]
    assert moments == sent
    micros = [round(moment.timestamp() * 1e6) for moment in moments]
    wire = [
        {"line": number, "text": text, "stream": stream, "time": time}
        for (number, text, stream, _), time in zip(lines, micros, strict=True)
    ]
    assert site.page("a")["lines"] == wire
    assert site.page("a", "from=2&lines=1")["lines"] == wire[1:2]
    assert site.page("a", "search=e")["lines"] == wire
    assert site.page("a", "search=three")["lines"] == wire[2:]
    found = site.hub.search_log("a", "one").lines
    assert found == lines[:1]
    digest = site.page("a", "digest")
    assert (digest["head"], digest["errors"]) == (wire, wire[1:2])


def outputs(site: Site, process_id: str) -> list[Any]:
    messages = site.hub.history(site.hub.process_channel(process_id), last=100).messages
    return [each for each in messages if each.type == "process_output"]


def test_another_process_reads_the_streams_and_times_beside_a_log(
    site: Site, tmp_path: Path
) -> None:
    site.run_in_steps(TWO, "a", "one", "error: two", log=True)
    with Site(tmp_path / "logs") as other:
        answer = other.page("a")
        assert answer["status"] is None
        assert answer["lines"] == site.page("a")["lines"]
        assert [each["stream"] for each in answer["lines"]] == ["stdout", "stderr", "stdout"]


def test_times_are_those_of_their_log_and_of_no_other(site: Site, tmp_path: Path) -> None:
    folder = tmp_path / "logs"
    site.run("print('one')", "a", log=True)
    site.run("print('one')", "b", log=True)
    assert "time" in site.page("a")["lines"][0]
    (folder / "b.log").rename(folder / "a.log")  # `a.log.times` is of another file
    assert site.page("a")["lines"] == [{"line": 1, "text": "one"}]
    site.run("print('two')", "a", log=ProcessLog("a.log", overwrite=True, times=False))
    assert site.page("a")["lines"] == [{"line": 1, "text": "two"}]
    assert sorted(path.name for path in folder.iterdir()) == ["a.log", "b.log.times"]


def test_no_other_file_is_taken_for_times(
    site: Site, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = tmp_path / "logs"
    folder.mkdir()
    (folder / "a.log.times").write_text("notes of somebody")
    (folder / "b.log.times").symlink_to(folder / "a.log.times")
    os.mkfifo(folder / "c.log.times")
    for process_id in "abc":
        site.run("print('one')", process_id, log=True)
        assert site.page(process_id)["lines"] == [{"line": 1, "text": "one"}]
        assert f"{process_id}.log.times' is there" in caplog.text
    assert (folder / "a.log.times").read_text() == "notes of somebody"


def test_a_row_that_is_drawn_anew_has_the_time_of_its_last_text(site: Site) -> None:
    program = """
print('one\\ntwo', flush=True)
step()
print('\x1b[2A\x1b[2KONE\\n', flush=True)
"""
    site.run_in_steps(program, "a", "two", log=True, pty=True)
    one, two = site.hub.read_log("a").lines
    assert (one.text, two.text) == ("ONE", "two")
    assert one.time is not None and two.time is not None and one.time > two.time


# --- two processes -------------------------------------------------------------------------

OTHER = """
import sys
from ws_hub import Hub, HubConfig
hub = Hub(HubConfig(logs=sys.argv[1])).start()
program = "import sys\\nfor line in sys.stdin: pass\\nfor i in range(1, 20001): print('line', i)"
process = hub.run_process([sys.executable, "-c", program], "far", log=True)
process.wait()
print("done", flush=True)
sys.stdin.readline()
"""


def test_the_log_of_another_process_is_found_by_its_id(tmp_path: Path) -> None:
    command = [sys.executable, "-c", OTHER, str(tmp_path)]
    pipe = subprocess.PIPE
    with Site(tmp_path) as site, subprocess.Popen(command, stdin=pipe, stdout=pipe) as other:
        assert other.stdout is not None and other.stdin is not None
        assert other.stdout.readline() == b"done\n"
        answer = site.page("far", "from=19999")
        assert (answer["source"], texts(answer)) == ("file", ["line 19999", "line 20000"])
        other.stdin.write(b"\n")
        other.stdin.close()


def test_a_log_elsewhere_is_read_once_it_is_named(site: Site, tmp_path: Path) -> None:
    (tmp_path / "elsewhere.log").write_text("one\ntwo")
    assert site.refusal("b")[0] == 404
    site.hub.add_log("b", tmp_path / "elsewhere.log")
    assert texts(site.page("b")) == ["one", "two"]
    (tmp_path / "elsewhere.log").unlink()
    assert site.refusal("b")[0] == 404


# --- refusals ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("query", "says"),
    [
        ("fro=1", "use attempt, before, digest, download, from"),
        ("from=0", "from must be a whole number from 1"),
        ("from=x", "not 'x'"),
        ("from=-1", "whole number"),
        ("lines=1e9", "whole number"),
        ("from=1&from=2", "from is there twice"),
        ("from=1&last=2", "last does not go with from"),
        ("search=", "give a text"),
        ("search=a%0Ab", "without a newline"),
        ("search=a&before=3", "it takes from and ignorecase and lines"),
        ("digest&last=3", "it takes nothing else"),
        ("download=yes", "takes no value, 0 or 1"),
        ("last=" + "9" * 5000, "whole number"),
    ],
)
def test_bad_parameters_are_answered_with_what_to_do(site: Site, query: str, says: str) -> None:
    site.run("print(1)", "a", log=True)
    status, code, text = site.refusal("a", query)
    assert (status, code) == (400, "bad_parameter")
    assert says in text


@pytest.mark.parametrize(
    "name", ["../secret", "..", "%2e%2e/secret", "a/../../secret", "x\0y", "\u00e9", "-" * 200, "."]
)
def test_names_lead_nowhere(site: Site, tmp_path: Path, name: str) -> None:
    (tmp_path / "secret.log").write_text("secret")
    (tmp_path / "logs").mkdir()
    for query in "", "download", "digest", "search=s":
        status, code, text = site.refusal(name, query)
        assert (status, code) in [(400, "bad_process_id"), (404, "not_found")]
        assert "secret" not in text.replace(name, "").replace(repr(name), "")


def test_what_is_not_known_is_404_and_python_says_why(site: Site) -> None:
    status, code, text = site.refusal("nothing")
    assert (status, code) == (404, "not_found") and "check the id" in text
    assert site.refusal("nothing", "download")[0] == 404
    assert site.hub.read_log("nothing").lines == ()
    with pytest.raises(InvalidName):
        site.hub.read_log("../a")
    with pytest.raises(ValueError, match="mutually exclusive"):
        site.hub.read_log("a", first=1, last=2)
    with pytest.raises(ValueError, match="part of a line"):
        site.hub.search_log("a", "")
    stopped = Hub()
    with pytest.raises(HubNotRunning):
        stopped.read_log("a")


def test_a_log_that_cannot_be_read_is_said(site: Site, tmp_path: Path) -> None:
    site.run("print(1)", "a", log=True)
    path = tmp_path / "logs" / "a.log"
    source = site.hub.logs.source("process:a", "a")
    path.rename(tmp_path / "moved")
    with pytest.raises(HistoryError, match="moved or deleted"):
        site.hub.logs.page(source, 5)
    assert site.page("a")["source"] == "history"


@pytest.mark.parametrize("store", ["memory", "sqlite"])
def test_the_status_of_a_running_program_takes_no_walk_through_its_output(
    tmp_path: Path, store: str
) -> None:
    settings: dict[str, Any] = {"usage_interval": 0}
    if store == "sqlite":
        settings["history"] = SqliteHistory(tmp_path / "hub.db")
    program = "import sys\n" + COUNT % 5001 + "\nsys.stdout.flush()\nsys.stdin.read()"
    with Site(None, **settings) as site:
        hub, read = site.hub, list[int]()
        process = hub.run_process([sys.executable, "-c", program], "a", stdin=True)
        wait_until(lambda: hub.read_log("a", last=1).last == 5000)

        def pages(channel: str, **options: Any) -> Any:
            page = hub.history(channel, **options)
            read.append(len(page.messages))
            return page

        for _ in range(2):
            status = stored_status_of(pages, lambda channel: {}, "process:a")
            assert status == site.page("a", "last=0")["status"] == {"status": "running"}
            assert hub.statuses(["process:a"]) == {"process:a": status}
            hub.send_event("note", {}, channel="process:a", wait=TIMEOUT)
        assert sum(read) < 500
        process.close_stdin()
        process.wait(TIMEOUT)
        with hub.writer("prints") as file:
            print("one", file=file)
        wait_until(lambda: site.get("prints")[0] == 200)
        assert site.page("prints")["status"] is None


def test_a_stopped_hub_answers_503(tmp_path: Path) -> None:
    hub = Hub()
    with serve(Hub(), app=middleware(page_app(hub), hub)) as server:
        connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=TIMEOUT)
        connection.request("GET", "/api/processes/a/log")
        answer = connection.getresponse()
        assert (answer.status, json.loads(answer.read())["code"]) == (503, "stopped")
        connection.close()


# --- who may -------------------------------------------------------------------------------


def by_token(environ: Any) -> AuthResult:
    token = environ.get("HTTP_AUTHORIZATION", "").removeprefix("Bearer ")
    if token == "locked":
        return AuthResult(False, forbidden=True)
    return AuthResult(bool(token), user_id=token or None, claims={"role": token})


def test_a_reader_is_asked_what_a_subscriber_is(tmp_path: Path) -> None:
    asked: list[Any] = []

    def may(client: Any, channel: str) -> bool:
        asked.append((client.user_id, client.claims.get("role"), channel, client.subscriptions()))
        if client.user_id == "bad":
            raise RuntimeError("a bug")
        return bool(client.user_id == "ann")

    with Site(tmp_path, authenticator=by_token, channel_authoriser=may) as site:
        site.run("print('secret')", "a", log=True)
        for query in "", "download", "digest", "search=s", "fro=1":
            assert site.refusal("a", query)[:2] == (401, "unauthorised")
            status, headers, _ = site.get("a", query)
            assert headers["WWW-Authenticate"] == "Bearer"
            for user in "bob", "locked", "bad":
                answer = site.refusal("a", query, Authorization=f"Bearer {user}")
                assert answer[:2] == (403, "forbidden")
        status, _, body = site.get("a", Authorization="Bearer ann")
        assert (status, texts(json.loads(body))) == (200, ["secret"])
        assert asked[-1] == ("ann", "ann", "process:a", [])
        # Whether there is such a process is no business of others.
        assert site.refusal("other")[0] == 401
        assert site.refusal("other", Authorization="Bearer bob")[0] == 403
        assert site.hub.stats().unauthenticated == 16


def test_a_reader_has_no_connection(tmp_path: Path) -> None:
    seen: list[Any] = []

    def may(client: Any, channel: str) -> bool:
        seen.append(client)
        client.send({"type": "event", "data": 1})
        return True

    with Site(tmp_path, channel_authoriser=may) as site:
        site.run("print(1)", "a", log=True)
        assert site.refusal("a")[:2] == (403, "forbidden")  # it raised ConnectionClosed
        client = seen[0]
        assert client.user_id is None and client.remote_address.startswith("127.0.0.1")
        assert client.waiting == (0, 0) and client.dropped == 0 and not client.compression
        client.close()
        client.abort()
        assert client.wait_for_room(0.0) and client.info is None


def test_pages_of_other_origins_read_only_where_they_may_connect(tmp_path: Path) -> None:
    with Site(tmp_path, allowed_origins=["https://ok.example"]) as site:
        site.run("print(1)", "a", log=True)
        own = f"http://127.0.0.1:{site.server.port}"
        assert site.get("a", Origin=own)[0] == 200
        status, headers, _ = site.get("a", Origin="https://ok.example")
        assert (status, headers["Access-Control-Allow-Origin"]) == (200, "https://ok.example")
        status, headers, _ = site.get("a", Origin="https://evil.example")
        assert status == 403 and "Access-Control-Allow-Origin" not in headers
        assert site.hub.stats().foreign_origins == 1
        assert "default-src 'none'" in headers["Content-Security-Policy"]
        assert headers["X-Content-Type-Options"] == "nosniff"
        assert headers["Cache-Control"] == "no-store"


# --- runs that follow each other -------------------------------------------------------------


def test_a_longer_log_in_the_place_of_one_is_not_read_by_its_places(site: Site) -> None:
    site.run(COUNT % 20001, "a", log=True)
    assert texts(site.page("a", "from=15000&lines=1")) == ["line 15000"]
    longer = "for i in range(1, 40001): print('the line', i)"
    site.run(longer, "a", log=ProcessLog("a.log", overwrite=True))
    assert texts(site.page("a", "from=15000&lines=1")) == ["the line 15000"]
    assert site.page("a")["last"] == 40000
    left = sorted(path.name for path in Path(site.hub.config.logs).iterdir())  # type: ignore[arg-type]
    assert left == ["a.log", "a.log.times"]


def test_the_log_of_a_run_is_not_that_of_the_next_one_without(site: Site) -> None:
    site.run("print('one')", "a", log=True)
    site.run("print('two')", "a")
    answer = site.page("a")
    assert (answer["source"], texts(answer)) == ("history", ["two"])


@pytest.mark.parametrize("end", ["log", "log.gz", "cast"])
def test_no_other_process_takes_the_log_of_an_earlier_run_for_that_of_the_last(
    site: Site, tmp_path: Path, end: str
) -> None:
    folder = tmp_path / "logs"
    with Site(folder) as other:
        site.run("print('one')", "a", log=f"a.{end}")
        assert other.get("a", "download")[0] == 200
        site.run("print('two')", "a")
        assert other.refusal("a")[:2] == (404, "not_found")
        assert other.refusal("a", "download")[:2] == (404, "not_found")
        site.run("print('three')", "a", log=tmp_path / "elsewhere.log")
        assert other.refusal("a")[:2] == (404, "not_found")
        assert (folder / f"a.{end}").is_file()  # it is yours, and stays
        site.run("print('four')", "a", log=ProcessLog(f"a.{end}", overwrite=True))
        assert b"four" in unpacked(other.get("a", "download")[2])
    with Site(folder) as later:
        assert b"four" in unpacked(later.get("a", "download")[2])
        site.run("print('five')", "a")
    with Site(folder) as later:
        assert later.refusal("a")[:2] == (404, "not_found")


def unpacked(data: bytes) -> bytes:
    return gzip.decompress(data) if data[:2] == b"\x1f\x8b" else data


def test_a_mark_that_cannot_be_made_is_logged(
    site: Site, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    site.run("print('one')", "a", log=True)
    (tmp_path / "logs" / "a.nolog").symlink_to(tmp_path / "none" / "none")
    site.run("print('two')", "a")
    assert "take the log" in caplog.text and "a.log" in caplog.text


def test_a_process_id_too_long_for_a_file_has_no_mark(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Nor a log that could be taken for that of another run: nothing is to be said."""
    note_log(tmp_path, "\u6784" * 40, None)  # by a rule of the application's own
    assert (caplog.text, list(tmp_path.iterdir())) == ("", [])


def test_a_download_promises_no_length(read: Site) -> None:
    """It may become shorter while it is written."""
    assert "Content-Length" not in read.get("a", "download")[1]
