"""Processes of one machine that tell each other notices over Unix sockets."""

from __future__ import annotations

import contextlib
import errno
import json
import logging
import os
import shutil
import signal
import socket
import stat
import struct
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.receivers import StandIn
from tests.support import TIMEOUT, wait_until
from ws_hub import ConfigError
from ws_hub.backplane import exchange, socket_directory
from ws_hub.backplane.bus import BusStats, Notice, NoticeKind
from ws_hub.backplane.local import LocalBackplane
from ws_hub.backplane.notices import (
    MAX_FRAME_BYTES,
    Hello,
    Numbered,
    decode,
    encode,
    frame,
    hello,
)

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs Unix sockets and fork")

ROOT = Path(__file__).parents[2]
MIB = 1024 * 1024
STRANGER = "1-00000000.sock"
KEPT = Notice(NoticeKind.KEPT)
ALL_KINDS = [
    Notice(NoticeKind.PUBLISH, "news", (b'{"a":1}', b"2")),
    Notice(NoticeKind.PUBLISH, "", (b"1",)),
    Notice(NoticeKind.PUBLISH, "keyed", (b"1",), key="k"),
    Notice(NoticeKind.PUBLISH, "keyed", (b"1",), key="k", deletes=True),
    Notice(NoticeKind.USER, "ann", (b"1",)),
    Notice(NoticeKind.DISCONNECT, "ann", code=4000, reason="bye"),
    KEPT,
]


def said(text: object) -> Notice:
    """Return a notice that goes alone."""
    return Notice(NoticeKind.USER, "a", (str(text).encode(),))


def published(text: object) -> Notice:
    """Return a notice with which others of its kind may go as one."""
    return Notice(NoticeKind.PUBLISH, "a", (str(text).encode(),))


class Heard(StandIn):
    """A receiver that keeps what it gets, while it has room."""

    def __init__(self) -> None:
        self.notices: list[Notice] = []
        self.heard: set[str] = set()
        self.has_room = True
        self.refused = threading.Event()
        self.fails = False
        self.ended: set[str] = set()

    def receive(self, notice: Notice, source: str) -> bool:
        if not self.has_room:
            self.refused.set()
            return False
        self.notices.append(notice)
        self.heard.update(text.decode() for text in notice.texts)
        if self.fails:
            raise RuntimeError("the receiver")
        return True

    def gone(self, source: str) -> None:
        self.ended.add(source)

    def missed(self, count: int) -> None:
        super().missed(count)
        if self.fails:
            raise RuntimeError("the receiver")

    def texts(self, start: str = "") -> list[str]:
        found = [text.decode() for each in self.notices for text in each.texts]
        return [text for text in found if text.startswith(start)]

    def wait_for(self, text: object) -> None:
        wait_until(lambda: str(text) in self.heard, what=f"{text} to arrive")


@pytest.fixture
def folder() -> Iterator[Path]:
    """A directory with a short path; the backplanes make their own in it."""
    path = Path(tempfile.mkdtemp(prefix="bus-", dir="/tmp"))
    yield path
    shutil.rmtree(path)


@pytest.fixture
def directory(folder: Path) -> Path:
    return folder / "bus"


Join = Callable[..., tuple[LocalBackplane, Heard]]


@pytest.fixture
def join(directory: Path) -> Iterator[Join]:
    """Open one more backplane, and wait until it and those before it know each other."""
    opened: list[LocalBackplane] = []

    def join_one(others: int = 0) -> tuple[LocalBackplane, Heard]:
        bus, heard = LocalBackplane(directory), Heard()
        bus.open(heard)
        opened.append(bus)
        everybody(*opened, others=others)
        return bus, heard

    yield join_one
    for bus in opened:
        bus.close(TIMEOUT)
    if directory.is_dir() and not directory.is_symlink():
        assert [each for each in os.listdir(directory) if each.startswith(f"{os.getpid()}-")] == []


def everybody(*buses: LocalBackplane, others: int = 0) -> None:
    """Wait until these, and those of other processes, are connected to each other."""
    count = len(buses) - 1 + others
    wait_until(lambda: all(bus.stats().peers == count for bus in buses), what=f"{count} peers")


def only_socket(directory: Path) -> str:
    (name,) = os.listdir(directory)
    return name


