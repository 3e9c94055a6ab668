"""The bounds of a program's time, without a program or a clock."""

from __future__ import annotations

from typing import Any

import pytest

from ws_hub.errors import ConfigError
from ws_hub.process.terms import Terms, Watch


@pytest.mark.parametrize("name", ["timeout", "idle_timeout", "grace"])
@pytest.mark.parametrize("value", [0, -1, float("nan"), float("inf"), "5", True, 1e7])
def test_a_bound_that_is_no_positive_number_of_seconds_is_refused(name: str, value: Any) -> None:
    with pytest.raises(ConfigError, match=f"^{name} must be "):
        Terms(**{name: value})


@pytest.mark.parametrize("value", [0, -1, 1.0, "1", True])
def test_an_attempt_is_a_whole_number_from_1(value: Any) -> None:
    with pytest.raises(ConfigError, match="^attempt must be a whole number from 1"):
        Terms(attempt=value)


def test_without_bounds_nothing_expires() -> None:
    watch = Watch(Terms(), 100.0)
    assert watch.due() is None
    assert watch.expired(1e9, reading=True) == ""


def test_timeout_is_counted_from_the_start_whatever_is_printed() -> None:
    watch = Watch(Terms(timeout=10.0), 100.0)
    watch.touch(109.0)
    assert watch.due() == 110.0
    assert watch.expired(109.9, reading=True) == ""
    assert watch.expired(110.0, reading=False) == "timeout"


def test_idle_timeout_is_counted_from_the_last_output_and_only_while_reading() -> None:
    watch = Watch(Terms(timeout=60.0, idle_timeout=5.0), 100.0)
    assert watch.due() == 105.0
    watch.touch(103.0)
    assert watch.due() == 108.0
    assert watch.expired(108.0, reading=False) == ""
    assert watch.expired(108.0, reading=True) == "idle_timeout"
    watch.disarm()
    assert watch.due() is None
    assert watch.expired(1e9, reading=True) == ""
