"""The idempotency keys that a hub keeps: what counts once, and the bounds."""

from __future__ import annotations

import threading

import pytest

from tests.harness import Clock
from tests.support import TIMEOUT
from ws_hub.hub.recent_keys import RecentKeys

KEY = ("ann", "open", "k")


def test_a_key_is_carried_out_once_and_again_after_a_failure() -> None:
    keys = RecentKeys()
    first = keys.begin("p", KEY, 0)
    assert first is not None
    keys.end(first, False)
    second = keys.begin("p", KEY, 0)
    assert second is not None
    keys.end(second, True)
    assert keys.begin("p", KEY, 0) is None


@pytest.mark.parametrize("other", [("bob", "open", "k"), ("ann", "b", "k"), ("ann", "open", "l")])
def test_another_user_channel_or_key_is_another_publish(other: tuple[str, str, str]) -> None:
    keys = RecentKeys()
    for key in (KEY, other):
        claim = keys.begin("p", key, 0)
        assert claim is not None
        keys.end(claim, True)


@pytest.mark.parametrize("carried_out", [True, False])
def test_a_repetition_waits_for_the_attempt_that_is_under_way(carried_out: bool) -> None:
    keys = RecentKeys()
    claim = keys.begin("p", KEY, 0)
    assert claim is not None
    found: list[object] = []
    thread = threading.Thread(target=lambda: found.append(keys.begin("q", KEY, TIMEOUT)))
    thread.start()
    keys.end(claim, carried_out)
    thread.join(TIMEOUT)
    assert (found == [None]) is carried_out


def test_a_repetition_gives_up_when_the_outcome_stays_unknown() -> None:
    keys = RecentKeys()
    assert keys.begin("p", KEY, 0) is not None
    with pytest.raises(TimeoutError):
        keys.begin("p", KEY, 0.01)


def test_a_payer_that_publishes_much_forgets_its_own_keys_only() -> None:
    keys = RecentKeys()
    other = keys.begin("other", KEY, 0)
    assert other is not None
    keys.end(other, True)
    for number in range(2000):
        claim = keys.begin("p", ("", "open", str(number)), 0)
        assert claim is not None
        keys.end(claim, True)
    assert len(keys) == 1025
    assert keys.begin("other", KEY, 0) is None
    assert keys.begin("p", ("", "open", "1999"), 0) is None
    assert keys.begin("p", ("", "open", "900"), 0) is not None


def test_the_number_and_the_bytes_of_all_keys_are_bounded() -> None:
    keys = RecentKeys()
    for number in range(70_000):
        keys.begin(str(number // 1000), ("", "open", str(number)), 0)
    assert len(keys) <= 65_536
    for number in range(70_000):
        keys.begin(f"u{number // 1000}", ("u" * 400, "c" * 256, str(number)), 0)
    assert len(keys) < 30_000


def test_keys_are_forgotten_by_age() -> None:
    clock = Clock()
    keys = RecentKeys(lambda: clock.now)
    for name in "ab":
        claim = keys.begin("p", ("", "open", name), 0)
        assert claim is not None
        keys.end(claim, True)
    clock.advance(301)
    assert keys.begin("q", ("", "open", "a"), 0) is not None
    assert len(keys) == 1