@contextlib.contextmanager
def raw(directory: Path, name: str) -> Iterator[socket.socket]:
    """A connection to the socket of a backplane."""
    with socket.socket(socket.AF_UNIX) as sock:
        sock.settimeout(TIMEOUT)
        sock.connect(f"{directory}/{name}")
        yield sock


# --- telling -------------------------------------------------------------------------------


def test_two_tell_each_other_all_kinds_in_order(join: Join) -> None:
    (one, at_one), (two, at_two) = join(), join()
    for notice in ALL_KINDS:
        one.tell(notice)
        two.tell(notice)
    for heard in (at_one, at_two):
        wait_until(lambda heard=heard: len(heard.notices) >= len(ALL_KINDS))
        assert heard.notices == ALL_KINDS
        assert heard.lost == 0
    for bus in (one, two):
        wait_until(lambda bus=bus: bus.stats().told == len(ALL_KINDS))
        assert bus.stats() == BusStats(1, len(ALL_KINDS), len(ALL_KINDS), 0)


def test_three_hear_each_sender_in_its_order(join: Join) -> None:
    members = [join() for _ in range(3)]
    threads = [
        threading.Thread(
            target=lambda n=n, bus=bus: [bus.tell(said(f"{n}:{i}")) for i in range(300)]
        )
        for n, (bus, _) in enumerate(members)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(TIMEOUT)
    for n, (_, heard) in enumerate(members):
        wait_until(lambda heard=heard: len(heard.notices) >= 600)
        for sender in {0, 1, 2} - {n}:
            assert heard.texts(f"{sender}:") == [f"{sender}:{i}" for i in range(300)]
        assert heard.texts(f"{n}:") == []
        assert heard.lost == 0


def test_a_newcomer_is_told_what_comes_after_it(join: Join) -> None:
    (one, _), (_, at_two) = join(), join()
    one.tell(said("before"))
    at_two.wait_for("before")
    _, at_three = join()
    one.tell(said("after"))
    at_three.wait_for("after")
    assert at_three.texts() == ["after"]
    assert at_three.lost == 0


def test_a_large_notice_arrives(join: Join) -> None:
    (one, _), (_, at_two) = join(), join()
    text = b"x" * (5 * MIB)
    one.tell(Notice(NoticeKind.PUBLISH, "a", (text, b"1")))
    wait_until(lambda: at_two.notices)
    assert at_two.notices[0].texts == (text, b"1")


def test_a_notice_that_no_frame_holds_is_lost_and_missed(join: Join) -> None:
    (one, _), (two, at_two) = join(), join()
    one.tell(Notice(NoticeKind.PUBLISH, "a", (b"x" * MAX_FRAME_BYTES,)))
    wait_until(lambda: at_two.lost == 1)  # although nothing is told after it
    one.tell(said("next"))
    at_two.wait_for("next")
    assert at_two.lost == 1
    assert one.stats().lost == two.stats().lost == 1


def test_a_text_with_a_line_feed_is_refused(join: Join) -> None:
    (one, _), (_, at_two) = join(), join()
    with pytest.raises(ValueError, match="line feed"):
        one.tell(said("1\n2"))
    one.tell(said("next"))
    at_two.wait_for("next")
    assert (at_two.texts(), at_two.lost) == (["next"], 0)


def test_telling_when_not_open_reaches_nobody(directory: Path) -> None:
    bus = LocalBackplane(directory)
    bus.tell(said("nothing"))
    bus.close(0)
    assert bus.stats() == BusStats()
    assert not directory.exists()


def test_messages_that_wait_together_arrive_in_their_order(join: Join) -> None:
    (one, at_one), (two, at_two) = join(), join()
    for number in range(5000):
        one.tell(published(number))
        two.tell(published(number))
    numbers = [str(number) for number in range(5000)]
    for heard in (at_one, at_two):
        heard.wait_for(4999)
        assert heard.texts() == numbers
        assert heard.lost == 0


def test_several_kept_that_wait_are_one(join: Join, directory: Path) -> None:
    with socket.socket(socket.AF_UNIX) as listener:
        one, _ = join()
        listener.bind(f"{directory}/{STRANGER}")
        listener.listen()
        listener.settimeout(TIMEOUT)
        (name,) = set(os.listdir(directory)) - {STRANGER}
        with raw(directory, name) as sock:
            sock.sendall(hello(STRANGER, 0))
            theirs, _ = listener.accept()
        with theirs:
            theirs.settimeout(TIMEOUT)
            everybody(one, others=1)
            for _ in range(100):
                one.tell(said("x" * 50_000))  # until the kernel has no room
            for _ in range(500):
                one.tell(KEPT)
            one.tell(said("end"))
            kinds, number = [], 0
            while number < 101:
                fields = read_frame(theirs)
                assert fields["n"] - number in (0, 1)
                number = fields["n"]
                kinds.append(fields.get("kind", "hello"))
            assert kinds[0] == "hello"
            assert kinds.count("user") == 101
            assert kinds[-2:] == ["kept", "user"]
            assert kinds.count("kept") == 1
        os.unlink(f"{directory}/{STRANGER}")


def read_frame(sock: socket.socket) -> dict[str, object]:
    data = b""
    while len(data) < 4:
        data += sock.recv(4 - len(data)) or pytest.fail("the connection has ended")
    (size,) = struct.unpack("!I", data)
    body = bytearray()
    while len(body) < size:
        body += sock.recv(size - len(body)) or pytest.fail("the connection has ended")
    fields: dict[str, object] = json.loads(bytes(body).split(b"\n")[0])
    return fields


def test_a_storm_of_signals_tells_all_of_it(join: Join) -> None:
    (one, _), (_, at_two) = join(), join()
    handled = []

    def handler(*_: object) -> None:
        one.tell(said(f"signal:{len(handled)}"))
        handled.append(None)

    before = signal.signal(signal.SIGUSR1, handler)
    done = threading.Event()
    main = threading.get_ident()

    def storm() -> None:
        for _ in range(300):
            signal.pthread_kill(main, signal.SIGUSR1)
        done.set()

    thread = threading.Thread(target=storm)
    try:
        thread.start()
        told = 0
        while not done.is_set() and told < 20_000:
            one.tell(said(f"main:{told}"))
            told += 1
        thread.join(TIMEOUT)
    finally:
        signal.signal(signal.SIGUSR1, before)
    one.tell(said("end"))
    at_two.wait_for("end")
    lost = at_two.lost  # where the bus was not given the time to keep up
    assert len(at_two.notices) + lost == told + len(handled) + 1
    signals = at_two.texts("signal:")
    assert signals == sorted(signals, key=lambda text: int(text[7:]))


# --- the receiver --------------------------------------------------------------------------


def test_without_room_nothing_is_read_and_nothing_lost(join: Join) -> None:
    members = [join() for _ in range(3)]
    (one, at_one), (two, at_two), (three, _) = members
    at_one.has_room = False
    two.tell(said("two:0"))
    assert at_one.refused.wait(TIMEOUT)
    for i in range(1, 200):
        two.tell(said(f"two:{i}"))
        three.tell(said(f"three:{i}"))
    one.tell(said("from one"))  # it sends meanwhile
    at_two.wait_for("from one")
    assert at_one.notices == []
    late = join()[0]  # and meets newcomers
    late.tell(said("late"))
    at_one.has_room = True
    wait_until(lambda: len(at_one.notices) >= 400)
    assert at_one.texts("two:") == [f"two:{i}" for i in range(200)]
    assert at_one.texts("three:") == [f"three:{i}" for i in range(1, 200)]
    assert at_one.texts("late") == ["late"]
    assert at_one.lost == 0


def test_a_receiver_that_raises_is_logged_and_goes_on(
    join: Join, caplog: pytest.LogCaptureFixture
) -> None:
    (one, _), (_, at_two) = join(), join()
    at_two.fails = True
    for i in range(3):
        one.tell(said(i))
    one.tell(Notice(NoticeKind.PUBLISH, "a", (b"x" * MAX_FRAME_BYTES,)))
    wait_until(lambda: at_two.lost == 1)
    at_two.wait_for(2)
    assert at_two.texts() == ["0", "1", "2"]
    wait_until(lambda: caplog.text.count("the receiver of the backplane failed") == 4)


def test_what_the_thread_has_no_time_for_is_bounded_and_missed(directory: Path, join: Join) -> None:
    other, at_other = join()
    bus = LocalBackplane(directory)
    entered, goes_on = threading.Event(), threading.Event()

    class Slow(Heard):
        def receive(self, notice: Notice, source: str) -> bool:
            entered.set()
            return goes_on.wait(TIMEOUT)

    bus.open(Slow())
    everybody(other, bus)
    other.tell(said("wait"))
    assert entered.wait(TIMEOUT)
    text = "x" * MIB
    for _ in range(40):
        bus.tell(said(text))
    for _ in range(100):
        bus.tell(KEPT)
    lost = bus.stats().lost
    assert 40 - 17 <= lost <= 40 - 15
    goes_on.set()
    wait_until(lambda: at_other.lost == lost)
    assert at_other.notices == [said(text)] * (40 - lost) + [KEPT]
    bus.close(TIMEOUT)
    assert bus.stats() == BusStats(0, 40 - lost + 1, 1, lost)


def test_a_receiver_may_close_it(directory: Path, join: Join) -> None:
    one, _ = join()
    bus = LocalBackplane(directory)
    closed = threading.Event()

    class Closing(Heard):
        def receive(self, notice: Notice, source: str) -> bool:
            bus.close(TIMEOUT)
            closed.set()
            return True

    bus.open(Closing())
    wait_until(lambda: one.stats().peers == 1)
    one.tell(said("close"))
    assert closed.wait(TIMEOUT)
    wait_until(lambda: one.stats().peers == 0)


# --- peers against the rules ---------------------------------------------------------------


@pytest.mark.parametrize(
    "data",
    [
        b"GET / HTTP/1.1\r\n\r\n",
        struct.pack("!I", MAX_FRAME_BYTES + 1),
        struct.pack("!I", 0),
        struct.pack("!I", 3) + b"\xff\xfe\xfd",
        struct.pack("!I", 43) + b'{"v":2,"hello":"1-00000000.sock","n":1,"x":0}'[:43],
        frame(1, encode(KEPT)),
        hello(STRANGER, 5) + frame(4, encode(said("below"))),
        hello(STRANGER, 5) + hello("2-00000000.sock", 6),
        hello("../x.sock", 0),
        hello("/tmp/1-00000000.sock", 0),
    ],
    ids=[
        "http",
        "too large",
        "empty",
        "bytes",
        "version 2",
        "no hello",
        "number",
        "renamed",
        "outside",
        "absolute",
    ],
)
def test_a_peer_against_the_rules_is_closed_and_warned_of_once(
    join: Join, directory: Path, caplog: pytest.LogCaptureFixture, data: bytes
) -> None:
    caplog.set_level(logging.WARNING)
    join()
    name = only_socket(directory)
    (one, at_one) = join()
    for _ in range(3):
        with raw(directory, name) as sock:
            sock.sendall(data)
            with contextlib.suppress(ConnectionResetError):
                assert sock.recv(1) == b""
    one.tell(said("goes on"))
    warnings = [each for each in caplog.records if "closed the connection" in each.getMessage()]
    assert len(warnings) == 1
    assert at_one.notices == []


def test_a_hello_reaches_nothing_outside_the_directory(
    join: Join, directory: Path, folder: Path
) -> None:
    one, _ = join()
    name = only_socket(directory)
    with socket.socket(socket.AF_UNIX) as outside:
        outside.bind(str(folder / STRANGER))
        outside.listen()
        outside.setblocking(False)
        (directory / STRANGER).symlink_to(folder / STRANGER)
        for target in (f"../{STRANGER}", STRANGER):
            with raw(directory, name) as sock:
                sock.sendall(hello(target, 0) + struct.pack("!I", 0))
                with contextlib.suppress(ConnectionResetError):
                    assert sock.recv(1) == b""  # by then the hello is done with
        with pytest.raises(BlockingIOError):
            outside.accept()
    assert one.stats().peers == 0
    (directory / STRANGER).unlink()


@pytest.mark.skipif(not hasattr(socket, "send_fds"), reason="needs SCM_RIGHTS")
@pytest.mark.parametrize("shares", [True, False])
def test_a_descriptor_that_is_no_table_is_closed_and_its_peer_told_all(
    join: Join, directory: Path, shares: bool
) -> None:
    """Which are left over the conftest sees."""
    one, at_one = join()
    name, pipe = only_socket(directory), os.pipe()
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(f"{directory}/{STRANGER}")
        listener.listen()
        listener.settimeout(TIMEOUT)
        with raw(directory, name) as sock, raw(directory, name) as rude:
            socket.send_fds(rude, [b"\0"], [pipe[0]])  # and no hello
            first = hello(STRANGER, 0, shares=shares)
            socket.send_fds(sock, [first[:1]], list(pipe))
            sock.sendall(first[1:])
            theirs, _ = listener.accept()
            with theirs:
                theirs.settimeout(TIMEOUT)
                everybody(one, others=1)
                one.tell(said("for nobody"))
                assert "hello" in read_frame(theirs)
                assert read_frame(theirs)["kind"] == "user"
            sock.sendall(frame(1, encode(said("heard"))))
            at_one.wait_for("heard")
        os.unlink(f"{directory}/{STRANGER}")
    for each in pipe:
        os.close(each)


def test_numbers_that_were_left_out_are_missed(join: Join, directory: Path) -> None:
    one, at_one = join()
    with raw(directory, only_socket(directory)) as sock:
        sock.sendall(hello(STRANGER, 10) + frame(11, encode(said("first"))))
        sock.sendall(frame(14, encode(said("jump"))) + frame(14, encode(KEPT)))
        sock.sendall(frame(15, b',"kind":"of a newer version"}') + hello(STRANGER, 18))
        sock.sendall(frame(20, encode(KEPT)) + frame(21, encode(said("last"))))
        at_one.wait_for("last")
    assert at_one.texts() == ["first", "jump", "last"]
    assert at_one.lost == 2 + 3 + 2
    assert one.stats().lost == at_one.lost


def test_a_peer_that_connects_again_is_known_by_its_name(join: Join, directory: Path) -> None:
    _, at_one = join()
    name = only_socket(directory)
    (directory / STRANGER).touch()  # so that it is not forgotten by a look
    with raw(directory, name) as sock:
        sock.sendall(hello(STRANGER, 10) + struct.pack("!I", 0))
        with contextlib.suppress(ConnectionResetError):
            assert sock.recv(1) == b""
    with raw(directory, name) as sock:
        sock.sendall(hello(STRANGER, 13) + frame(14, encode(said("again"))))
        at_one.wait_for("again")
    assert at_one.lost == 3
    assert at_one.notices == [KEPT, said("again")]  # one of those may have been lost as well
    (directory / STRANGER).unlink()


# --- the directory -------------------------------------------------------------------------


def test_the_directory_is_made_for_this_user_alone(folder: Path) -> None:
    directory = folder / "a" / "b"
    bus = LocalBackplane(str(directory))
    bus.open(Heard())
    assert [stat.S_IMODE(path.stat().st_mode) for path in (directory, folder / "a")] == [0o700] * 2
    assert stat.S_IMODE((directory / only_socket(directory)).stat().st_mode) == 0o600
    bus.close(TIMEOUT)
    assert os.listdir(directory) == []
    assert bus.directory == directory
    assert repr(bus) == f"LocalBackplane({str(directory)!r})"


def refused(directory: Path, match: str) -> None:
    bus = LocalBackplane(directory)
    with pytest.raises(ConfigError, match=match):
        bus.open(Heard())
    bus.tell(said("nothing"))
    bus.close(0)


def test_a_directory_that_others_can_access_is_refused(directory: Path) -> None:
    directory.mkdir()
    directory.chmod(0o750)
    refused(directory, "mode 0750.*chmod 700")
    directory.chmod(0o700)
    bus = LocalBackplane(directory)
    bus.open(Heard())
    bus.close(TIMEOUT)


def test_a_symbolic_link_is_refused(folder: Path, directory: Path) -> None:
    (folder / "real").mkdir(mode=0o700)
    directory.symlink_to(folder / "real")
    refused(directory, "symbolic link")


def test_a_file_is_refused(folder: Path, directory: Path) -> None:
    directory.touch(mode=0o600)
    refused(directory, "is no directory")
    refused(directory / "below", "Not a directory")


def test_a_directory_of_another_user_is_refused(
    directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    directory.mkdir(mode=0o700)
    user = os.geteuid()
    monkeypatch.setattr(os, "geteuid", lambda: user + 1)
    refused(directory, "belongs to user")


def test_a_directory_in_which_nothing_can_be_made_is_refused(directory: Path) -> None:
    if os.geteuid() == 0:
        refused(Path("/proc/self/bus"), "may make files")
    else:
        directory.mkdir(mode=0o500)
        refused(directory, "may make files")


def test_a_path_that_is_too_long_is_refused(folder: Path) -> None:
    directory = folder / ("x" * 100)
    refused(directory, r"has \d{3} bytes.*107.*shorter")
    assert not directory.exists()


def test_a_system_without_unix_sockets_is_refused(
    directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delattr(socket, "AF_UNIX")
    refused(directory, "needs Unix sockets")


@pytest.mark.parametrize("path", [None, 7, "", b"/tmp/bus"])
def test_what_is_no_path_is_refused(path: object) -> None:
    with pytest.raises(TypeError, match="takes the path of a directory"):
        LocalBackplane(path)  # type: ignore[arg-type]


def test_a_path_with_a_nul_is_refused() -> None:
    with pytest.raises(ConfigError, match="no path"):
        LocalBackplane("/tmp/a\0b")


def test_one_that_is_open_is_not_opened_again(directory: Path) -> None:
    bus = LocalBackplane(directory)
    bus.open(Heard())
    with pytest.raises(ConfigError, match="in use by another hub"):
        bus.open(Heard())
    bus.close(TIMEOUT)


def test_a_dead_processs_socket_is_removed_and_nothing_else(join: Join, directory: Path) -> None:
    directory.mkdir(mode=0o700)
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(directory / STRANGER))
        dead.listen()
    (directory / "notes").touch()
    (directory / "2-00000000.sock").touch()  # no socket
    join()
    names = sorted(name for name in os.listdir(directory) if not name.startswith(f"{os.getpid()}-"))
    assert names == ["2-00000000.sock", "notes"]


def test_a_directory_that_was_removed_is_made_anew(
    join: Join,
    directory: Path,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(exchange, "LOOK_EVERY", 0.1)
    caplog.set_level(logging.WARNING)
    (one, at_one), (two, at_two) = join(), join()
    names = set(os.listdir(directory))
    shutil.rmtree(directory)
    one.tell(said("still"))
    at_two.wait_for("still")
    wait_until(lambda: directory.is_dir() and set(os.listdir(directory)) == names)
    assert stat.S_IMODE(directory.stat().st_mode) == 0o700
    three, _ = join()
    three.tell(said("new"))
    at_one.wait_for("new")
    two.tell(said("on"))
    at_one.wait_for("on")
    assert at_one.lost == at_two.lost == 0
    assert caplog.text.count("is gone: making it anew") == 2  # once for each


def test_a_directory_that_cannot_be_made_anew_is_tried_again(
    join: Join,
    directory: Path,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(exchange, "LOOK_EVERY", 0.1)
    caplog.set_level(logging.WARNING)
    (one, _), (_, at_two) = join(), join()
    shutil.rmtree(directory)
    directory.symlink_to("/nowhere")
    wait_until(lambda: caplog.text.count("is a symbolic link") == 2)
    one.tell(said("still"))
    at_two.wait_for("still")
    directory.unlink()
    three, _ = join()
    three.tell(said("new"))
    at_two.wait_for("new")
    assert caplog.text.count("is gone: making it anew") == 2


def test_a_system_without_descriptors_is_tried_again(
    join: Join, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(exchange, "LOOK_EVERY", 0.1)
    caplog.set_level(logging.WARNING)
    accept = socket.socket.accept
    faults = [OSError(errno.EMFILE, os.strerror(errno.EMFILE)) for _ in range(3)]

    def failing(sock: socket.socket) -> tuple[socket.socket, object]:
        if faults:
            raise faults.pop()
        return accept(sock)

    monkeypatch.setattr(socket.socket, "accept", failing)
    (one, _), (_, at_two) = join(), join()
    one.tell(said("on"))
    at_two.wait_for("on")
    assert not faults
    assert 1 <= caplog.text.count("cannot accept a connection") <= 2


def test_a_fault_of_its_own_is_logged_and_it_goes_on(
    join: Join, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    (one, _), (_, at_two) = join(), join()

    def failing(body: bytes) -> Hello | Numbered:
        if b"fault" in body:
            raise RuntimeError("nobody expects it")
        return decode(body)

    monkeypatch.setattr(exchange, "decode", failing)
    one.tell(said("fault"))
    wait_until(lambda: "nobody expects it" in caplog.text)
    one.tell(said("on"))
    at_two.wait_for("on")
    assert (at_two.texts(), at_two.lost) == (["on"], 1)


def test_a_process_of_another_user_is_refused(
    directory: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    caplog.set_level(logging.WARNING)
    one, two = LocalBackplane(directory), LocalBackplane(directory)
    one.open(Heard())
    monkeypatch.setattr(exchange, "peer_of", lambda sock: (7, False))
    monkeypatch.setattr(socket_directory, "peer_of", lambda sock: (7, False))
    two.open(Heard())
    wait_until(lambda: "refused process 7: it is of another user" in caplog.text)
    assert one.stats().peers == two.stats().peers == 0
    one.close(TIMEOUT)
    two.close(TIMEOUT)


# --- the end -------------------------------------------------------------------------------


def test_close_writes_what_was_told(join: Join) -> None:
    (one, _), (_, at_two) = join(), join()
    for i in range(2000):
        one.tell(said(f"{i}:" + "x" * 1000))
    one.close(TIMEOUT)
    wait_until(lambda: len(at_two.notices) >= 2000)
    assert [text.partition(":")[0] for text in at_two.texts()] == [str(i) for i in range(2000)]
    assert at_two.lost == one.stats().lost == 0


def test_close_ends_without_time_and_with_a_peer_without_room(join: Join) -> None:
    (one, _), (_, at_two) = join(), join()
    at_two.has_room = False
    for _ in range(100):
        one.tell(said("x" * 50_000))
    assert at_two.refused.wait(TIMEOUT)
    one.close(0)
    assert one.stats().lost > 0
    at_two.has_room = True


def test_close_is_idempotent_and_it_can_be_opened_again(join: Join, directory: Path) -> None:
    (one, _), (two, at_two) = join(), join()
    one.close(TIMEOUT)
    one.close(TIMEOUT)
    one.tell(said("nobody"))
    wait_until(lambda: two.stats().peers == 0)
    heard = Heard()
    one.open(heard)
    everybody(one, two)
    one.tell(said("again"))
    two.tell(said("back"))
    at_two.wait_for("again")
    heard.wait_for("back")
    assert at_two.texts() == ["again"]
    assert at_two.lost == 0
    assert len(os.listdir(directory)) == 2


# --- other processes -----------------------------------------------------------------------

PEER = """
import sys, threading
from ws_hub.backplane.bus import Notice, NoticeKind
from ws_hub.backplane.local import LocalBackplane

class Heard:
    count = lost = 0
    def receive(self, notice, source):
        self.count += 1
        if notice.kind is NoticeKind.DISCONNECT:
            bus.tell(Notice(NoticeKind.PUBLISH, "a", (notice.name.encode(),)))
        if notice.texts == (b'"report"',):
            text = f"{self.count} {self.lost}".encode()
            bus.tell(Notice(NoticeKind.PUBLISH, "a", (text,)))
        return True
    def missed(self, count):
        self.lost += count
    def left(self):
        pass
    def gone(self, source):
        pass

bus = LocalBackplane(sys.argv[1])
bus.open(Heard())
print("open", flush=True)
sys.stdin.read()
bus.close(10)
"""


@contextlib.contextmanager
def peer_process(directory: Path) -> Iterator[subprocess.Popen[str]]:
    """Another process with a backplane in the directory."""
    with subprocess.Popen(
        [sys.executable, "-c", PEER, str(directory)],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == "open\n"
            yield process
        finally:
            process.kill()


def test_a_killed_process_is_forgotten(
    join: Join, directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(exchange, "LOOK_EVERY", 0.1)
    (one, at_one), (two, at_two) = join(), join()
    with peer_process(directory) as process:
        everybody(one, two, others=1)
        (name,) = [each for each in os.listdir(directory) if each.startswith(f"{process.pid}-")]
        process.kill()
        process.wait(TIMEOUT)
        everybody(one, two)
        one.tell(said("on"))
        at_two.wait_for("on")
        wait_until(lambda: not (directory / name).exists(), what="the file to be removed")
        wait_until(lambda: at_one.ended == at_two.ended == {name}, what="its end to be told")


def test_a_stopped_process_learns_what_it_missed(join: Join, directory: Path) -> None:
    (one, at_one), (two, at_two) = join(), join()
    with peer_process(directory) as process:
        everybody(one, two, others=1)
        process.send_signal(signal.SIGSTOP)
        try:
            for i in range(40):
                for _ in range(10):
                    one.tell(said("x" * 100_000))
                one.tell(said(f"mark {i}"))
                at_two.wait_for(f"mark {i}")  # in step with one that reads
            assert one.stats().lost > 0
            assert at_two.lost == 0
            one.tell(Notice(NoticeKind.DISCONNECT, "bob"))  # has room whatever waits
        finally:
            process.send_signal(signal.SIGCONT)
        lost = one.stats().lost
        wait_until(lambda: one.stats().told == 2 * 441 - lost)
        one.tell(said('"report"'))
        wait_until(lambda: len(at_one.texts()) == 2)
        assert at_one.texts() == ["bob", f"{441 - lost + 1} {lost}"]
        assert one.stats().lost == lost


def test_a_process_that_ends_leaves_nothing(join: Join, directory: Path) -> None:
    one, _ = join()
    with peer_process(directory) as process:
        everybody(one, others=1)
        process.communicate(timeout=TIMEOUT)
        everybody(one)
        assert len(os.listdir(directory)) == 1


# Not in the process of the tests: a tracer or a logger may hold a lock there when it forks.
FORK = """
import os, sys, threading
from ws_hub.backplane import exchange, socket_directory
from ws_hub.backplane.bus import BusStats, Notice, NoticeKind
from ws_hub.backplane.local import LocalBackplane

class Heard:
    def __init__(self):
        self.came = {}
        self.condition = threading.Condition()
    def receive(self, notice, source):
        with self.condition:
            self.came[notice.texts[0]] = True
            self.condition.notify_all()
        return True
    def missed(self, count):
        os._exit(3)
    def left(self):
        pass
    def gone(self, source):
        pass
    def wait_for(self, text):
        with self.condition:
            assert self.condition.wait_for(lambda: text in self.came, 30), (os.getpid(), text)

def say(bus, text):
    bus.tell(Notice(NoticeKind.PUBLISH, "a", (text,)))

def sockets():
    links = []
    for fd in os.listdir("/proc/self/fd"):
        try:
            links.append(os.readlink(f"/proc/self/fd/{fd}"))
        except OSError:
            pass
    return [link for link in links if link.startswith("socket:") or "eventpoll" in link]

first, second = LocalBackplane(sys.argv[1]), LocalBackplane(sys.argv[1])
at_first, at_second = Heard(), Heard()
first.open(at_first)
second.open(at_second)
while first.stats().peers + second.stats().peers < 2:
    threading.Event().wait(0.01)
say(first, b'"before"')
at_second.wait_for(b'"before"')
names = set(os.listdir(sys.argv[1]))
pid = os.fork()
if pid == 0:
    try:
        assert not sockets(), sockets()
        assert first.stats() == BusStats()
        first.tell(Notice(NoticeKind.KEPT))
        second.close(1)
        assert set(os.listdir(sys.argv[1])) == names
        heard = Heard()
        first.open(heard)
        while first.stats().peers < 2:
            threading.Event().wait(0.01)
        say(first, b'"child"')
        heard.wait_for(b'"parent"')
        first.close(10)
        os._exit(0)
    except BaseException as error:
        print(repr(error), file=sys.stderr, flush=True)
        os._exit(1)
at_first.wait_for(b'"child"')
at_second.wait_for(b'"child"')
while second.stats().peers < 2:
    threading.Event().wait(0.01)
say(second, b'"parent"')
at_first.wait_for(b'"parent"')
assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
say(first, b'"after"')
at_second.wait_for(b'"after"')
first.close(10)
second.close(10)
assert os.listdir(sys.argv[1]) == []
"""


def test_a_forked_child_opens_its_own_and_the_parent_goes_on(directory: Path) -> None:
    run = subprocess.run(
        [sys.executable, "-W", "ignore::DeprecationWarning", "-c", FORK, str(directory)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert (run.returncode, run.stderr) == (0, "")


def test_no_descriptor_is_left_to_another_program(join: Join) -> None:
    before = inheritable()
    join(), join()
    assert inheritable() == before


def inheritable() -> set[int]:
    found = set()
    for name in os.listdir("/proc/self/fd"):
        with contextlib.suppress(OSError):
            if os.get_inheritable(int(name)):
                found.add(int(name))
    return found
