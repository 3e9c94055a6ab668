"""`ws-hub up` as a subprocess: what a terminal, a viewer and a signal see of several programs."""

from __future__ import annotations

import fcntl
import json
import os
import pty
import re
import signal
import struct
import sys
import termios
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.commands import BOUND, Command, command, run, viewer
from tests.integration.test_cli import taken_port
from tests.programs import is_alive
from tests.support import RawPeer, free_port, wait_until, without_usage

pytestmark = pytest.mark.skipif(os.name != "posix", reason="needs POSIX signals")

WAIT = "while :; do sleep 0.05; done"


@pytest.fixture
def place(tmp_path: Path) -> Path:
    return tmp_path


def procfile(place: Path, **commands: str) -> str:
    path = place / "Procfile"
    path.write_text("".join(f"{name}: {line}\n" for name, line in commands.items()))
    return str(path)


@contextmanager
def up(*arguments: str, stdout: int | None = None, **env: str) -> Iterator[Command]:
    more = {} if stdout is None else {"stdout": stdout}
    with command("up", "--port", "0", *arguments, env=env, **more) as it:
        yield it


def lines(it: Command, name: str) -> list[str]:
    """Return what a program has printed, of the merged output."""
    found = (re.fullmatch(rf"{name} *\| (.*)", line) for line in it.out)
    return [each[1] for each in found if each is not None]


def until(peer: RawPeer, last: object) -> list[object]:
    """Return the data of what a viewer gets, up to the last."""
    found: list[object] = []
    while not found or found[-1] != last:
        data = peer.recv_json()["data"]
        if isinstance(data, dict):
            data = without_usage(data)
            if "before" in data:
                data["before"] = without_usage(data["before"])
        found.append(data)
    return found


def test_the_output_of_all_has_their_names_and_the_end_of_one_ends_all(place: Path) -> None:
    web = f"echo out; echo err >&2; touch said; {WAIT}"
    path = procfile(place, web=web, jobs="until test -e said; do sleep 0.05; done; exit 3")
    with up(path) as it:
        assert re.fullmatch(
            r"ws-hub: watch at http://127\.0\.0\.1:\d+/\?channel=process:all", it.saw("w", "err")
        )
        assert it.end() == 3
    assert sorted(lines(it, "web")) == ["err", "out"]
    notes = [re.sub(r"pid \d+", "pid N", line) for line in it.out if " * " in line]
    assert notes == [
        "web  * started, pid N",
        "jobs * started, pid N",
        "jobs * exited 3",
        "     * jobs exited 3: sending SIGTERM to all",
        "web  * killed by SIGTERM",
    ]


def test_each_program_has_its_environment_and_the_directory_of_the_procfile(place: Path) -> None:
    show = 'echo "$PORT $PS $A $B $(pwd)"'
    path = procfile(place, web=show, jobs=show)
    (place / ".env").write_text("A='x y'\nB=1\n")
    with up("--keep-going", path, PORT="", B="0") as it:
        assert it.end() == 0
    assert lines(it, "web") == [f"5000 web.1 x y 1 {place}"]
    assert lines(it, "jobs") == [f"5100 jobs.1 x y 1 {place}"]


def test_the_port_of_a_program_is_that_of_its_place_in_the_whole_file(place: Path) -> None:
    path = procfile(place, web="echo $PORT", jobs="echo $PORT")
    (place / "more").write_text("PORT=3000\nA=1\n")
    with up("--only", "jobs", "--env", str(place / "more"), path) as it:
        assert (it.end(), lines(it, "jobs"), lines(it, "web")) == (0, ["3100"], [])
    with up("--except", "web", "--base-port", "7000", path, PORT="1") as it:
        assert (it.end(), lines(it, "jobs"), lines(it, "web")) == (0, ["7100"], [])


