"""Live push for threaded Python.

A `Hub` delivers messages from any thread to every connected browser and script, at once
and in order. README.md has a complete example of ten lines, docs/ the rest.
"""

from __future__ import annotations

from .access.authenticators import (
    APIKeyAuth,
    AuthResult,
    BearerTokenAuth,
    CookieSessionAuth,
    JWTAuth,
    QueryTokenAuth,
)
from .backoff import calculate_backoff
from .config import (
    DEFAULT_HEARTBEAT_INTERVAL,
    DEFAULT_PONG_TIMEOUT,
    DEFAULT_WRITE_TIMEOUT,
    ChannelRule,
    HubConfig,
)
from .connection.client import Client
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
    ProcessAlreadyRunning,
    ProtocolError,
    SendTimeout,
    WsHubError,
)
from .hub.hub import Hub
from .hub.listener import Listener
from .hub.stats import HubStats
from .log import MaskTokens
from .process.process import Process, ProcessStartError
from .protocol.json_text import json_default
from .protocol.message import Message, MessageType
from .protocol.presence import Member, Presence
from .reconnect.client import ConnectionState, ReconnectingClient
from .reconnect.config import ReconnectConfig
from .reconnect.subscriptions import MessagesLost
from .server.server import Server, serve
from .signals import exit_on_signals
from .wsgi.app import middleware

__all__ = [
    "DEFAULT_HEARTBEAT_INTERVAL",
    "DEFAULT_PONG_TIMEOUT",
    "DEFAULT_WRITE_TIMEOUT",
    "APIKeyAuth",
    "AdoptionError",
    "AuthResult",
    "BearerTokenAuth",
    "ChannelRule",
    "Client",
    "CloseCode",
    "ConfigError",
    "ConnectionClosed",
    "ConnectionState",
    "CookieSessionAuth",
    "HandshakeRefused",
    "Hub",
    "HubConfig",
    "HubFull",
    "HubNotRunning",
    "HubStats",
    "InvalidName",
    "JWTAuth",
    "LimitExceeded",
    "Listener",
    "MaskTokens",
    "MaxRetriesExceeded",
    "Member",
    "Message",
    "MessageDecodeError",
    "MessageEncodeError",
    "MessageType",
    "MessagesLost",
    "NotConnected",
    "PeerError",
    "Presence",
    "Process",
    "ProcessAlreadyRunning",
    "ProcessStartError",
    "ProtocolError",
    "QueryTokenAuth",
    "ReconnectConfig",
    "ReconnectingClient",
    "SendTimeout",
    "Server",
    "WsHubError",
    "calculate_backoff",
    "exit_on_signals",
    "json_default",
    "middleware",
    "serve",
]

__version__ = "0.1.0"
