"""The door: everything that is asked of a handshake before 101, in order.

Must not know sockets, WSGI servers, or who is inside. The order is the Go original's:
whether the hub runs (503), whether it is a handshake (400, 405, 426), where it comes from
(403), who it is (401), and whether that one may (403). Between them stands whether there
are too many from there, and of that one (429).
"""

from __future__ import annotations

import functools
import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from ..config import HubConfig
from ..errors import excerpt
from ..log import get_logger
from ..protocol.handshake import RETRY, Answer, Request, as_environ, decide, refusal
from .authenticators import AuthResult, authenticate, said_yes
from .proxies import Forwarded, Seen
from .quotas import address_payer, user_payer
from .tokens import TOKEN_KEY, offers_token

__all__ = ["CROWDED_ADDRESS", "CROWDED_USER", "Door", "Entry", "in_debt"]

logger = get_logger(__name__)

Environ = Mapping[str, Any]

# RFC 6750 section 3.1: a request without credentials is told no more than the scheme.
_CHALLENGE = ("WWW-Authenticate", "Bearer")
_INVALID = ("WWW-Authenticate", 'Bearer error="invalid_token"')

_LATER = ("Retry-After", "10")
CROWDED_ADDRESS = refusal("429 Too Many Requests", "too many connections from there", _LATER)
CROWDED_USER = refusal("429 Too Many Requests", "too many connections of this user", _LATER)


def in_debt(wait: float) -> Answer:
    """Return the answer to a payer that has used more than it may, for so many seconds."""
    retry = ("Retry-After", str(math.ceil(wait)))
    return refusal("429 Too Many Requests", "too much was asked for from there", retry)


@dataclass(frozen=True, slots=True)
class Entry:
    """What became of a handshake.

    Args:
        answer: what to answer it with.
        identity: who comes; None when nobody asks, or when that is still to be said.
        verify: finds out who it is from the token of a first message; None when that
            is not waited for.
        mark: who was revoked after it is not let in; see `Users`.
        network: what it is counted by among those from one address.
        payer: whose account what it costs is charged to; see `budget`.
        reason: why not, for the log, where that is more than the answer says.
    """

    answer: Answer
    identity: AuthResult | None = None
    verify: Callable[[str], AuthResult] | None = None
    mark: int = 0
    network: str = ""
    payer: str = ""
    reason: str = ""