def test_the_secrets_of_the_variables_are_masked(place: Path) -> None:
    """On the terminal, in each program's channel, and in the one of all output."""
    path = procfile(place, web='echo "with $API_TOKEN, $OTHER"; exit 3')
    (place / ".env").write_text("API_TOKEN=swordfish\n")
    with up("--mask-env", "*_TOKEN", "--wait", path, OTHER="plain") as it:
        it.saw("until Ctrl-C", "err")
        for channel, text in (("web", "with ***, plain"), ("all", "web | with ***, plain")):
            with viewer(it, f"process:{channel}") as peer:
                found = [peer.recv_json()["data"]]
                while "exited" not in str(found[-1]):
                    found.append(peer.recv_json()["data"])
            assert text in [re.sub(r"\x1b\[[0-9;]*m", "", str(each)) for each in found]
            assert "swordfish" not in str(found)
        it.signal(signal.SIGINT)
        it.end()
    assert lines(it, "web") == ["with ***, plain"]
    code, out, err = run("up", "--mask-env", "MISSING", path)
    assert (code, out) == (2, [])
    assert "no variable 'MISSING'" in err[0]


@pytest.mark.parametrize(
    ("text", "arguments", "error"),
    [
        ("web: a\n\nbad line\n", (), "Procfile:3: 'bad line' is no program"),
        ("web: a\nweb: b\n", (), "Procfile:2: the name 'web' must be given once"),
        ("\n", (), "Procfile has no program"),
        ("web: a\n", ("--only", "jobs"), "has no program 'jobs': use one of web"),
        ("web: a\n", ("--except", "web"), "has no program that --except leaves"),
        ("web: a\n", ("--wait-for", "db=5432"), "has no program 'db': use one of web"),
        ("web: a\n", ("--wait-for", "web"), "--wait-for must be NAME=PORT, NAME=URL or NAME=TEXT"),
        ("web: a\n", ("--wait-for", "web=1", "--wait-for", "web=a"), "must be given once"),
        ("web: a\n", ("--wait-for", "=a"), "Procfile has no program ''"),
        ("web: a\n", ("--wait-for", "web=http://:1/"), "must have an URL with a host"),
        ("web: a\n", ("--wait-for", "web=http://[::1"), "must have an URL with a host"),
        ("web: a\n", ("--wait-for", "web=http://a..b/"), "must have an URL with a host"),
        ("web: a\n", ("--wait-for", "web=http://a b/"), "must have an URL with a host"),
        ("all: a\n", (), "the program 'all' has the name of the channel of all output"),
        ("web: a\n", ("--env", "/no/such"), "cannot read '/no/such': No such file"),
    ],
)
def test_a_wrong_procfile_is_one_line(
    place: Path, text: str, arguments: tuple[str, ...], error: str
) -> None:
    (place / "Procfile").write_text(text)
    code, out, err = run("up", *arguments, str(place / "Procfile"))
    assert (code, out, len(err)) == (2, [], 1)
    assert error in err[0]


def test_a_port_in_use_is_one_line_and_nothing_is_started(place: Path) -> None:
    path = procfile(place, web=f"touch {place}/started")
    with taken_port() as port:
        code, out, err = run("up", f"--port={port}", path)
    assert (code, out, len(err)) == (2, [], 1)
    assert f"cannot serve on 127.0.0.1:{port}" in err[0]
    assert not (place / "started").exists()


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_ends_all_and_viewers_get_their_ends(place: Path, number: int, code: int) -> None:
    path = procfile(place, web=WAIT, jobs=f"trap 'echo bye; exit 7' TERM; echo ready; {WAIT}")
    with up(path) as it, viewer(it, "process:jobs") as jobs, viewer(it, "process:all") as merged:
        it.saw("jobs | ready")
        it.signal(number)
        data = until(jobs, {"status": "exited", "exitCode": 7})
        data = [each for each in data if each != "Terminated"]  # of the shell, about its sleep
        assert data[:-1] == [{"status": "running"}, "ready", "bye"]
        found = until(merged, {"status": "exited", "exitCode": code})
        assert any(str(each).endswith("\x1b[0m bye") for each in found)
        assert merged.recv_close()[0] == 1001
        assert it.end() == code
    assert not any("Traceback" in line for line in it.err)


def test_what_ignores_sigterm_is_killed_with_what_it_started(place: Path) -> None:
    stubborn = f"trap '' TERM; sh -c 'echo $$; {WAIT}' & echo $$; {WAIT}"
    path = procfile(place, a=stubborn, b=stubborn)
    with up(path, "--grace", "0.2") as it:
        wait_until(lambda: len(lines(it, "a") + lines(it, "b")) == 4, BOUND)
        pids = [int(each) for each in lines(it, "a") + lines(it, "b")]
        it.signal(signal.SIGINT)
        assert it.end() == 130
    assert any("* sending SIGKILL to a, b" in line for line in it.out)
    wait_until(lambda: not any(map(is_alive, pids)), BOUND)


