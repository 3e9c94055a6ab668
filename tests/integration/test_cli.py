"""The command line as a subprocess: what a shell, a viewer and a signal see of it."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import pty
import re
import shlex
import signal
import socket
import struct
import subprocess
import sys
import termios
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.commands import BOUND, ROOT, command, run, viewer
from tests.programs import is_alive
from tests.support import free_port, wait_until, without_usage
from ws_hub.access.authenticators import APIKeyAuth
from ws_hub.config import HubConfig
from ws_hub.hub.hub import Hub
from ws_hub.lines import join
from ws_hub.protocol.message import Message
from ws_hub.server.server import serve
from ws_hub.testing import HubClient

pytestmark = pytest.mark.skipif(os.name != "posix", reason="needs POSIX signals")


def shell(script: str) -> list[str]:
    return ["--", "sh", "-c", script]


@contextlib.contextmanager
def taken_port() -> Iterator[int]:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield listener.getsockname()[1]


# --- run -----------------------------------------------------------------------------------


def test_run_prints_the_url_and_mirrors_both_outputs() -> None:
    code, out, err = run("run", "--port", "0", *shell("echo out; sleep 0.2; echo err >&2"))
    assert code == 0
    assert out == ["out"]
    assert re.fullmatch(r"ws-hub: watch at http://127\.0\.0\.1:\d+/", err[0])
    assert err[1:] == ["err"]


@pytest.mark.parametrize(
    ("script", "code"), [("exit 3", 3), ("kill -9 $$", 137), ("kill -15 $$", 143)]
)
def test_run_exits_with_the_commands_code(script: str, code: int) -> None:
    assert run("run", "--port", "0", *shell(script))[0] == code


def test_run_takes_a_command_without_dashes_and_passes_on_its_options() -> None:
    code, out, _ = run("run", "--port", "0", "printf", "%s\n", "--wait", "--", "x")
    assert (code, out) == (0, ["--wait", "--", "x"])


@pytest.mark.parametrize(("program", "code"), [("no-such-program", 127), ("/etc/passwd", 126)])
def test_a_command_that_cannot_start_is_one_line(program: str, code: int) -> None:
    got, out, err = run("run", "--port", "0", "--", program)
    assert (got, out, len(err)) == (code, [], 2)
    assert err[1].startswith(f"ws-hub: cannot start {program!r}")


def test_run_without_a_command_is_a_usage_error() -> None:
    code, _, err = run("run")
    assert (code, err) == (2, ["ws-hub: run: a command is required: ws-hub run -- CMD ARGS"])


def test_a_wrong_id_is_one_line() -> None:
    code, _, err = run("run", "--id", "a b", "--", "true")
    assert code == 2
    assert len(err) == 1 and "process id 'a b' is refused" in err[0]


@pytest.mark.parametrize("arguments", [("run", "{}", "--", "true"), ("serve", "{}")])
def test_a_port_in_use_is_one_line(arguments: tuple[str, ...]) -> None:
    with taken_port() as port:
        code, _, err = run(*(each.format(f"--port={port}") for each in arguments))
    assert code == 2
    text = (
        f"cannot serve on 127.0.0.1:{port}: Address already in use; choose another --port or --host"
    )
    assert err == [f"ws-hub: {text}"]


def test_a_public_address_prints_a_warning() -> None:
    code, _, err = run("run", "--host", "0.0.0.0", "--port", "0", "--", "true")
    assert code == 0
    assert re.fullmatch(r"ws-hub: warning: anybody who reaches 0\.0\.0\.0:\d+ may watch", err[1])


def test_a_late_viewer_gets_the_output_exited_and_1001() -> None:
    with command("run", "--port", "0", "--wait", "--id", "b", *shell("seq 100; exit 3")) as it:
        it.saw("b exited 3; the page is served until Ctrl-C", "err")
        with viewer(it, "process:b") as peer:
            data = [peer.recv_json()["data"] for _ in range(102)]
            assert data[0] == {"status": "running"}
            assert data[1:101] == [str(number) for number in range(1, 101)]
            assert without_usage(data[101]) == {"status": "exited", "exitCode": 3}
            it.signal(signal.SIGINT)
            assert peer.recv_close()[0] == 1001
        assert it.end() == 3
    assert not any("Traceback" in line for line in it.err)


def test_a_viewer_that_is_there_gets_the_end_without_wait(tmp_path: Path) -> None:
    script = 'while ! [ -e "$0" ]; do sleep 0.05; done; seq 2000; exit 4'
    marker = tmp_path / "go"
    argv = ["--id", "b", "--", "sh", "-c", script, str(marker)]
    with command("run", "--port", "0", *argv) as it:
        with viewer(it, "process:b") as peer:
            assert peer.recv_json()["data"] == {"status": "running"}
            marker.touch()
            data = [""]
            while isinstance(data[-1], str):
                data.append(peer.recv_json()["data"])
            # seq may have paused within a line, which is shown then, and comes whole afterwards.
            lines = [*join(data[1:-1])]
            assert (lines, without_usage(data[-1])) == (
                [*map(str, range(1, 2001))],
                {"status": "exited", "exitCode": 4},
            )
            assert peer.recv_close()[0] == 1001
        assert it.end() == 4


def test_the_page_is_served() -> None:
    with command("run", "--port", "0", "--wait", "--id", "b", "--", "true") as it:
        with urllib.request.urlopen(f"http://127.0.0.1:{it.port}/", timeout=BOUND) as response:
            assert 'data-channel="process:b"' in response.read().decode()
        it.saw("the page is served until Ctrl-C", "err")
        it.signal(signal.SIGTERM)
        assert it.end() == 0


@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)]
)
def test_a_signal_ends_the_program_and_viewers_get_1001(number: int, code: int) -> None:
    script = (
        "import os, signal, sys\n"
        # Not by print(), which the signal may come into: it is not re-entrant.
        "def end(*_): os.write(1, b'last words\\n'); sys.exit(7)\n"
        f"signal.signal({int(number)}, end)\n"
        "print(os.getpid(), flush=True)\n"
        "while True: signal.pause()\n"
    )
    with command("run", "--port", "0", "--id", "b", "--", sys.executable, "-c", script) as it:
        with viewer(it, "process:b") as peer:
            assert peer.recv_json()["data"] == {"status": "running"}
            child = int(peer.recv_json()["data"])
            it.signal(number)
            assert peer.recv_json()["data"] == "last words"
            ended = without_usage(peer.recv_json()["data"])
            assert ended == {"status": "exited", "exitCode": 7}
            assert peer.recv_close()[0] == 1001
        assert it.end() == code
    assert it.out == [str(child), "last words"]
    assert not any("Traceback" in line for line in it.err)
    assert not Path(f"/proc/{child}").exists()


def test_a_program_that_ignores_signals_is_killed_with_all_that_it_started() -> None:
    script = "trap '' INT TERM; sleep 1000 & echo $!; while :; do sleep 0.05; done"
    with command("run", "--port", "0", *shell(script)) as it:
        wait_until(lambda: it.out, BOUND)
        sleeper = int(it.out[0])
        it.signal(signal.SIGINT)
        it.signal(signal.SIGINT)  # the second one ends the patience
        assert it.end() == 130
    wait_until(lambda: not is_alive(sleeper))


def test_in_a_terminal_the_program_gets_one_and_keeps_its_colours() -> None:
    ours, theirs = pty.openpty()
    try:
        script = "test -t 1 && printf '\\033[31mred\\033[0m\\n'; printf '10%%\\r20%%\\n'"
        with command("run", "--port", "0", *shell(script), stdout=theirs) as it:
            assert it.end() == 0
        text = os.read(ours, 65536).decode()
    finally:
        os.close(ours)
        os.close(theirs)
    assert "\x1b[31mred\x1b[0m" in text
    assert "20%" in text


def test_the_programs_terminal_is_as_large_as_ours(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("COLUMNS", raising=False)
    monkeypatch.delenv("LINES", raising=False)
    ours, theirs = pty.openpty()
    try:
        fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 33, 123, 0, 0))
        with command("run", "--port", "0", *shell("stty size <&1"), stdout=theirs) as it:
            assert it.end() == 0
        assert os.read(ours, 65536).decode().startswith("33 123")
    finally:
        os.close(ours)
        os.close(theirs)


def test_output_that_is_not_read_does_not_end_the_run() -> None:
    line = f"{shlex.quote(sys.executable)} -m ws_hub run --port 0 -- sh -c 'seq 50000; exit 6'"
    done = subprocess.run(
        ["sh", "-c", f"{{ {line}; echo $? >&2; }} | head -n 1"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=BOUND,
    )
    assert done.stdout == "1\n"
    assert done.stderr.splitlines()[1:] == ["6"]


@contextlib.contextmanager
def full_pipe() -> Iterator[int]:
    """A pipe that has no room, and that nobody reads."""
    reading, writing = os.pipe()
    try:
        os.set_blocking(writing, False)
        for size in 4096, 1:
            with contextlib.suppress(BlockingIOError):
                while True:
                    os.write(writing, b"x" * size)
        os.set_blocking(writing, True)
        yield writing
    finally:
        os.close(reading)
        os.close(writing)


@pytest.mark.parametrize(
    ("arguments", "number", "code"),
    [
        (("run", "--port", "0", "--", "sh", "-c", "echo begun; exec sleep 60"), "TERM", 143),
        (("run", "--port", "0", "--wait", "--", "sh", "-c", "echo begun; exit 7"), "INT", None),
        (("up", "--port", "0", "{procfile}"), "INT", 130),
        (("serve", "--port", "0"), "TERM", 143),
        (("tail", "ws://127.0.0.1:9/ws", "news"), "INT", 130),
    ],
)
def test_a_stderr_that_is_not_read_holds_up_no_end_by_a_signal(
    tmp_path: Path, arguments: tuple[str, ...], number: str, code: int | None
) -> None:
    (tmp_path / "Procfile").write_text("web: echo begun; exec sleep 60\n")
    argv = [each.format(procfile=tmp_path / "Procfile") for each in arguments]
    with full_pipe() as stderr:
        process = subprocess.Popen(
            [sys.executable, "-m", "ws_hub", *argv],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=stderr,
            cwd=ROOT,
        )
        try:
            assert process.stdout is not None
            if arguments[0] in ("run", "up"):
                while b"begun" not in process.stdout.readline():
                    pass
            else:  # its handlers are installed
                status = Path(f"/proc/{process.pid}/status")
                wait_until(lambda: handles_signals(status.read_text()), BOUND)
            process.send_signal(getattr(signal, f"SIG{number}"))
            ended = process.wait(BOUND)  # with --wait: before or after the program's end
            assert ended == code if code is not None else ended in (7, 130)
        finally:
            process.kill()
            process.communicate()


def handles_signals(status: str) -> bool:
    """Return whether a process has a handler for SIGTERM, as /proc says."""
    caught = re.search(r"SigCgt:\s*([0-9a-f]+)", status)
    return caught is not None and bool(int(caught[1], 16) >> (signal.SIGTERM - 1) & 1)


def test_a_second_run_takes_another_port() -> None:
    with command("run", "--wait", "--", "true") as first:
        port = first.port
        with command("run", "--", "true") as second:
            assert second.port != port
            assert second.end() == 0
        first.signal(signal.SIGINT)
        assert first.end() in (0, 130)  # it came after the exit, or before


# --- serve ---------------------------------------------------------------------------------


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_serve_ends_with_1001(number: int, code: int) -> None:
    with command("serve", "--port", "0") as it:
        with urllib.request.urlopen(f"http://127.0.0.1:{it.port}/api/channels") as response:
            assert json.load(response) == {"channels": [], "total": 0, "statuses": {}}
        with viewer(it, "news") as peer:
            it.signal(number)
            assert peer.recv_close()[0] == 1001
        assert it.end() == code
    assert not any("Traceback" in line for line in it.err)


def test_serve_with_publish_lets_clients_publish() -> None:
    with command("serve", "--port", "0", "--publish", "chat:*", "--publish", "news") as it:
        with viewer(it, "chat:1") as peer:
            for number, channel in enumerate(["chat:1", "news", "process:a"]):
                peer.send_json({"type": "publish", "channel": channel, "data": "hi", "id": number})
            answers = {}
            while len(answers) < 3:
                message = peer.recv_json()
                if message["type"] == "event":
                    assert (message["channel"], message["data"]) == ("chat:1", "hi")
                else:
                    answers[message["id"]] = message.get("code", message["type"])
            assert answers == {0: "ack", 1: "ack", 2: "forbidden"}
        with viewer(it, "news") as late:
            assert late.recv_json()["data"] == "hi"
            it.signal(signal.SIGINT)
        assert it.end() == 130


def test_serve_with_history_goes_on_after_kill_9(tmp_path: Path) -> None:
    arguments = ("serve", "--port", "0", "--publish", "chat:*", "--history", str(tmp_path / "h.db"))
    with command(*arguments) as it, HubClient(f"ws://127.0.0.1:{it.port}/ws") as client:
        epoch = client.subscribe("chat:1")["epoch"]
        for number in range(1, 4):
            client.send(Message("publish", channel="chat:1", data=number, id=number))
            assert client.expect(type="ack").id == number  # it is committed now
        it.signal(signal.SIGKILL)
        assert it.end() == -signal.SIGKILL
    with command(*arguments) as it, HubClient(f"ws://127.0.0.1:{it.port}/ws") as client:
        ack = client.subscribe("chat:1", since=1, epoch=epoch)
        assert ack == {
            "channel": "chat:1", "epoch": epoch, "seq": 3, "recovered": True, "replayed": 2,
        }  # fmt: skip
        for number in 2, 3:
            found = client.expect(channel="chat:1")
            assert (found.seq, found.data) == (number, number)
        client.send(Message("publish", channel="chat:1", data="again", id="4"))
        assert client.expect(channel="chat:1").seq == 4
        assert client.expect(type="ack").id == "4"
        it.signal(signal.SIGTERM)
        assert it.end() == 143
    assert [each.name for each in tmp_path.iterdir()] == ["h.db"]


def test_serve_with_history_that_cannot_be_kept_says_why(tmp_path: Path) -> None:
    code, out, err = run("serve", "--port", "0", "--history", str(tmp_path / "none" / "h.db"))
    assert code != 0
    assert out == []
    assert "there is no directory" in err[-1]
    assert not any("Traceback" in line for line in err)


# --- tail ----------------------------------------------------------------------------------


def test_tail_shows_lines_as_they_come_and_reconnects() -> None:
    hub = Hub()
    server = serve(hub, port=free_port())
    with contextlib.ExitStack() as stack:
        stack.callback(lambda: server.close())
        hub.send_process_output("b", "early")
        page = f"http://127.0.0.1:{server.port}/?channel=process:b"
        it = stack.enter_context(command("tail", page))
        it.saw("early")
        hub.send_process_output("b", "50%\r")
        hub.send_process_output("b", "100%")
        it.saw("100%")
        server.close()
        it.saw("disconnected (1001", "err")
        server = serve(hub, port=server.port)
        hub.send_process_output("b", "again")
        it.saw("again")
        hub.send_process_status("b", "exited", 3)
        it.saw("ws-hub: process:b exited 3", "err")
        it.signal(signal.SIGINT)
        assert it.end() == 130
        assert it.out == ["early", "100%", "again"]


def test_tail_names_the_channels_when_there_are_several() -> None:
    hub = Hub()
    with serve(hub) as server:
        hub.send_process_output("a", "from a")
        hub.send_process_output("b", "from b")
        with command("tail", server.url, "process:a", "process:b", "news") as it:
            it.saw("process:a: from a")
            it.saw("process:b: from b")
            wait_until(lambda: hub.has_subscribers("news"))
            hub.send_event("released", {"version": "1.2"}, channel="news")
            assert it.saw("released").endswith(' news released {"version": "1.2"}')
            it.signal(signal.SIGTERM)
            assert it.end() == 143


def test_tail_says_once_that_a_program_runs_whatever_it_uses() -> None:
    hub = Hub()
    with serve(hub) as server:
        hub.send_process_status("a", "running")
        with command("tail", server.url, "process:a") as it:
            it.saw("process:a is running", "err")
            hub.send_process_lines("a", ["half a line\r"], numbers=[1])
            hub.send_process_status("a", "running", extra={"usage": {"cpuSeconds": 1.5}})
            hub.send_process_lines("a", ["half a line and the rest"], numbers=[1])
            hub.send_process_status("a", "exited", 0)
            it.saw("process:a exited 0", "err")
            it.signal(signal.SIGTERM)
            assert it.end() == 143
        assert it.out == ["half a line and the rest"]
        assert len([line for line in it.err if "is running" in line]) == 1


def test_tail_prints_whole_messages_as_json() -> None:
    hub = Hub()
    with serve(hub) as server:
        for number in range(5):
            hub.send_process_output("a", f"line {number}")
        with command("tail", "--json", "--since", "3", server.url, "process:a") as it:
            it.saw("line 4")
            assert [json.loads(line)["seq"] for line in it.out] == [4, 5]
            assert json.loads(it.out[0])["type"] == "process_output"
            it.signal(signal.SIGINT)
            assert it.end() == 130


@pytest.mark.parametrize(
    ("options", "wanted"),
    [
        (("--stream", "stderr"), ["bad"]),
        (("--stream", "stdout", "--mark"), ["  plain", "  end"]),
        (
            ("--time", "elapsed", "--mark"),
            ["0:00:00.000   plain", "0:01:01.500 ! bad", "0:01:02.000   end"],
        ),
        (("--time", "delta"), ["   +0.000 plain", "  +61.500 bad", "   +0.500 end"]),
        (("--json", "--stream", "stderr"), ["stderr", 1_771_550_337_500_000]),
    ],
)
def test_tail_shows_one_stream_alone_or_marks_both_with_their_times(
    options: tuple[str, ...], wanted: list[str]
) -> None:
    hub = Hub()
    start = 1_771_550_276.0
    with serve(hub) as server:
        hub.send_process_output("a", "plain", time=start)
        hub.send_process_output("a", "bad", stream="stderr", time=start + 61.5)
        hub.send_process_output("a", "end", time=start + 62)
        hub.send_process_status("a", "exited", 0)
        with command("tail", *options, server.url, "process:a") as it:
            it.saw("exited", "out" if "--json" in options else "err")
            it.signal(signal.SIGINT)
            assert it.end() == 130
        if "--json" in options:
            line, status = map(json.loads, it.out)
            assert [line["stream"], line["time"]] == wanted
            assert status["type"] == "process_status"
        else:
            assert it.out == wanted


def test_tail_last_begins_with_the_newest_lines() -> None:
    hub = Hub()
    with serve(hub) as server:
        for number in range(5):
            hub.send_process_output("a", f"line {number}")
        with command("tail", "--last", "2", server.url, "process:a") as it:
            it.saw("line 4")
            hub.send_process_output("a", "line 5")
            it.saw("line 5")
            assert it.out == ["line 3", "line 4", "line 5"]
            it.signal(signal.SIGINT)
            assert it.end() == 130


def test_tail_without_a_server_reports_it_and_retries() -> None:
    with taken_port() as port:
        pass
    with command("tail", f"ws://127.0.0.1:{port}/ws", "news") as it:
        it.saw("refused", "err")
        it.signal(signal.SIGINT)
        assert it.end() == 130
        assert not any("Traceback" in line for line in it.err)


def test_tail_sends_the_token_of_its_environment(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    hub = Hub(HubConfig(authenticator=APIKeyAuth({"k-ann": "ann"})))
    with serve(hub) as server:
        hub.send_process_output("a", "line")
        monkeypatch.setenv("WS_HUB_TOKEN", "k-ann")
        with command("tail", server.url, "process:a") as it:
            it.saw("line")
            assert len(hub.user_clients("ann")) == 1
            it.signal(signal.SIGINT)
            assert it.end() == 130
        monkeypatch.setenv("WS_HUB_TOKEN", "k-eve")
        assert run("tail", server.url, "process:a")[0] == 1


def test_tail_that_is_refused_gives_up() -> None:
    def refuse(environ, start_response):  # type: ignore[no-untyped-def]
        start_response("401 Unauthorized", [("Content-Length", "0")])
        return []

    with serve(Hub(), path="/elsewhere", app=refuse) as server:
        code, out, err = run("tail", f"ws://127.0.0.1:{server.port}/ws", "news")
    assert (code, out) == (1, [])
    assert len(err) == 1 and "401" in err[0]


def test_tail_names_the_address_that_nobody_serves_at() -> None:
    with socket.socket() as taken:  # bound, and not listening
        taken.bind(("127.0.0.1", 0))
        url = f"ws://127.0.0.1:{taken.getsockname()[1]}/ws"
        with command("tail", url, "news") as it:
            wait_until(lambda: any(f"{url}: " in line and "refused" in line for line in it.err))
            it.signal(signal.SIGINT)
            assert it.end() == 130


def test_tail_ends_when_its_output_is_closed() -> None:
    hub = Hub()
    with serve(hub) as server:
        hub.send_process_output("a", "first")
        reading, writing = os.pipe()
        with command("tail", server.url, "process:a", stdout=writing) as it:
            os.close(writing)
            assert os.read(reading, 100) == b"first\n"
            os.close(reading)
            hub.send_process_output("a", "second")
            assert it.end() == 128 + signal.SIGPIPE
            assert not any("Traceback" in line or "Broken" in line for line in it.err)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("tail", "ws://127.0.0.1:1/ws"), "a channel is required"),
        (("tail", "--json", "--time", "clock", "ws://127.0.0.1:1/ws", "a"), "are for lines"),
        (("tail", "ws://127.0.0.1:1/ws", ""), "channel name '' is refused"),
        (("tail", "ftp://x/", "a"), "url must be a ws:// or wss:// URL"),
    ],
)
def test_tail_with_wrong_arguments_is_one_line(arguments: tuple[str, ...], said: str) -> None:
    code, _, err = run(*arguments)
    assert code == 2
    assert len(err) == 1 and said in err[0]
