"""The hub: the clients, their subscriptions, and the delivery of what is published."""

from __future__ import annotations

from .hub import Hub
from .listener import Listener
from .stats import HubStats

__all__ = ["Hub", "HubStats", "Listener"]