def test_a_second_signal_does_not_wait_for_the_grace(place: Path) -> None:
    path = procfile(place, a=f"trap '' TERM; echo ready; {WAIT}")
    with up(path, "--grace", "3600") as it:
        it.saw("a | ready")
        it.signal(signal.SIGINT)
        it.saw("sending SIGTERM")
        it.signal(signal.SIGINT)
        assert it.end() == 130


def test_after_kill_9_no_program_is_left(place: Path) -> None:
    path = procfile(place, a=f"echo $$; {WAIT}", b=f"echo $$; {WAIT}")
    with up(path) as it:
        wait_until(lambda: len(lines(it, "a") + lines(it, "b")) == 2, BOUND)
        pids = [int(each) for each in lines(it, "a") + lines(it, "b")]
        it.signal(signal.SIGKILL)
        assert it.end() == -signal.SIGKILL
    wait_until(lambda: not any(map(is_alive, pids)), BOUND)


def test_a_program_that_fails_is_started_again(place: Path) -> None:
    wait = "until test -e seen; do sleep 0.05; done"
    path = procfile(
        place, a=f'echo "${{PS}}"; {wait}; test -e second || {{ touch second; exit 1; }}'
    )
    with up(path, "--restart", "on-failure") as it, viewer(it, "process:a") as peer:
        (place / "seen").touch()
        before = {"attempt": 1, "status": "exited", "exitCode": 1, "lines": 1}
        second = {"attempt": 2, "before": before}
        data = until(peer, {"status": "exited", "exitCode": 0, **second})
        assert it.end() == 0
    first = [{"status": "running", "attempt": 1}, {"status": "exited", "exitCode": 1, "attempt": 1}]
    assert data[:3] == [first[0], "a.1", first[1]]
    assert data[3:5] == [{"status": "running", **second}, "a.1"]
    notes = "\n".join(line for line in it.out if "*" in line)
    assert re.search(
        r"a \* exited 1; starts again in 0\.[2-5] s\na \* started, .*, restart 1\n", notes
    )


def test_the_page_is_served_until_ctrl_c_with_what_has_ended(place: Path) -> None:
    path = procfile(place, a="exit 0", b="echo x; exit 4")
    with up(path, "--keep-going", "--wait") as it:
        it.saw("all have ended; the page is served until Ctrl-C", "err")
        url = f"http://127.0.0.1:{it.port}/"
        with urllib.request.urlopen(f"{url}api/channels", timeout=BOUND) as response:
            names = json.load(response)["channels"]
        assert sorted(names) == ["process:a", "process:all", "process:b"]
        it.signal(signal.SIGINT)
        assert it.end() == 4


@pytest.mark.parametrize("no_color", ["", "1"])
def test_in_a_terminal_names_have_colours_unless_no_color_is_set(
    place: Path, no_color: str
) -> None:
    ours, theirs = pty.openpty()
    try:
        path = procfile(place, web="test -t 1 && echo in a terminal")
        with up(path, stdout=theirs, NO_COLOR=no_color) as it:
            assert it.end() == 0
        text = os.read(ours, 65536).decode()
    finally:
        os.close(ours)
        os.close(theirs)
    assert ("web | in a terminal" in text) == bool(no_color)
    assert ("\x1b[36mweb |\x1b[0m in a terminal" in text) == (not no_color)


def test_progress_and_long_lines_become_lines_of_their_program(place: Path) -> None:
    path = procfile(place, a=r"printf '10%%\r100%%\n'; head -c 9000 /dev/zero | tr '\0' x; echo")
    with up(path) as it:
        assert it.end() == 0
    assert lines(it, "a") == ["100%", "x" * 8192, "x" * 808]


# --- programs that wait for others -----------------------------------------------------------


def noted(it: Command) -> list[str]:
    """Return what has become of the programs, in order, without their numbers."""
    return [re.sub(r" +\*|, pid \d+", "", line).strip() for line in it.out if " * " in line]