class Door:
    """Decides who may come in.

    Args:
        config: the hub's settings.
        count: counts a refusal by its name.
        mark: returns the mark that an entry is to have.
        has_room: says whether one more may come, from a network or of a user ("" for
            either that is not known).
        must_wait: says for how many seconds a payer may open no connection, 0.0 for none.
        bars_anybody: says whether there may be such a payer.
        call: calls a user's callback and deals with what it raises.
    """

    def __init__(
        self,
        config: HubConfig,
        *,
        count: Callable[[str], None],
        mark: Callable[[], int],
        has_room: Callable[[str, str], bool],
        must_wait: Callable[[str], float],
        bars_anybody: Callable[[], bool],
        call: Callable[..., Any],
    ) -> None:
        self._config = config
        self._count = count
        self._mark = mark
        self._has_room = has_room
        self._must_wait = must_wait
        self._bars_anybody = bars_anybody
        self._call = call
        self._forwarded = Forwarded(config.trusted_proxies)

    def see(self, environ: Environ) -> Seen:
        """Return what is known of a request's client, proxies looked through.

        Threads: any; does not wait.
        """
        return self._forwarded.see(environ)

    def turn_away(self, address: str, peek: Callable[[], bytes]) -> Answer | None:
        """Refuse the handshake of an address in debt before a thread is started for it.

        Else connecting again and again would cost the hub about as much as being let in.
        None for everything that is to be looked at as usual: what has not come yet, is no
        handshake, or may be somebody else's.

        Args:
            address: where the request comes from.
            peek: returns what has come of it.

        Threads: any; does not wait.
        """
        if self._config.authenticator is not None or not self._bars_anybody():
            return None
        environ = as_environ(peek())
        if environ.get("HTTP_UPGRADE", "").lower() != "websocket":
            return None
        seen = self.see({**environ, "REMOTE_ADDR": address})
        return self._refuse_debtor(address_payer(seen.payer))

    def crowded(self) -> None:
        """Count a connection for whose request there is no room.

        Threads: any; does not wait.
        """
        self._count("crowded_handshakes")

    def late(self) -> None:
        """Count a request whose head took too long to come.

        Threads: any; does not wait.
        """
        self._count("slow_handshakes")

    def knock(self, request: Request, environ: Environ, seen: Seen, *, closed: str = "") -> Entry:
        """Decide about a handshake; `closed` says why nobody may come in at the moment.

        Threads: a request thread; runs the application's checks.
        """
        config = self._config
        if closed:
            return Entry(refusal("503 Service Unavailable", closed, RETRY))
        check = None
        if config.check_origin is not None:
            check = functools.partial(said_yes, "check_origin", config.check_origin, environ)
        answer = decide(
            request,
            allowed_origins=config.allowed_origins,
            require_origin=config.require_origin,
            check_origin=check,
            compression=config.compression,
        )
        if answer.status.startswith("403"):
            self._count("foreign_origins")
        if not answer.accepted:
            return Entry(answer)
        # To find it out takes as long as most that is asked here.
        network = seen.network if config.max_connections_per_address is not None else ""
        if not self._has_room(network, ""):  # before anybody is asked who that is
            self._count("crowded_addresses")
            return Entry(CROWDED_ADDRESS)
        if config.authenticator is None:
            return self._charge(Entry(answer, network=network), address_payer(seen.payer))
        entry = self._identify(answer, request, environ, network)
        if not entry.answer.accepted:
            return entry
        if entry.identity is not None:
            return self._charge(entry, user_payer(entry.identity.user_id or ""))
        return self._charge(entry, address_payer(seen.payer))

    def _charge(self, entry: Entry, payer: str) -> Entry:
        """Return an entry that somebody pays for, or the refusal of a payer in debt."""
        answer = self._refuse_debtor(payer)
        return replace(entry, payer=payer) if answer is None else Entry(answer)

    def _refuse_debtor(self, payer: str) -> Answer | None:
        """Return the refusal of a payer in debt; None for the others, and for "", nobody's."""
        wait = self._must_wait(payer) if payer else 0.0
        if not wait:
            return None
        self._count("barred")
        return in_debt(wait)

    def _identify(self, answer: Answer, request: Request, environ: Environ, network: str) -> Entry:
        mark = self._mark()  # before anybody is asked
        result = self._ask(environ)
        if result.valid:
            if "cookie" in request.headers and "origin" not in request.headers:
                # A cookie comes along whoever has the browser connect; only the Origin
                # tells who did. What sends a cookie and no Origin is no browser (FAULTS 2).
                self._count("foreign_origins")
                return Entry(refusal("403 Forbidden", "a cookie needs an Origin beside it"))
            if not self._has_room("", result.user_id or ""):
                self._count("crowded_users")
                return Entry(CROWDED_USER)
            return Entry(answer, result, mark=mark, network=network)
        if self._config.auth_by_message and not result.forbidden and not offers_token(environ):
            # Its texts alone: the server's objects in it end with this request.
            texts = {key: value for key, value in environ.items() if isinstance(value, str)}
            verify = functools.partial(self._verify, texts)
            return Entry(answer, verify=verify, mark=mark, network=network)
        self._refused(environ, result)
        if result.forbidden:
            return Entry(refusal("403 Forbidden", "Forbidden"), reason=result.error)
        challenge = _INVALID if offers_token(environ) else _CHALLENGE
        answer = refusal("401 Unauthorized", "Unauthorised", challenge)
        return Entry(answer, reason=result.error)

    def _verify(self, environ: Environ, token: str) -> AuthResult:
        environ = {**environ, TOKEN_KEY: token}
        result = self._ask(environ)
        if not result.valid:
            address = excerpt(self.see(environ).address)
            logger.info("first message from %s refused: %s", address, excerpt(result.error))
            self._refused(environ, result)
        return result

    def _ask(self, environ: Environ) -> AuthResult:
        assert self._config.authenticator is not None
        result = authenticate(self._config.authenticator, environ)
        if result.valid and result.expires_at is not None and result.expires_at <= time.time():
            return AuthResult(False, error="expired")
        return result

    def _refused(self, environ: Environ, result: AuthResult) -> None:
        self._count("unauthenticated")
        if self._config.on_auth_failure is not None:
            self._call(self._config.on_auth_failure, environ, result)
