"""Live push for threaded Python.

A `Hub` passes on what any thread publishes to every connected browser and script, at
once and in order. See README.md for ten lines that work, docs/ for the rest.
"""

from __future__ import annotations

import logging

from .backoff import calculate_backoff
from .client import Client
from .config import (
    DEFAULT_HEARTBEAT_INTERVAL,
    DEFAULT_PONG_TIMEOUT,
    DEFAULT_WRITE_TIMEOUT,
    ChannelRule,
    HubConfig,
    ReconnectConfig,
)
from .errors import (
    AdoptionError,
    CloseCode,
    ConfigError,
    ConnectionClosed,
    HandshakeRefused,
    HubFull,
    HubNotRunning,
    InvalidName,
    LimitExceeded,
    MaxRetriesExceeded,
    MessageDecodeError,
    MessageEncodeError,
    NotConnected,
    PeerError,
    ProtocolError,
    SendTimeout,
    WsHubError,
)
from .following import MessagesLost
from .hub import Hub
from .listener import Listener
from .message import Message, MessageType
from .process import Process, ProcessStartError
from .reconnect import ConnectionState, ReconnectingClient
from .server import Server, serve
from .signals import exit_on_signals
from .stats import HubStats
from .wsgi import middleware

__all__ = [
    "DEFAULT_HEARTBEAT_INTERVAL",
    "DEFAULT_PONG_TIMEOUT",
    "DEFAULT_WRITE_TIMEOUT",
    "AdoptionError",
    "ChannelRule",
    "Client",
    "CloseCode",
    "ConfigError",
    "ConnectionClosed",
    "ConnectionState",
    "HandshakeRefused",
    "Hub",
    "HubConfig",
    "HubFull",
    "HubNotRunning",
    "HubStats",
    "InvalidName",
    "LimitExceeded",
    "Listener",
    "MaxRetriesExceeded",
    "Message",
    "MessageDecodeError",
    "MessageEncodeError",
    "MessageType",
    "MessagesLost",
    "NotConnected",
    "PeerError",
    "Process",
    "ProcessStartError",
    "ProtocolError",
    "ReconnectConfig",
    "ReconnectingClient",
    "SendTimeout",
    "Server",
    "WsHubError",
    "calculate_backoff",
    "exit_on_signals",
    "middleware",
    "serve",
]

__version__ = "0.1.0"

logging.getLogger(__name__).addHandler(logging.NullHandler())
