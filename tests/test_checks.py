"""The tests' own tools, tested: the leak check fails what leaks, the raw peer obeys."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from websockets.sync.server import Server, ServerConnection, serve

from tests import test_layout
from tests.support import (
    CLOSE,
    CONTINUATION,
    PING,
    PONG,
    TEXT,
    TIMEOUT,
    RawPeer,
    fill,
    once_a_run,
    small_pair,
    tcp_pair,
    wait_until,
)

ROOT = Path(__file__).resolve().parent.parent

# --- what a test may not do ----------------------------------------------------------------

LEAKS = '''
import socket, subprocess, sys, threading
import pytest

kept = []

@pytest.fixture(scope="session")
def server():
    """A thread and a port that outlive the tests which use them."""
    release = threading.Event()
    thread = threading.Thread(target=release.wait, name="session-server")
    thread.start()
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield listener
    release.set()
    thread.join()

def park(name):
    release = threading.Event()
    kept.append(release)
    threading.Thread(target=release.wait, name=name, daemon=True).start()

def test_thread():
    park("stray")

def test_port():
    kept.append(socket.create_server(("127.0.0.1", 0)))

def test_child():
    kept.append(subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE))

def test_zombie():
    child = subprocess.Popen([sys.executable, "-c", ""])
    kept.append(child)

def test_uncollected():
    socket.socket()

def test_dying_thread():
    thread = threading.Thread(target=lambda: 1 / 0)
    thread.start()
    thread.join()

@pytest.mark.leaves(threads=["^allowed$"], why="to show that it may")
def test_ok_allowed():
    park("allowed")

def test_ok_session(server):
    assert server.fileno() >= 0

def test_ok_late():
    release = threading.Event()
    threading.Thread(target=release.wait, args=(0.2,), name="ends soon").start()

def test_ok_switchinterval():
    assert sys.getswitchinterval() < 1e-4

def test_ok_proxies():
    import os
    assert not {name for name in os.environ if name.lower().endswith("_proxy")}
'''


@pytest.fixture(scope="module")
def outcome(tmp_path_factory: pytest.TempPathFactory) -> str:
    """What pytest reports of the tests above, under our conftest."""
    return once_a_run(
        tmp_path_factory, "leaks-report", lambda: report(tmp_path_factory.mktemp("leaks"))
    )


def report(directory: Path) -> str:
    (directory / "test_leaks.py").write_text(LEAKS, encoding="utf-8")
    command = [sys.executable, "-m", "pytest", "-p", "tests.conftest", "-p", "no:cacheprovider"]
    command += ["-c", str(ROOT / "setup.cfg"), "-rA", "--switchinterval", "1e-5"]
    command += ["--leak-timeout", "1"]
    run = subprocess.run(
        [*command, str(directory)],
        cwd=ROOT,
        env={"PYTHONPATH": str(ROOT), "http_proxy": "http://127.0.0.1:9", "PATH": ""},
        capture_output=True,
        text=True,
        timeout=50,
    )
    assert run.returncode == 1, run.stdout + run.stderr
    return run.stdout


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("test_thread", "thread stray:"),
        ("test_port", "listening on port"),
        ("test_child", "child process"),
        ("test_zombie", "a zombie"),
    ],
)
def test_what_a_test_leaves_behind_fails_it(outcome: str, name: str, told: str) -> None:
    assert f"ERROR test_leaks.py::{name}" in outcome.replace(_directory(outcome), "")
    assert told in outcome


@pytest.mark.parametrize("name", ["test_uncollected", "test_dying_thread"])
def test_failure_in_an_unwatched_part_fails_the_run(outcome: str, name: str) -> None:
    assert f"FAILED test_leaks.py::{name}" in outcome.replace(_directory(outcome), "")


@pytest.mark.parametrize(
    "name",
    [
        "test_ok_allowed",
        "test_ok_session",
        "test_ok_late",
        "test_ok_switchinterval",
        "test_ok_proxies",
    ],
)
def test_what_is_in_order_passes(outcome: str, name: str) -> None:
    assert f"PASSED test_leaks.py::{name}" in outcome.replace(_directory(outcome), "")
    assert f"ERROR test_leaks.py::{name}" not in outcome.replace(_directory(outcome), "")


def test_the_stack_of_a_stray_thread_is_shown(outcome: str) -> None:
    assert "release.wait" in outcome or "waiter.acquire" in outcome


def _directory(outcome: str) -> str:
    """The part of the paths in a report that is before test_leaks.py."""
    line = next(line for line in outcome.splitlines() if "test_leaks.py::test_ok_allowed" in line)
    return line.partition(" ")[2].partition("test_leaks.py")[0]


def test_waiting_returns_what_it_waited_for() -> None:
    values = iter([0, None, "", "found", "not asked"])

    assert wait_until(lambda: next(values)) == "found"


def test_waiting_ends_and_says_what_did_not_come() -> None:
    with pytest.raises(AssertionError, match=r"not within 0\.01 s: the tide"):
        wait_until(lambda: False, 0.01, "the tide")


def test_a_small_pair_is_soon_full() -> None:
    with small_pair() as (left, _):
        assert 0 < fill(left) < 100_000
        assert left.gettimeout() == TIMEOUT


# --- the raw peer, against a server that is not ours ---------------------------------------


def echo(connection: ServerConnection) -> None:
    for message in connection:
        connection.send(message)


@pytest.fixture
def server() -> Iterator[Server]:
    server = serve(echo, "127.0.0.1", 0, max_size=None)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        thread.join(TIMEOUT)
        if isinstance(server.shutdown_watcher, int):  # websockets 16 leaves its pipe open
            os.close(server.shutdown_watcher)
            os.close(server.shutdown_notifier)


@pytest.fixture
def peer(server: Server) -> Iterator[RawPeer]:
    with RawPeer(*server.socket.getsockname()[:2]) as peer:
        yield peer


@pytest.mark.parametrize("size", [0, 1, 125, 126, 65_535, 65_536, 200_000])
def test_a_message_of_any_size_goes_and_comes_back(peer: RawPeer, size: int) -> None:
    peer.send_text("x" * size)

    assert peer.recv_text() == "x" * size


@pytest.mark.parametrize("form", [7, 16, 64])
def test_a_length_is_written_in_the_form_that_is_asked_for(form: int) -> None:
    assert len(RawPeer.frame(TEXT, b"abc", form=form)) == {7: 2, 16: 4, 64: 10}[form] + 4 + 3


def test_fragments_are_put_together_and_controls_go_between(peer: RawPeer) -> None:
    peer.send_frame(TEXT, b"one ", fin=False)
    peer.send_frame(PING, b"still there?")
    peer.send_frame(CONTINUATION, b"two")

    assert peer.recv_frame().opcode == PONG
    assert peer.recv_text() == "one two"


def test_a_close_is_answered_with_its_code(peer: RawPeer) -> None:
    assert peer.close(1001, "going")[0] == 1001


@pytest.mark.parametrize(
    ("frame", "code"),
    [
        (RawPeer.frame(TEXT, b"x", mask=None), 1002),
        (RawPeer.frame(TEXT, b"x", rsv=4), 1002),
        (RawPeer.frame(0x3, b"x"), 1002),
        (RawPeer.frame(TEXT, b"\xff"), 1007),
        (RawPeer.frame(PING, b"x" * 126), 1002),
    ],
    ids=["unmasked", "reserved bit", "reserved opcode", "not UTF-8", "long ping"],
)
def test_a_frame_that_breaks_a_rule_is_sent_as_it_is(
    peer: RawPeer, frame: bytes, code: int
) -> None:
    peer.send_raw(frame)

    assert peer.recv_close()[0] == code


def test_a_refused_handshake_is_a_response(server: Server) -> None:
    with RawPeer(*server.socket.getsockname()[:2], handshake=False) as peer:
        peer.send_raw(peer.request([("Sec-WebSocket-Key", ""), ("X-Extra", "1")]))
        response = peer.read_response()

    assert response.status == 400
    assert response.body


def test_the_end_of_a_connection_is_an_eof(peer: RawPeer) -> None:
    peer.send_frame(CLOSE)

    assert peer.recv_close() == (1005, "")
    assert peer.recv_eof() == b""
    with pytest.raises(EOFError):
        peer.recv_frame()


def test_a_reset_reaches_the_other_side() -> None:
    with tcp_pair() as (left, right):
        peer = RawPeer.__new__(RawPeer)
        peer.sock = left
        peer.reset()
        with pytest.raises(ConnectionResetError):
            right.recv(1)


# --- the layout rules ----------------------------------------------------------------------

BREAKS_EVERYTHING = (
    '''"""Breaks every rule."""
from __future__ import annotations
import threading
from ..hub import hub
from ..hub.hub import Hub
import ws_hub.cli
from typing import TYPE_CHECKING
from concurrent.futures import ThreadPoolExecutor
if TYPE_CHECKING:
    from ..process.process import Process
first = 1
__all__ = ["first"]
lock = threading.Lock()
thread = threading.Thread(target=print)
pool = ThreadPoolExecutor()
def helper_locked(): logger.info("one")
with lock: logger.error("two")
def wide(a, b, c, d, e, *f, g, **h): pass
def lazy():
    from ..wsgi import app
class Hub(ThreadingMixIn):
    def go(self): pass
def long():
'''
    + "    x = 1\n" * 61
)
CAUGHT = {
    "test_every_module_has_a_place": 1,
    "test_a_package_imports_only_from_lower_packages": 5,
    "test_there_is_no_import_circle": 1,
    "test_sans_io_modules_import_no_socket_thread_or_clock": 2,
    "test_functions_are_short": 1,
    "test_functions_take_at_most_seven_parameters": 1,
    "test_every_module_says_what_it_is": 1,
    "test_all_stands_right_after_the_imports": 2,
    "test_public_methods_say_which_threads_may_call_them": 1,
    "test_each_lock_and_queue_is_born_under_a_guards_comment": 1,
    "test_locked_helpers_assert_that_the_lock_is_held": 1,
    "test_nothing_is_logged_under_a_lock": 2,
    "test_methods_are_grouped_by_the_thread_that_runs_them": 1,
    "test_only_threads_starts_threads": 4,
}


@pytest.mark.parametrize(("rule", "violations"), CAUGHT.items())
def test_every_layout_rule_catches_what_breaks_it(
    monkeypatch: pytest.MonkeyPatch, rule: str, violations: int
) -> None:
    sources = {
        "protocol.frames": BREAKS_EVERYTHING,
        "hub.hub": '"""The hub."""\nfrom ..protocol import frames\n__all__: list[str] = []\n',
        "connection.outbox": '"""Waits."""\nimport threading\n__all__ = []\nthreading.Thread()\n',
        "unheard": "x = 1\n",
    }
    planted = {
        name: (test_layout.PACKAGE / f"{name.replace('.', '/')}.py", text, ast.parse(text))
        for name, text in sources.items()
    }
    monkeypatch.setattr(test_layout, "modules", lambda: planted)

    with pytest.raises(pytest.fail.Exception) as caught:
        getattr(test_layout, rule)()
    assert len(str(caught.value).splitlines()) == 1 + violations, caught.value


def test_a_sleep_in_a_test_is_caught(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "test_a.py").write_text("import time\ntime.sleep(1)\nfrom time import sleep\n")
    (tmp_path / "support.py").write_text("def wait_until():\n    time.sleep(1)\n")
    monkeypatch.setattr(test_layout, "TESTS", tmp_path)
    monkeypatch.setattr(test_layout, "ROOT", tmp_path)

    with pytest.raises(pytest.fail.Exception, match="2 violation"):
        test_layout.test_no_test_sleeps()


PRYING = """
import os
from ws_hub.hub import hub as module
from ws_hub.hub.hub import _Inside
class Own:
    def __init__(self):
        self._mine = 1
