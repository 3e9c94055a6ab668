"""Admission: every check of a handshake before 101, in order.

The order is the Go original's: whether the hub runs (503), whether the request is a
handshake (400, 405, 426), its Origin (403), its authentication (401), and whether the user
is allowed to connect (403). The limits of connections and quotas (429) are checked as soon
as their key is known: those of an address before authentication, those of a user after it.
"""

from __future__ import annotations

import functools
import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Protocol

from ..config import HubConfig
from ..errors import excerpt
from ..log import get_logger
from ..origin import is_allowed, parse_origin
from ..protocol.handshake import RETRY, Answer, Request, as_environ, decide, refusal
from .authenticators import AuthResult, authenticate, is_permitted
from .contexts import context_of, kept, texts
from .proxies import Requester, TrustedProxies
from .quotas import address_payer, user_payer
from .tokens import TOKEN_KEY, offers_token

__all__ = ["CROWDED_ADDRESS", "CROWDED_USER", "Admission", "Decision", "in_debt"]

logger = get_logger(__name__)

Environ = Mapping[str, Any]

# RFC 6750 section 3.1: the challenge to a request without credentials has no error code.
_CHALLENGE = ("WWW-Authenticate", "Bearer")
_INVALID = ("WWW-Authenticate", 'Bearer error="invalid_token"')

_LATER = ("Retry-After", "10")
CROWDED_ADDRESS = refusal("429 Too Many Requests", "too many connections from this address", _LATER)
CROWDED_USER = refusal("429 Too Many Requests", "too many connections of this user", _LATER)


def in_debt(wait: float) -> Answer:
    """Return the refusal of a payer that exceeds its quota for `wait` more seconds."""
    retry = ("Retry-After", str(math.ceil(wait)))
    return refusal("429 Too Many Requests", "the quota of this address or user is used up", retry)


@dataclass(frozen=True, slots=True)
class Decision:
    """The decision about a handshake.

    Args:
        answer: the HTTP answer.
        identity: the authenticated user; None without an authenticator, and while the token
            of a first message is awaited.
        verify: authenticates the token of a first message; None when none is awaited.
        mark: the number of revocations so far; a later revocation of this user applies to
            this connection (see `Users`).
        network: the key of the limit of connections from one address.
        payer: the key of the account that the connection is charged to; see `quotas`.
        environ: what is kept of the request for the context of a framework; see `contexts`.
        reason: the reason of a refusal for the log, where `answer` says less.
    """

    answer: Answer
    identity: AuthResult | None = None
    verify: Callable[[str], AuthResult] | None = None
    mark: int = 0
    network: str = ""
    payer: str = ""
    environ: Environ | None = None
    reason: str = ""


class Occupancy(Protocol):
    """The connections of a hub, as far as admission depends on them."""

    def mark(self) -> int:
        """Return the mark that a decision is to have."""

    def has_room(self, network: str, user: str) -> bool:
        """Say whether one more may come, from a network or of a user; "" for not known."""

    def wait(self, payer: str) -> float:
        """Return for how many seconds a payer may open no connection; 0.0 for none."""

    def bars_anybody(self) -> bool:
        """Say whether there may be such a payer."""


