"""A connection taken out of a server's hands: the server keeps a throw-away."""

from __future__ import annotations

import contextlib
import errno
import os
import resource
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.integration.apps.live import at_once
from tests.support import reset, small_pair, tcp_pair
from ws_hub.connection import adoption
from ws_hub.connection.adoption import adopt, dismiss, leave
from ws_hub.errors import AdoptionError
from ws_hub.testing.leaks import open_files


def test_the_adopted_socket_is_the_connection() -> None:
    with tcp_pair() as (server, peer):
        ours, replacement = adopt(server.fileno())
        with ours:
            ours.sendall(b"from us")
            assert peer.recv(100) == b"from us"
            peer.sendall(b"to us")
            ours.settimeout(5)
            assert ours.recv(100) == b"to us"
            assert ours.getpeername() == peer.getsockname()
        replacement.release()


def test_what_the_server_writes_does_not_reach_the_peer() -> None:
    with tcp_pair() as (server, peer):
        ours, replacement = adopt(server.fileno())
        with ours:
            server.sendall(b"HTTP/1.1 200 OK\r\n\r\n")
            server.shutdown(socket.SHUT_RDWR)
            server.close()
            replacement.release()
            ours.sendall(b"marker")
            assert peer.recv(100) == b"marker"


def test_end_input_ends_the_servers_reads() -> None:
    with tcp_pair() as (server, _):
        ours, replacement = adopt(server.fileno())
        with ours:
            server.setblocking(False)
            with pytest.raises(BlockingIOError):
                server.recv(1)
            replacement.end_input()
            assert server.recv(1) == b""
            server.sendall(b"still taken")
        replacement.release()


def test_release_ends_the_servers_connection() -> None:
    with tcp_pair() as (server, _):
        ours, replacement = adopt(server.fileno())
        replacement.release()
        replacement.release()
        with ours:
            assert server.recv(1) == b""
            with pytest.raises(BrokenPipeError):
                server.send(b"x")


@pytest.fixture(scope="module")
def broken() -> None:
    """Have the process made what all broken replacements share, which it keeps."""
    with small_pair() as (server, _):
        leave(server.fileno(), broken=True)


@pytest.mark.usefixtures("broken")
def test_a_broken_replacement_costs_nothing_and_fails_the_servers_writes() -> None:
    with tcp_pair() as (server, peer), tcp_pair() as (another, _):
        before = open_files()
        ours, replacement = adopt(server.fileno(), broken=True)
        with ours:
            assert len(open_files()) == len(before) + 1
            replacement.end_input()
            replacement.release()
            leave(another.fileno(), broken=True)
            for each in (server, another):
                with pytest.raises(BrokenPipeError):
                    each.send(b"HTTP/1.1 101 Switching Protocols\r\n\r\n")
                with contextlib.suppress(ConnectionError):
                    assert each.recv(1) == b""
            assert not os.get_inheritable(server.fileno())
            server.shutdown(socket.SHUT_RDWR)  # of what both of them have
            server.close()
            with pytest.raises(BrokenPipeError):
                another.send(b"x")
            ours.sendall(b"marker")
            assert peer.recv(100) == b"marker"


@pytest.mark.usefixtures("broken")
def test_a_refused_connection_is_broken_for_a_server_that_expects_that() -> None:
    with tcp_pair() as (server, peer):
        peer.shutdown(socket.SHUT_WR)
        replacement = dismiss(server, b"HTTP/1.1 403 Forbidden\r\n\r\n", broken=True)
        assert replacement is not None
        assert peer.recv(100) == b"HTTP/1.1 403 Forbidden\r\n\r\n"
        assert peer.recv(1) == b""
        with pytest.raises(BrokenPipeError):
            server.send(b"x")
        replacement.release()


def test_the_blocking_mode_of_the_server_is_not_shared() -> None:
    with tcp_pair() as (server, _):
        ours, replacement = adopt(server.fileno())
        with ours:
            ours.setblocking(True)
            server.setblocking(False)
            assert os.get_blocking(ours.fileno())
        replacement.release()


def test_a_unix_socket_can_be_adopted_too() -> None:
    with small_pair() as (server, peer):
        ours, replacement = adopt(server.fileno())
        with ours:
            ours.sendall(b"x")
            assert peer.recv(1) == b"x"
        replacement.release()


def test_an_adopted_socket_is_not_inherited_by_programs() -> None:
    with small_pair() as (server, _):
        ours, replacement = adopt(server.fileno())
        with ours:
            assert not ours.get_inheritable()
            assert not os.get_inheritable(server.fileno())
        replacement.release()


def test_a_closed_descriptor_is_refused() -> None:
    with pytest.raises(AdoptionError, match="not a socket"):
        adopt(-1)


def test_a_descriptor_that_is_no_socket_is_refused_and_none_is_left_open(tmp_path: Path) -> None:
    with open(tmp_path / "file", "wb") as file:
        before = open_files()
        with pytest.raises(AdoptionError, match="not a socket"):
            adopt(file.fileno())
        assert open_files() == before


def test_a_datagram_socket_is_refused_and_stays_what_it_is() -> None:
    near, far = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    with near, far:
        before = open_files()
        with pytest.raises(AdoptionError, match="not a stream socket"):
            adopt(near.fileno())
        assert open_files() == before
        near.send(b"x")
        assert far.recv(10) == b"x"


