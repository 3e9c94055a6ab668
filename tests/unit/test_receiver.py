"""What comes in, until it ends: on a transport and a clock of the test's."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from tests.delivery import receive
from ws_hub.config import HubConfig
from ws_hub.connection import receiver
from ws_hub.connection.reader import Reader
from ws_hub.connection.receiver import End
from ws_hub.connection.transport import Closed, Event, Ponged, Text


class Line:
    """A transport that gives what it was told to, after so many seconds each time."""

    def __init__(self, *script: tuple[float, list[Event] | None]) -> None:
        self.now = 100.0
        self._script = list(script)

    def receive(self, timeout: float) -> list[Event] | None:
        seconds, events = self._script.pop(0)
        self.now += seconds
        return events


class Silent:
    """A sender that has nothing acknowledged, or so many times more something."""

    def __init__(self, acknowledged: int = 0) -> None:
        self.acknowledged = acknowledged

    def answer_close(self, code: int) -> bool:
        return True

    def is_acknowledged(self, timeout: float) -> bool:
        self.acknowledged -= 1
        return self.acknowledged >= 0


def end_of(line: Line, monkeypatch: pytest.MonkeyPatch, acknowledged: int = 0) -> End:
    sender: Any = Silent(acknowledged)
    transport: Any = line
    monkeypatch.setattr(receiver.time, "monotonic", lambda: line.now)
    return receive(
        transport,
        sender,
        HubConfig(pong_timeout=60),
        received=lambda data: None,
        charge=lambda now, seconds, messages, controls: 0.0,
        count=lambda name: None,
    )


def test_silence_ends_the_connection_and_is_a_fault(monkeypatch: pytest.MonkeyPatch) -> None:
    text = "pong timeout: nothing received for 60 s"
    assert end_of(Line((60.2, None)), monkeypatch) == End(1006, text, text)


def test_fault_124_bytes_that_the_peers_kernel_acknowledges_are_a_sign_of_life(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    text = "pong timeout: nothing received for 60 s"
    silences = [(60.2, None)] * 4
    assert end_of(Line(*silences), monkeypatch, acknowledged=3) == End(1006, text, text)


def test_fault_34_after_a_suspension_the_peer_has_time_to_answer(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # Twice, and then the peer has answered, and leaves.
    line = Line((3600, None), (62, None), (1, []), (1, [Closed(1000, "bye")]))
    assert end_of(line, monkeypatch) == End(1000, "bye")


def test_fault_34_a_lost_peer_is_found_after_a_suspension(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert end_of(Line((3600, None), (60, None)), monkeypatch).code == 1006


def test_after_messages_it_gives_way_to_other_readers(monkeypatch: pytest.MonkeyPatch) -> None:
    ways: list[float] = []
    line = Line((1, [Text("a"), Text("b")]), (1, [Ponged()]), (1, []), (1, [Closed(1000, "")]))
    monkeypatch.setattr(receiver.threads, "yield_gil", lambda: ways.append(line.now))
    assert end_of(line, monkeypatch) == End(1000, "")
    assert ways == [101.0]


def test_silence_is_judged_by_when_it_was_seen_and_not_by_when_there_was_time_for_it() -> None:
    judged: list[tuple[float, float]] = []

    class Quiet:
        def turn(self, timeout: float) -> bool:
            return False

        def judge_silence(self, since: float, noticed: float) -> None:
            judged.append((since, noticed))

    connection: Any = SimpleNamespace(new_client=lambda: None, receiver=Quiet, is_pending=False)
    reader = Reader(connection, 1.0, 10.0)
    reader.due, reader.noticed = 10.0, 10.5  # many others came first
    assert not reader.turn(0.0)
    assert judged == [(9.0, 10.5)] and not reader.noticed
