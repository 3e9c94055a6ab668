"""Decides whether an HTTP request may read a channel, by what decides about its subscribers.

A page of a log is information as a subscription is: the request is authenticated as a handshake
is, and `channel_authoriser` is asked about a client that stands for the request.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, Never

from ..access.admission import Admission
from ..access.authenticators import AuthResult, is_permitted
from ..access.contexts import kept
from ..config import HubConfig
from ..connection.backlog import Explanation
from ..connection.client import Client
from ..errors import CloseCode, ConnectionClosed
from ..protocol.handshake import FOREIGN, Answer, refusal
from .callbacks import Callbacks

__all__ = ["refuse_reader"]

Environ = Mapping[str, Any]


class _Visitor:
    """A request in the place of a connection: nothing can be sent to it."""

    id = 0
    compression = False
    dropped = 0
    waiting = (0, 0)
    info = ""

    def __init__(self, environ: Environ, address: str, identity: AuthResult | None) -> None:
        self.environ = kept(environ)
        self.remote_address = address
        self.connected_at = time.time()
        self.user_id = None if identity is None else identity.user_id
        self.claims: Mapping[str, Any] = (
            MappingProxyType({}) if identity is None else identity.claims
        )
        self.expires_at = None if identity is None else identity.expires_at
        self.last_error = ""

    def __repr__(self) -> str:
        return f"<request of {self.user_id or self.remote_address}>"

    def explain(self) -> Explanation:
        self._refuse()

    def set_info(self, info: object) -> None:
        self._refuse()

    def send(self, message: object, timeout: float | None) -> None:
        self._refuse()

    def wait_for_room(self, timeout: float) -> bool:
        return True

    def close(self, code: int, reason: str) -> None:
        pass

    def abort(self) -> None:
        pass

    def subscriptions(self) -> list[str]:
        return []

    def _refuse(self) -> Never:
        raise ConnectionClosed(CloseCode.ABNORMAL, "an HTTP request, which has no connection")


def refuse_reader(
    config: HubConfig,
    admission: Admission,
    callbacks: Callbacks,
    channel: str,
    environ: Environ,
) -> Answer | None:
    """Return why a request may not read a channel; None where it may.

    Threads: a request thread; runs the application's checks.
    """
    requester = admission.requester(environ)
    if not admission.permits_reader(environ, requester):
        return refusal("403 Forbidden", FOREIGN)
    identity = admission.identify_reader(environ)
    if isinstance(identity, Answer):
        return identity
    authoriser: Callable[..., Any] | None = config.channel_authoriser
    if authoriser is None:
        return None
    visitor = _Visitor(environ, requester.address, identity)
    ask = functools.partial(
        callbacks.call, authoriser, Client(visitor), channel, connection=visitor, default=False
    )
    if is_permitted("an authoriser", ask):
        return None
    return refusal("403 Forbidden", "reading this channel is not allowed")
