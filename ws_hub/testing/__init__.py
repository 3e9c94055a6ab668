"""What the tests of an application need: a client, faults of the network, a clock, a leak check."""

from __future__ import annotations

from .leaks import assert_no_leaks
from .proxy import FaultProxy

__all__ = ["FaultProxy", "assert_no_leaks"]