def test_a(monkeypatch, hub):
    own = Own()
    assert own._mine and own.__dict__ and os._exit
    hub._life.state
    hub.client._near = 1
    monkeypatch.setattr(module, "_TURN_ITEMS", 1)
    monkeypatch.setattr("ws_hub.hub.users._REMEMBERED", 1)
    monkeypatch.setattr(os, "_exit", print)
    monkeypatch.setattr(hub, f"_{own}", 1)
    monkeypatch.setattr(hub, "public", 1)
    setattr(hub, "_lock", None)
"""


def test_a_private_name_in_a_test_is_caught(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for name in ("test_a.py", "harness.py"):
        (tmp_path / name).write_text(PRYING)
    monkeypatch.setattr(test_layout, "TESTS", tmp_path)
    monkeypatch.setattr(test_layout, "ROOT", tmp_path)

    with pytest.raises(pytest.fail.Exception) as caught:
        test_layout.test_tests_use_no_private_name_of_others()
    head, *found = str(caught.value).splitlines()
    assert head == "7 violation(s):"
    lines = [each.partition(":")[2].partition(" is private")[0] for each in found]
    assert sorted(lines) == [
        "11: _life",
        "12: _near",
        "13: _TURN_ITEMS",
        "14: ws_hub.hub.users._REMEMBERED",
        "16: _*",
        "18: _lock",
        "4: _Inside",
    ]


def test_every_layout_rule_is_among_those_proven() -> None:
    rules = {name for name in vars(test_layout) if name.startswith("test_")}

    of_the_tree = {
        "test_few_modules_are_at_the_top",
        "test_no_class_is_cut_into_a_chain_of_bases",
        "test_no_test_sleeps",
        "test_tests_use_no_private_name_of_others",
        "test_the_modules_from_which_users_functions_are_called_are_there",
    }
    assert rules == {*CAUGHT, *of_the_tree}
