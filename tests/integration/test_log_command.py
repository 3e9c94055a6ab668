"""`ws-hub log` as a subprocess: what it shows of a hub's log and of a file, and what goes wrong."""

from __future__ import annotations

import contextlib
import datetime
import gzip
import http.server
import json
import os
import signal
import socket
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.commands import command, run
from tests.integration.test_process_logs import Site, by_token
from tests.support import TIMEOUT, free_port, wait_until
from ws_hub.cli import main

pytestmark = pytest.mark.skipif(os.name != "posix", reason="needs POSIX signals")

PROGRAM = r"""
import sys
for i in range(1, 25001):
    print('line', i)
sys.stdout.flush()
print('\x1b[31merror:\x1b[0m bad', file=sys.stderr, flush=True)
"""
LINES = [f"line {n}" for n in range(1, 25001)] + ["error: bad"]
ENDS = ("log", "log.gz", "cast", "cast.gz")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the log of one program, in each form."""
    path = tmp_path_factory.mktemp("logs")
    with Site(path) as site:
        for end in ENDS:
            site.run(PROGRAM, end.replace(".", "-"), log=f"a.{end}")
    return path


@pytest.fixture(scope="module")
def site(folder: Path) -> Iterator[Site]:
    """A hub whose logs these are."""
    with Site(folder) as made:
        made.hub.add_log("a", folder / "a.log")
        yield made


def sources(site: Site, folder: Path) -> list[tuple[str, ...]]:
    """Return every way to name the same log."""
    host = f"127.0.0.1:{site.server.port}"
    return [
        (f"http://{host}/", "a"),
        (f"http://{host}/?channel=process:a",),
        (f"ws://{host}/ws", "process:a"),
        (host, "a"),
        *((str(folder / f"a.{end}"),) for end in ENDS),
    ]


def shown(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, list[str], list[str]]:
    """Run the command in this process; return its exit code and what it has written."""
    try:
        code = main(["log", *arguments])
    except SystemExit as stop:
        code = int(stop.code or 0)
    out, err = capsys.readouterr()
    return code, out.splitlines(), err.splitlines()


def test_all_lines_of_a_log_are_shown_wherever_it_is(
    site: Site, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    each = sources(site, folder)
    for source in each[0], each[4]:
        assert run("log", *source) == (0, LINES, []), source
    for source in each[1], each[2], each[3], *each[5:]:
        assert shown(capsys, *source) == (0, LINES, []), source


@pytest.mark.parametrize(
    ("options", "code", "wanted"),
    [
        (("--lines", "120-122"), 0, LINES[119:122]),
        (("--lines", "24999-"), 0, LINES[24998:]),
        (("--lines", "7"), 0, LINES[6:7]),
        (("--lines=-2",), 0, LINES[:2]),
        (("--lines", "9990-20010"), 0, LINES[9989:20010]),
        (("--lines", "99999-"), 0, []),
        (("--last", "2"), 0, LINES[-2:]),
        (("--last", "15000"), 0, LINES[-15000:]),
        (("--last", "0"), 0, []),
        (("--search", "line 2499"), 0, ["line 2499", *LINES[24989:24999]]),
        (("--search", "LINE 2499", "--ignore-case", "--lines", "3000-"), 0, LINES[24989:24999]),
        (("--search", "line 24999", "--lines", "1-24998"), 1, []),
        (("--search", "nothing"), 1, []),
        (("--last", "1", "--colours"), 0, ["\x1b[31merror:\x1b[0m bad"]),
        (("--last", "2", "--number"), 0, [" 25000 line 25000", " 25001 error: bad"]),
    ],
)
def test_some_lines_of_a_log_are_shown(
    site: Site,
    folder: Path,
    capsys: pytest.CaptureFixture[str],
    options: tuple[str, ...],
    code: int,
    wanted: list[str],
) -> None:
    each = sources(site, folder)
    for source in (each[0], each[4], each[7]):
        assert shown(capsys, *options, *source) == (code, wanted, []), source


def test_the_streams_and_times_of_lines_are_shown(
    site: Site, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    url, path = sources(site, folder)[0], (str(folder / "a.log"),)
    kept = site.hub.read_log("a", last=2).lines
    moments = [line.time.astimezone() for line in kept if line.time is not None]
    clocks = [each.isoformat(timespec="milliseconds")[11:23] for each in moments]
    for source in url, path:
        assert shown(capsys, "--stream", "stderr", *source) == (0, ["error: bad"], [])
        code, out, _ = shown(capsys, "--last", "2", "--time", "clock", "--mark", *source)
        assert out == [f"{clocks[0]}   line 25000", f"{clocks[1]} ! error: bad"]
        code, out, _ = shown(capsys, "--last", "2", "--time", "delta", *source)
        assert out[0] == "   +0.000 line 25000" and out[1].endswith(" error: bad")
        code, out, _ = shown(capsys, "--last", "1", "--json", *source)
        fields = json.loads(out[0])
        assert fields == {
            "line": 25001, "text": "\x1b[31merror:\x1b[0m bad", "stream": "stderr",
            "time": round(moments[1].timestamp() * 1e6),
        }  # fmt: skip
    # A recording has times, and no streams.
    cast = str(folder / "a.cast")
    code, out, err = shown(capsys, "--stream", "stderr", cast)
    assert (code, out) == (0, []) and "not known which output" in err[0]
    code, out, err = shown(capsys, "--last", "1", "--json", cast)
    moment = datetime.datetime.fromtimestamp(json.loads(out[0])["time"] / 1e6, datetime.UTC)
    assert abs(moment - moments[1]) < datetime.timedelta(hours=1)


def test_a_digest_is_json(site: Site, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    each = sources(site, folder)
    for source in (each[0], each[4], each[7]):
        code, out, err = shown(capsys, "--digest", *source)
        fields = json.loads("\n".join(out))
        assert (code, err, fields["last"], fields["complete"]) == (0, [], 25001, True)
        assert [error["line"] for error in fields["errors"]] == [25001]
        assert len(fields["head"]) == 20 and len(fields["tail"]) == 100


def test_a_recording_of_a_terminal_is_played(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    program = r"""
import sys
print('one\ntwo')
print('\x1b[2A\x1b[2KONE\n\nthree', end='\r', flush=True)
"""
    with Site(tmp_path) as site:
        site.run(program, "a", log="a.cast", pty=(20, 10))
        site.run("print('x' * 100)", "b", log="b.cast", pty=(20, 10))
        site.run("print('x' * 100)", "c", log="c.cast")
        kept = [line.text for line in site.hub.read_log("b").lines]
    assert shown(capsys, str(tmp_path / "a.cast")) == (0, ["ONE", "two", "three"], [])
    assert shown(capsys, str(tmp_path / "b.cast")) == (0, kept, [])
    assert shown(capsys, str(tmp_path / "c.cast")) == (0, ["x" * 100], [])


def test_recordings_of_asciinema_are_played(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    one, two = tmp_path / "one.cast", tmp_path / "two.cast"
    one.write_text(
        '{"version": 3, "term": {"cols": 10, "rows": 5}, "timestamp": 1700000000}\n# a comment\n'
        '[1.5, "o", "a\\r\\n"]\n[0.5, "i", "secret"]\n[0.25, "r", "4x5"]\n[1, "o", "b\\r\\n"]\n'
        '[1, "m", ""]\n[0, "x", "0"]\n'
    )
    two.write_text(
        '{"version": 2, "width": 80, "height": 24, "timestamp": 1700000000}\n'
        '[1.5, "o", "a\\r\\n"]\n[3.25, "o", "b\\r\\nc"]\n[4, "o'
    )
    start = 1_700_000_000_000_000
    code, out, _ = shown(capsys, "--json", str(one))
    assert [(each["text"], each["time"] - start) for each in map(json.loads, out)] == [
        ("a", 1_500_000), ("b", 3_250_000)
    ]  # fmt: skip
    code, out, _ = shown(capsys, "--json", str(two))
    assert [(each["text"], each["time"] - start) for each in map(json.loads, out)] == [
        ("a", 1_500_000), ("b", 3_250_000), ("c", 3_250_000)
    ]  # fmt: skip


def test_a_file_that_was_cut_off_is_shown_up_to_there(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for end in ENDS:
        data = (folder / f"a.{end}").read_bytes()
        (tmp_path / f"a.{end}").write_bytes(data[: len(data) // 2])
        code, out, err = shown(capsys, str(tmp_path / f"a.{end}"))
        assert (code, err) == (0, []) and 5 < len(out) < 25000
        assert out[:-1] == LINES[: len(out) - 1] and LINES[len(out) - 1].startswith(out[-1])


# --- what goes wrong -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ((), "SOURCE"),
        (("--lines", "0-3", "x.log"), "invalid range of lines value: '0-3'"),
        (("--lines", "5-3", "x.log"), "invalid range of lines value: '5-3'"),
        (("--lines", "-", "x.log"), "invalid range of lines value: '-'"),
        (("--last", "3", "--lines", "1-2", "x.log"), "not allowed with"),
        (("--search", "", "x.log"), "--search must be a part of a line"),
        (("--search", "a", "--last", "3", "x.log"), "--search goes with --lines alone"),
        (("--ignore-case", "x.log"), "--ignore-case is for --search"),
        (("--digest", "--mark", "x.log"), "--digest is JSON as it is"),
        (("--json", "--time", "clock", "x.log"), "--json has number, time and stream"),
        (("no/such.log",), "cannot read 'no/such.log': No such file or directory"),
        (("/",), "cannot read '/': Is a directory"),
        (("http://127.0.0.1:9/",), "a process id is required: ws-hub log URL ID"),
        (("ftp://127.0.0.1/", "a"), "is no URL of a hub"),
        (("http://user:secret@127.0.0.1/", "a"), "'http://***@127.0.0.1/' is no URL of a hub"),
        (("http://user:sec/ret@127.0.0.1/", "a"), "'http://***@127.0.0.1/' is no URL of a hub"),
        (("user:secret@127.0.0.1", "a"), "'***@127.0.0.1' is no host"),
        (("http://127.0.0.1:abc/", "a"), "is no URL of a hub"),
        (("http://127.0.0.1:99999/", "a"), "is no URL of a hub"),
        (("http://[::1/", "a"), "is no URL of a hub"),
        (("http://a..b/", "a"), "is no URL of a hub"),
        (("http://a b/", "a"), "is no URL of a hub"),
        (("http://127.0.0.1:9/\xe9 /", "a"), "cannot be asked: [Errno 111] Connection refused"),
        (("a/b", "a"), "is no host"),
    ],
)
def test_wrong_arguments_are_one_line(
    capsys: pytest.CaptureFixture[str], arguments: tuple[str, ...], says: str
) -> None:
    code, out, err = shown(capsys, *arguments)
    assert (code, out) == (2, [])
    assert says in err[-1] and not any("Traceback" in line for line in err)
    assert "secret" not in err[-1]


def test_what_is_no_log_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "a.cast"
    size = '{"version": 2, "width": 80, "height": 24'
    for text in [
        "",
        "text",
        "{}",
        "[" * 100_000,
        '{"version": 1}',
        '{"version": 3, "term": {"cols": 0}}',
        '{"version": 2, "width": 1e400, "height": 24}',
        f'{size}, "tags": 5}}',
        f'{size}, "timestamp": 1{"0" * 400}}}',
    ]:
        path.write_text(text + "\n")
        code, out, err = shown(capsys, str(path))
        assert (code, out) == (2, []) and "is no recording in asciicast v2 or v3" in err[0]


def test_a_pipe_is_not_waited_for(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    os.mkfifo(tmp_path / "a.log")
    code, out, err = shown(capsys, str(tmp_path / "a.log"))
    assert (code, out) == (2, []) and "it is a pipe or a device; give the path" in err[0]


class Elsewhere(http.server.BaseHTTPRequestHandler):
    """A server that is no hub."""

    def do_GET(self) -> None:
        if self.path.startswith("/moved/"):
            self.send_response(302)
            self.send_header("Location", "https://elsewhere.example/")
        else:
            self.send_response(404 if self.path.startswith("/none/") else 200)
        body = b"{}" if self.path.startswith("/json/") else b"<html>"
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: Any) -> None:
        pass


def test_what_is_no_hub_is_one_line(site: Site, capsys: pytest.CaptureFixture[str]) -> None:
    with contextlib.ExitStack() as stack:
        server = stack.enter_context(http.server.HTTPServer(("127.0.0.1", 0), Elsewhere))
        thread = threading.Thread(target=server.serve_forever, args=(0.05,))
        thread.start()
        stack.callback(thread.join, TIMEOUT)
        stack.callback(server.shutdown)
        port, closed = server.server_port, free_port()
        for url, says in [
            (f"http://127.0.0.1:{port}/", "answers 200, and not as the page of a hub does"),
            (f"http://127.0.0.1:{port}/json/", "answers 200, and not as the page of a hub does"),
            (f"http://127.0.0.1:{port}/none/", "answers 404, and not as the page of a hub does"),
            (f"http://127.0.0.1:{port}/moved/", "leads to 'https://elsewhere.example/'"),
            (f"http://127.0.0.1:{closed}", "cannot be asked: [Errno 111] Connection refused"),
            (f"https://127.0.0.1:{port}", "cannot be asked: [SSL"),
        ]:
            code, out, err = shown(capsys, url, "a")
            assert (code, out, len(err)) == (2, [], 1)
            assert says in err[0]
    code, out, err = shown(capsys, f"http://127.0.0.1:{site.server.port}", "nothing")
    assert (code, out) == (2, []) and "answers 404: nothing is known of the process id" in err[0]


@pytest.mark.parametrize(
    "event",
    [
        f'[1{"0" * 400}, "o", "x"]',
        '[Infinity, "o", "x"]',
        '[NaN, "o", "x"]',
        '[1, "r", "0x0"]',
        f'[1, "r", "{"9" * 5000}x24"]',
        '[1, "r", "\xb2x\u0663"]',
        "[" * 100_000,
    ],
    ids=["huge", "infinity", "nan", "no-size", "huge-size", "digits", "deep"],
)
@pytest.mark.parametrize("start", ["", ', "timestamp": NaN', ', "timestamp": 1700000000'])
def test_a_wrong_event_of_a_recording_ends_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], event: str, start: str
) -> None:
    path = tmp_path / "a.cast"
    path.write_text(
        f'{{"version": 2, "width": 80, "height": 24{start}}}\n[0.5, "o", "a\\r\\n"]\n'
        f'{event}\n[2, "o", "\\rb\\r\\n"]\n'
    )
    assert shown(capsys, str(path)) == (0, ["a", "b"], [])


@pytest.mark.parametrize("token", ["secret\nvalue", "secret\udcff"])
def test_a_token_that_no_header_may_have_is_not_shown(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, token: str
) -> None:
    monkeypatch.setenv("WS_HUB_TOKEN", token)
    code, out, err = shown(capsys, "http://127.0.0.1:9/", "a")
    assert (code, out) == (2, [])
    assert err == ["ws-hub: log: WS_HUB_TOKEN must be one line of text: set it to the token alone"]


def test_a_token_is_sent(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with Site(tmp_path, authenticator=by_token) as site:
        site.run("print('secret')", "a", log=True)
        url = f"http://127.0.0.1:{site.server.port}/"
        code, out, err = shown(capsys, url, "a")
        assert (code, out) == (2, []) and "set WS_HUB_TOKEN to a token" in err[0]
        with command("log", url, "a", env={"WS_HUB_TOKEN": "ann"}) as it:
            assert (it.end(), it.out, it.err) == (0, ["secret"], [])


def test_an_output_that_is_closed_ends_it_with_141(folder: Path) -> None:
    reading, writing = os.pipe()
    with command("log", str(folder / "a.log"), stdout=writing) as it:
        os.close(writing)
        assert os.read(reading, 6) == b"line 1"
        os.close(reading)
        assert (it.end(), it.err) == (141, [])


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_ends_it_while_its_output_is_not_read(
    folder: Path, number: int, code: int
) -> None:
    reading, writing = os.pipe()
    try:
        with command("log", str(folder / "a.log"), stdout=writing) as it:
            os.close(writing)
            assert os.read(reading, 6) == b"line 1"
            it.signal(number)
            assert (it.end(), it.err) == (code, [])
    finally:
        os.close(reading)


def test_a_signal_ends_it_while_a_hub_does_not_answer() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        port = silent.getsockname()[1]
        with command("log", f"http://127.0.0.1:{port}", "a") as it:
            peer, _ = silent.accept()
            with peer:
                it.signal(signal.SIGINT)
                assert (it.end(), it.out) == (130, [])
                assert not any("Traceback" in line for line in it.err)


def test_a_log_that_grows_is_shown_up_to_where_it_is(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    program = "import sys\nprint('first', flush=True)\nsys.stdin.read()"
    with Site(tmp_path) as site:
        process = site.hub.run_process([sys.executable, "-c", program], "a", log=True, stdin=True)
        wait_until(lambda: site.hub.read_log("a").lines)
        for source in (str(tmp_path / "a.log"),), (f"http://127.0.0.1:{site.server.port}", "a"):
            assert shown(capsys, *source) == (0, ["first"], [])
        process.close_stdin()
        process.wait(TIMEOUT)


def test_a_compressed_file_of_gzip_is_read(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "a.gz").write_bytes(gzip.compress(b"one\ntwo"))
    assert shown(capsys, "--last", "1", str(tmp_path / "a.gz")) == (0, ["two"], [])
