"""What is followed, at every interleaving of requests, answers, losses and reconnects."""

from __future__ import annotations

import json
import random

import pytest

from tests.wire_model import Json, Outcome, Trial
from ws_hub.protocol.message import Message, decode, encode
from ws_hub.reconnect.subscriptions import Start, Subscriptions, Verdict


class PythonClient:
    """A Subscriptions as its owner drives it; one message in ten finds no room.

    Args:
        room: draws whether there is room.
    """

    def __init__(self, room: random.Random) -> None:
        self._room = room
        self._subscriptions = Subscriptions()
        self._connected = False

    def subscribe(self, channel: str, position: Json) -> Outcome:
        requests = self._subscriptions.add(channel, Start(**position))
        return Outcome(sent=self._sent(requests))

    def unsubscribe(self, channel: str) -> Outcome:
        request = self._subscriptions.remove(channel)
        return Outcome(sent=self._sent([] if request is None else [request]))

    def connect(self) -> Outcome:
        self._connected = True
        return Outcome(sent=self._sent(self._subscriptions.open()))

    def receive(self, messages: list[Json]) -> Outcome:
        outcome = Outcome()
        for each in messages:
            message = decode(json.dumps(each))
            verdict = self._subscriptions.take(message)
            self._add(verdict, outcome)
            if verdict.deliver:
                if self._room.random() < 0.1:
                    self._subscriptions.refused(message)
                else:
                    outcome.messages.append(each)
        return outcome

    def relieve(self) -> Outcome:
        outcome = Outcome()
        self._add(self._subscriptions.catch_up(), outcome)
        outcome.sent += self._sent(self._subscriptions.retry())
        return outcome

    def _add(self, verdict: Verdict, outcome: Outcome) -> None:
        outcome.sent += self._sent(verdict.send)
        outcome.lost += [(each.channel, each.count) for each in verdict.lost]

    def _sent(self, requests: list[Message]) -> list[Json]:
        return [json.loads(encode(each)) for each in requests] if self._connected else []


class Always(random.Random):
    """There is always room."""

    def random(self) -> float:
        return 1.0


@pytest.mark.parametrize("seed", range(300))
def test_fault_93_each_message_comes_once_in_order_and_for_the_newest_subscription(
    seed: int,
) -> None:
    Trial(seed, PythonClient(random.Random(seed))).run()


@pytest.mark.parametrize("seed", range(100))
def test_fault_93_a_go_hub_which_answers_nothing_is_followed_all_the_same(seed: int) -> None:
    Trial(seed, PythonClient(Always()), go=True).run()
