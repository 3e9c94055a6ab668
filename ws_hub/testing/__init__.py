"""What the tests of an application need: a client, faults of the network, a clock, a leak check.

Nothing here needs pytest. The fixtures built on it are a plugin of its own, which pytest finds
by itself: `hub_config`, `hub`, `hub_server`, `hub_client`. docs/testing.md shows both.
"""

from __future__ import annotations

from .app_server import AppServer
from .client import HubClient
from .clock import FakeClock
from .leaks import assert_no_leaks
from .proxy import FaultProxy

__all__ = ["AppServer", "FakeClock", "FaultProxy", "HubClient", "assert_no_leaks"]
