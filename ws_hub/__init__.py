"""Live push for threaded Python.

A `Hub` delivers messages from any thread to every connected browser and script, at once
and in order. README.md has a complete example of ten lines, docs/ the rest.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from .access.authenticators import (
    APIKeyAuth,
    AuthResult,
    BearerTokenAuth,
    CookieSessionAuth,
    JWTAuth,
    QueryTokenAuth,
)
from .backoff import calculate_backoff
from .backplane.local import LocalBackplane
from .backplane.sqlite import SqliteHistory
from .backplane.store import HistoryPage, Middle
from .config import (
    DEFAULT_HEARTBEAT_INTERVAL,
    DEFAULT_PONG_TIMEOUT,
    DEFAULT_WRITE_TIMEOUT,
    ChannelRule,
    HubConfig,
)
from .connection.backlog import Explanation
from .connection.client import Client
from .errors import (
    AdoptionError,
    CloseCode,
    ConfigError,
    ConnectionClosed,
    HandshakeRefused,
    HistoryError,
    HubError,
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
    WaitTimeout,
    WsHubError,
)
from .hub.hub import Hub
from .hub.listener import Listener
from .hub.publisher import Publisher
from .hub.stats import HubStats
from .hub.survey import Instance
from .log import MaskTokens
from .mask.masks import MaskEnv
from .process.log_file import ProcessLog
from .process.log_reader import LogLine, LogMatches, LogPage, MissingLines
from .process.process import Process, ProcessStartError
from .protocol.json_text import json_default
from .protocol.message import Message, MessageType
from .protocol.presence import Member, Presence
from .protocol.publication import Delivery
from .reconnect.client import ConnectionState, ReconnectingClient
from .reconnect.config import ReconnectConfig
from .reconnect.subscriptions import MessagesLost
from .server.server import Server, serve
from .signals import exit_on_signals
from .wsgi.app import middleware

if TYPE_CHECKING:
    from .backplane.redis import RedisBackplane

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
    "Delivery",
    "Explanation",
    "HandshakeRefused",
    "HistoryError",
    "HistoryPage",
    "Hub",
    "HubConfig",
    "HubError",
    "HubFull",
    "HubNotRunning",
    "HubStats",
    "Instance",
    "InvalidName",
    "JWTAuth",
    "LimitExceeded",
    "Listener",
    "LocalBackplane",
    "LogLine",
    "LogMatches",
    "LogPage",
    "MaskEnv",
    "MaskTokens",
    "MaxRetriesExceeded",
    "Member",
    "Message",
    "MessageDecodeError",
    "MessageEncodeError",
    "MessageType",
    "MessagesLost",
    "Middle",
    "MissingLines",
    "NotConnected",
    "PeerError",
    "Presence",
    "Process",
    "ProcessAlreadyRunning",
    "ProcessLog",
    "ProcessStartError",
    "ProtocolError",
    "Publisher",
    "QueryTokenAuth",
    "ReconnectConfig",
    "ReconnectingClient",
    "RedisBackplane",
    "SendTimeout",
    "Server",
    "SqliteHistory",
    "WaitTimeout",
    "WsHubError",
    "calculate_backoff",
    "exit_on_signals",
    "json_default",
    "middleware",
    "serve",
]

__version__ = "0.1.0"

# Names that are somewhere else, because they need an extra or are for tests.
_ELSEWHERE = {
    "AppServer": "testing",
    "FakeClock": "testing",
    "FaultProxy": "testing",
    "FlaskSessionAuth": "flask",
    "HubClient": "testing",
    "HubExtension": "flask",
    "assert_no_leaks": "testing",
    "page_app": "page",
    "script_app": "page",
}

if not TYPE_CHECKING:  # to a type checker it would mean that every name is there

    def __getattr__(name: str) -> object:
        """Return what few need, and say where a name is that is not here."""
        if name == "RedisBackplane":
            from .backplane.redis import RedisBackplane

            return RedisBackplane
        module = _ELSEWHERE.get(name)
        if module is None:
            raise AttributeError(f"module 'ws_hub' has no attribute {name!r}")
        text = f"{name} is not in ws_hub: use from ws_hub.{module} import {name}"
        # An import would replace the text of an AttributeError, which hasattr needs.
        if sys._getframe(1).f_code.co_name == "_handle_fromlist":
            raise ImportError(text, name="ws_hub")
        raise AttributeError(text)