def test_programs_wait_until_a_line_says_that_one_is_ready(place: Path) -> None:
    go_on = place / "go on"
    serve = f"echo starting; until test -e '{go_on}'; do sleep 0.05; done; echo 'now ready'; {WAIT}"
    path = procfile(place, first="exit 0", db=serve, jobs="exit 0", web="echo up; exit 0")
    with up(path, "--wait-for", "db=now ready", "--keep-going") as it:
        it.saw("jobs  * waiting for db")
        it.saw("web   * waiting for db")
        it.saw("first * exited 0")
        with viewer(it, "process:web") as peer:
            assert until(peer, {"status": "waiting for db"}) == [{"status": "waiting for db"}]
            assert lines(it, "web") == []
            go_on.touch()
            assert until(peer, {"status": "exited", "exitCode": 0})[:2] == [
                {"status": "running"}, "up"
            ]  # fmt: skip
        it.saw("jobs  * exited 0")
        it.signal(signal.SIGINT)
        assert it.end() == 130
    order = noted(it)
    assert order.index("db is ready") < min(order.index("web started"), order.index("jobs started"))


@pytest.mark.parametrize("what", ["PORT", "{port}", "http://127.0.0.1:{port}/\xe9 ?a b"])
def test_programs_wait_until_a_port_accepts_or_an_url_is_answered(place: Path, what: str) -> None:
    port = free_port()
    serve = f"sleep 0.5; exec '{sys.executable}' -m http.server $PORT --bind 127.0.0.1"
    path = procfile(place, db=serve, web="echo up; exit 3")
    wanted = f"db={what.format(port=port)}"
    with up(path, "--wait-for", wanted, "--base-port", str(port)) as it:
        assert it.end() == 3
    order = noted(it)
    assert order[:4] == ["db started", "web waiting for db", "db is ready", "web started"]


def test_one_that_is_not_ready_in_time_ends_all(place: Path) -> None:
    path = procfile(place, db=WAIT, web="echo up")
    with up(path, "--wait-for", "db=ready", "--ready-timeout", "0.2", "--keep-going") as it:
        assert it.end() == 1
    assert noted(it)[2:4] == [
        "db not ready within 0.2 s",
        "db is not ready: sending SIGTERM to all",
    ]
    assert lines(it, "web") == []


@pytest.mark.parametrize(
    ("options", "code", "note"),
    [
        ((), 4, None),
        (("--keep-going",), 4, "web not started: db has ended and was not ready"),
    ],
)
def test_one_that_ends_before_it_is_ready_has_the_others_not_started(
    place: Path, options: tuple[str, ...], code: int, note: str | None
) -> None:
    path = procfile(place, db="sleep 0.2; exit 4", web="echo up")
    with up(path, "--wait-for", "db=ready", *options) as it:
        assert it.end() == code
    assert lines(it, "web") == []
    assert (note in noted(it)) == bool(note)


def test_one_that_is_restarted_until_it_is_ready_is_waited_for(place: Path) -> None:
    mark = place / "mark"
    db = f"test -e '{mark}' || {{ touch '{mark}'; exit 1; }}; echo ready; {WAIT}"
    path = procfile(place, db=db, web="echo up; exit 0")
    with up(path, "--wait-for", "db=ready", "--restart", "on-failure") as it:
        assert it.end() == 0
    assert lines(it, "web") == ["up"]


def test_a_signal_ends_all_while_some_wait(place: Path) -> None:
    port = free_port()
    path = procfile(place, db=WAIT, web="echo up")
    with up(path, "--wait-for", f"db={port}") as it:
        it.saw("web * waiting for db")
        it.signal(signal.SIGTERM)
        assert it.end() == 143
    assert lines(it, "web") == []


# --- the size of the terminal ----------------------------------------------------------------


def test_the_programs_terminals_have_our_size_and_follow_it(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("COLUMNS", raising=False)
    monkeypatch.delenv("LINES", raising=False)
    show = "echo ${COLUMNS-none} $(stty size <&2)"
    path = procfile(place, web=f"trap '{show}' WINCH; {show}; {WAIT}")
    ours, theirs = pty.openpty()
    seen = b""
    try:
        fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 33, 123, 0, 0))
        with up(path, stdout=theirs, NO_COLOR="1") as it:
            for size in "none 33 117", "none 20 84":
                while size.encode() not in seen:
                    seen += os.read(ours, 65536)
                fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 20, 90, 0, 0))
                it.signal(signal.SIGWINCH)  # as the system does for those of the session
            it.signal(signal.SIGINT)
            assert it.end() == 130
    finally:
        os.close(ours)
        os.close(theirs)
