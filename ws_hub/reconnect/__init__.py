"""The reconnecting client: connections, subscriptions, and recovery after a loss."""

from __future__ import annotations

from .client import ConnectionState, ReconnectingClient
from .config import ReconnectConfig
from .subscriptions import MessagesLost

__all__ = ["ConnectionState", "MessagesLost", "ReconnectConfig", "ReconnectingClient"]
