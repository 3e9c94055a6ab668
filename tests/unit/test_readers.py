"""For how long a connection that had a thread keeps it."""

from __future__ import annotations

import select
import socket
import time
from types import SimpleNamespace
from typing import Any

import pytest

from ws_hub.connection.reader import Reader
from ws_hub.connection.readers import Readers


class Parking(Readers):
    """Readers that take back whatever they are given."""

    def park(self, reader: Reader) -> bool:
        return True


class Quiet:
    """A reader whose peer sends nothing, but at the turns that are given."""

    over = has_only_begun = False

    def __init__(self, *heard: int) -> None:
        self.connection: Any = SimpleNamespace(id=1, transport=SimpleNamespace(is_settled=True))
        self.turns = 0
        self._heard = heard

    def turn(self, timeout: float) -> bool:
        self.turns += 1
        return self.turns in self._heard


def kept(readers: Readers, *heard: int) -> int:
    """Return for how many turns a reader kept its thread."""
    reader: Any = Quiet(*heard)
    readers.keep(reader)
    return int(reader.turns)


def test_a_client_that_is_quiet_gives_its_thread_back() -> None:
    assert kept(Parking()) == 1
    assert kept(Parking(), 1, 2) == 3


def test_a_client_keeps_its_thread_for_longer_while_callbacks_wait() -> None:
    readers = Parking()
    readers.after_call(0.0005)
    readers.after_call(0.002)
    readers.after_call(0.002)
    assert kept(readers) == 1
    readers.after_call(0.002)  # the third in a row
    assert kept(readers) == 10
    assert kept(readers, 9) == 19
    lately = Parking()
    lately.after_call(0.02)  # one that is long
    assert kept(lately) == 10


@pytest.mark.skipif(not hasattr(select, "epoll"), reason="no epoll here")
def test_a_reader_for_which_all_comes_at_once_is_returned_once() -> None:
    """Another thread may keep it from its first turn on."""
    readers = Readers()
    near, far = socket.socketpair()
    reader: Any = Quiet()
    reader.due, reader.look_at, reader.noticed = time.monotonic(), 0.0, 0.0
    reader.connection.transport.fileno = near.fileno
    reader.connection.transport.is_plain = True
    reader.connection.is_pending = reader.connection.is_decided = True
    with near, far:
        assert readers.takes(reader.connection.transport)
        far.send(b"x")
        assert readers.park(reader)
        readers.look(near.fileno())
        assert readers.wait() == [reader]
        assert reader.noticed >= reader.due
        readers.part(reader)
        readers.look(near.fileno())  # which is nobody's
        readers.close()
