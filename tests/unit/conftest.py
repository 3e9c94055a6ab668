"""The hub of tests of what publishes: one that only remembers, stopped in the end."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.recorder import Recorder


@pytest.fixture
def hub() -> Iterator[Recorder]:
    made = Recorder()
    yield made
    made.stop()