class Admission:
    """Decides which handshakes are accepted.

    Args:
        config: the hub's settings.
        occupancy: the connections that there are.
        count: counts a refusal by its name.
        call: calls a user's callback and handles its exceptions.
    """

    def __init__(
        self,
        config: HubConfig,
        occupancy: Occupancy,
        *,
        count: Callable[[str], None],
        call: Callable[..., Any],
    ) -> None:
        self._config = config
        self._occupancy = occupancy
        self._count = count
        self._call = call
        self._proxies = TrustedProxies(config.trusted_proxies)

    def requester(self, environ: Environ) -> Requester:
        """Return address, scheme and host of a request's client, seen through trusted proxies.

        Threads: any; does not wait.
        """
        return self._proxies.requester(environ)

    def refuse_early(self, address: str, peek: Callable[[], bytes]) -> Answer | None:
        """Refuse the handshake of an address in debt before a thread is started for it.

        Otherwise reconnecting in a loop would cost the hub about as much as a connection does.
        Returns None for every request that is to be handled as usual: one that has not arrived
        yet, is no handshake, or may belong to another payer than the address.

        Args:
            address: the address of the connection.
            peek: returns the part of the request that has arrived.

        Threads: any; does not wait.
        """
        if self._config.authenticator is not None or not self._occupancy.bars_anybody():
            return None
        environ = as_environ(peek())
        if environ.get("HTTP_UPGRADE", "").lower() != "websocket":
            return None
        requester = self.requester({**environ, "REMOTE_ADDR": address})
        return self._refuse_debtor(address_payer(requester.payer))

    def crowded(self) -> None:
        """Count a connection that was refused because too many requests are being answered.

        Threads: any; does not wait.
        """
        self._count("crowded_handshakes")

    def late(self) -> None:
        """Count a request without a complete head within the handshake timeout.

        Threads: any; does not wait.
        """
        self._count("slow_handshakes")

    def decide(
        self,
        request: Request,
        environ: Environ,
        requester: Requester,
        *,
        closed: str = "",
        identity: AuthResult | None = None,
    ) -> Decision:
        """Decide about a handshake. `closed` is the reason to refuse all of them, or "".

        With an `identity`, the application has authenticated the user: no authenticator runs.

        Threads: a request thread; runs the application's checks.
        """
        config = self._config
        if closed:
            return Decision(refusal("503 Service Unavailable", closed, RETRY))
        check = None
        if config.check_origin is not None:
            check = functools.partial(self._permits_origin, config.check_origin, environ)
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
            return Decision(answer)
        # Parsing the address takes as long as most of these checks.
        network = requester.network if config.max_connections_per_address is not None else ""
        if not self._occupancy.has_room(network, ""):  # before the authenticator runs
            self._count("crowded_addresses")
            return Decision(CROWDED_ADDRESS)
        decision = Decision(answer, network=network, environ=kept(environ))
        if config.authenticator is None and identity is None:
            return self._charge(decision, address_payer(requester.payer))
        decision = self._identify(decision, request, environ, identity)
        if not decision.answer.accepted:
            return decision
        if decision.identity is not None:
            return self._charge(decision, user_payer(decision.identity.user_id or ""))
        return self._charge(decision, address_payer(requester.payer))

    def permits_reader(self, environ: Environ, requester: Requester) -> bool:
        """Return whether the Origin of a request that only reads may do so, if it has one.

        Without one it comes from a page of its own origin, or the page cannot see the answer.

        Threads: a request thread; runs `check_origin`.
        """
        origin = environ.get("HTTP_ORIGIN")
        if origin is None:
            return True
        config = self._config
        if config.check_origin is not None:
            return self._permits_origin(config.check_origin, environ)
        own = f"{origin.partition('://')[0]}://{requester.host or ''}"
        if parse_origin(origin) == parse_origin(own) is not None:
            return True
        allowed = is_allowed(origin, config.allowed_origins)
        if not allowed:
            self._count("foreign_origins")
        return allowed

    def identify_reader(self, environ: Environ) -> AuthResult | Answer | None:
        """Authenticate a request that is no handshake; return its refusal if there is one.

        None without an authenticator. Limits of connections do not count.

        Threads: a request thread; runs the authenticator.
        """
        if self._config.authenticator is None:
            return None
        result = self._ask(environ)
        return result if result.valid else self._refusal_of(environ, result)

    def _charge(self, decision: Decision, payer: str) -> Decision:
        """Return the decision with its payer, or the refusal of a payer in debt."""
        answer = self._refuse_debtor(payer)
        return replace(decision, payer=payer) if answer is None else Decision(answer)

    def _refuse_debtor(self, payer: str) -> Answer | None:
        """Return the refusal of a payer in debt; None for others, and for "" (no known payer)."""
        wait = self._occupancy.wait(payer) if payer else 0.0
        if not wait:
            return None
        self._count("barred")
        return in_debt(wait)

    def _identify(
        self, decision: Decision, request: Request, environ: Environ, identity: AuthResult | None
    ) -> Decision:
        # before the authenticator runs, so that no revocation is missed meanwhile
        mark = self._occupancy.mark()
        result = self._ask(environ) if identity is None else identity
        if result.valid:
            if "cookie" in request.headers and "origin" not in request.headers:
                # The browser sends the cookie whichever page opens the connection; only the
                # Origin tells which page it was. A client that sends a cookie and no Origin is no
                # browser (FAULTS 2).
                self._count("foreign_origins")
                return Decision(
                    refusal("403 Forbidden", "a request with a cookie needs an Origin header")
                )
            if not self._occupancy.has_room("", result.user_id or ""):
                self._count("crowded_users")
                return Decision(CROWDED_USER)
            return replace(decision, identity=result, mark=mark)
        if self._config.auth_by_message and not result.forbidden and not offers_token(environ):
            verify = functools.partial(self._verify, texts(environ))
            return replace(decision, verify=verify, mark=mark)
        return Decision(self._refusal_of(environ, result), reason=result.error)

    def _refusal_of(self, environ: Environ, result: AuthResult) -> Answer:
        self._refused(environ, result)
        if result.forbidden:
            return refusal("403 Forbidden", "Forbidden")
        challenge = _INVALID if offers_token(environ) else _CHALLENGE
        return refusal("401 Unauthorized", "Unauthorised", challenge)

    def _verify(self, environ: Environ, token: str) -> AuthResult:
        environ = {**environ, TOKEN_KEY: token}
        result = self._ask(environ)
        if not result.valid:
            address = excerpt(self.requester(environ).address)
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
            with context_of(environ):
                self._call(self._config.on_auth_failure, environ, result)

    def _permits_origin(self, check: Callable[[Any], bool], environ: Environ) -> bool:
        with context_of(environ):
            return is_permitted("check_origin", check, environ)
