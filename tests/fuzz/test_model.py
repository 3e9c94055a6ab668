"""The model in brief; `make fuzz` asks it for longer."""

from __future__ import annotations

from hypothesis import Phase, settings

from tests.fuzz.model import HubMachine

TestHub = HubMachine.TestCase
# Threads do not do the same twice: a failure is shown as it came, and not made smaller.
TestHub.settings = settings(
    max_examples=25, stateful_step_count=15, deadline=None, database=None, phases=[Phase.generate]
)