def test_a_failing_swap_leaves_the_server_its_connection(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(fd: int, *, broken: bool) -> object:
        raise OSError("too many open files")

    monkeypatch.setattr(adoption, "leave", refuse)
    with tcp_pair() as (server, peer):
        before = open_files()
        with pytest.raises(OSError, match="too many"):
            adopt(server.fileno())
        assert open_files() == before
        server.sendall(b"HTTP/1.1 500")
        assert peer.recv(100) == b"HTTP/1.1 500"


def test_a_swap_that_fails_leaves_no_descriptor_open() -> None:
    before = open_files()
    with pytest.raises(OSError):
        leave(-1)
    assert open_files() == before


def test_leave_without_adopt_ends_the_connection() -> None:
    with tcp_pair() as (server, peer):
        replacement = leave(server.fileno())
        assert peer.recv(1) == b""
        with contextlib.closing(server):
            server.sendall(b"into nothing")
        replacement.release()


@pytest.mark.parametrize(("limit", "most"), [(1024, 991), (40, 29), (3, 2), (-1, 10**9)])
def test_fault_43_connections_leave_the_last_descriptors(
    monkeypatch: pytest.MonkeyPatch, limit: int, most: int
) -> None:
    monkeypatch.setattr(adoption.resource, "getrlimit", lambda _: (limit, limit))
    adoption.check_spare(most)
    if limit > 0:
        with pytest.raises(OSError, match="Too many open files"):
            adoption.check_spare(most + 1)


def test_fault_43_a_server_keeps_the_connection_that_it_has_to_refuse(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    before = open_files()
    with tcp_pair() as (server, peer):
        monkeypatch.setattr(adoption.resource, "getrlimit", lambda _: (3, 3))
        with pytest.raises(OSError, match="Too many open files"):
            adopt(server.fileno())
        peer.sendall(b"x")
        assert server.recv(1) == b"x"
    assert open_files() == before


def test_fault_43_an_exhausted_descriptor_table_is_an_oserror(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def none_left(fd: int) -> int:
        raise OSError(errno.EMFILE, "Too many open files")

    with tcp_pair() as (server, _):
        monkeypatch.setattr(os, "dup", none_left)
        with pytest.raises(OSError, match="Too many open files") as caught:
            adopt(server.fileno())
        assert not isinstance(caught.value, AdoptionError)


def test_without_a_descriptor_limit_none_are_reserved(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(adoption, "resource", None)
    adoption.check_spare(10**9)


# --- a connection that is answered and ended ------------------------------------------------


def test_fault_122_a_dismissed_peer_reads_the_answer_and_the_end() -> None:
    with tcp_pair() as (server, peer):
        peer.sendall(b"GET /admin HTTP/1.1\r\n\r\n")
        peer.shutdown(socket.SHUT_WR)
        replacement = dismiss(server, b"HTTP/1.1 403 Forbidden\r\n\r\n")
        assert replacement is not None
        assert peer.recv(100) == b"HTTP/1.1 403 Forbidden\r\n\r\n"
        assert peer.recv(100) == b""
        server.sendall(b"the server's own answer")
        assert server.recv(100) == b""  # nothing of what was behind the request
        replacement.release()


def test_fault_122_a_dismissed_peer_that_keeps_sending_is_read_within_bounds() -> None:
    sent = [0]
    with tcp_pair() as (server, peer):
        server.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 18)
        peer.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 18)

        def send() -> None:
            peer.sendall(b"x" * 100_000)
            assert peer.recv(100) == b"no"
            with contextlib.suppress(ConnectionError):  # reset: it was not all read
                while True:
                    sent[0] += peer.send(b"x" * 10_000)

        with at_once(send):
            replacement = dismiss(server, b"no")
        assert replacement is not None
        assert sent[0] < 8_000_000  # most of it is in the kernel
        assert server.recv(100) == b""
        replacement.release()


@pytest.mark.parametrize("patience", [None, 3.0])
def test_fault_122_a_dismissed_peer_that_has_disconnected_is_no_error(
    patience: float | None,
) -> None:
    with tcp_pair() as (server, peer):
        server.settimeout(patience)
        reset(peer)
        replacement = dismiss(server, b"no")
        assert replacement is not None
        assert server.recv(100) == b""
        assert server.gettimeout() == patience
        replacement.release()


def test_fault_122_without_descriptors_the_server_meets_the_end_itself() -> None:
    with tcp_pair() as (server, peer), no_more_descriptors():
        peer.sendall(b"GET /admin HTTP/1.1\r\n\r\n" * 5000)
        assert dismiss(server, b"HTTP/1.1 503") is None
        assert peer.recv(100) == b"HTTP/1.1 503"
        with contextlib.suppress(ConnectionError):
            assert server.recv(100) == b""
        with pytest.raises(OSError):
            server.sendall(b"the server's own answer")


@contextlib.contextmanager
def no_more_descriptors() -> Iterator[None]:
    """Give the process as many descriptors as it has."""
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    probe = os.open(os.devnull, os.O_RDONLY)  # the lowest that is free
    os.close(probe)
    resource.setrlimit(resource.RLIMIT_NOFILE, (probe, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)
