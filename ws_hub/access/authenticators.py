"""Who a request comes from: what an authenticator answers, and those that are built in.

Must not know sockets, WSGI servers or the hub. An authenticator is any callable that takes
the environ of a handshake (a mapping as in PEP 3333) and returns an AuthResult.

Nothing here logs or shows a token: what an authenticator raises is named by its type and
its place, because a KeyError's text is the key.
"""

from __future__ import annotations

import copy
import hmac
import math
import unicodedata
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

from ..errors import ConfigError, InvalidName, excerpt
from ..log import get_logger
from .tokens import Environ, bearer_token, cookie, query_token

__all__ = [
    "APIKeyAuth",
    "AuthResult",
    "BearerTokenAuth",
    "CookieSessionAuth",
    "JWTAuth",
    "QueryTokenAuth",
    "authenticate",
    "check_user",
    "is_user",
    "said_yes",
]

logger = get_logger(__name__)

# Control characters, surrogates without a partner, and what separates lines.
_CONTROLS = frozenset({"Cc", "Cs", "Zl", "Zp"})

Validate = Callable[[str], "AuthResult"]


@dataclass(frozen=True, slots=True)
class AuthResult:
    """What an authenticator found.

    Args:
        valid: whether the request may connect.
        user_id: who it is; without one nobody gets in.
        claims: what else is known of the user: copied, and read-only all the way down.
        error: why not, for the log and `on_auth_failure`; the peer does not get it.
        forbidden: it is known who it is, and that user may not: 403 instead of 401.
        expires_at: POSIX seconds at which the connection ends with 4401; by default
            the claim `exp`, if there is one.
    """

    valid: bool
    user_id: str | None = None
    claims: Mapping[str, Any] = field(default_factory=dict)
    error: str = ""
    forbidden: bool = False
    expires_at: float | None = None

    def __post_init__(self) -> None:
        valid: object = self.valid
        if not isinstance(valid, bool):
            raise TypeError(f"valid must be True or False, not {type(valid).__name__}")
        user: object = self.user_id
        if user is not None and not isinstance(user, str):
            raise TypeError(f"user_id must be text or None, not {type(user).__name__}")
        claims: object = self.claims
        if not isinstance(claims, Mapping):
            raise TypeError(f"claims must be a mapping, not {type(claims).__name__}")
        object.__setattr__(self, "claims", _frozen(claims))
        ends = claims.get("exp") if self.expires_at is None else self.expires_at
        if ends is not None and (not isinstance(ends, (int, float)) or not math.isfinite(ends)):
            raise TypeError("expires_at, or the claim exp, must be a number of seconds")
        object.__setattr__(self, "expires_at", ends)


def _frozen(value: Any) -> Any:
    """Return a copy of which no container can be changed."""
    if isinstance(value, Mapping):
        return MappingProxyType({key: _frozen(each) for key, each in value.items()})
    if isinstance(value, (list, tuple)):
        return tuple(_frozen(each) for each in value)
    if isinstance(value, (set, frozenset)):
        return frozenset(value)
    return copy.deepcopy(value)


# --- asking what the application brought ---------------------------------------------------


def authenticate(authenticator: Callable[[Environ], Any], environ: Environ) -> AuthResult:
    """Return what an authenticator finds; whatever it does wrong is a refusal.

    That is an exception, another answer than an AuthResult, and a user without an id:
    each is logged, in one line without the text of the exception.
    """
    try:
        result = authenticator(environ)
    except (Exception, SystemExit) as error:  # noqa: BLE001 - user code: nobody gets in by it
        logger.error("the authenticator raised %s: refused", _name(error))
        return AuthResult(False, error="the authenticator raised an exception")
    if not isinstance(result, AuthResult):
        logger.error("the authenticator returned no AuthResult: refused")
        return AuthResult(False, error="the authenticator returned no AuthResult")
    if result.valid and not is_user(result.user_id):
        what = "a user id that is blank or has control characters"
        if not result.user_id:
            what = "a user without an id"
        logger.error("the authenticator accepted %s: refused", what)
        return AuthResult(False, error=f"accepted {what}")
    return result


def is_user(user_id: object) -> bool:
    """Say whether a text can be a user's id: not blank, without what ends a line or a text.

    What tells users apart is compared, logged and shown: two that look the same in a log
    must be the same.
    """
    return (
        isinstance(user_id, str)
        and not (not user_id or user_id.isspace())
        and not any(unicodedata.category(each) in _CONTROLS for each in user_id)
    )


def check_user(user_id: object) -> None:
    """Raise for what cannot be a user's id: TypeError when it is no text, else InvalidName."""
    if not isinstance(user_id, str):
        raise TypeError(f"a user id must be text, not {excerpt(user_id)}")
    if not is_user(user_id):
        raise InvalidName(f"user id {excerpt(user_id)} is blank or has control characters")


def said_yes(what: str, question: Callable[..., object], *args: object) -> bool:
    """Say whether a question of the application's is answered with True itself.

    An exception is a no, and so is what merely counts as true: an `async` function
    returns a coroutine, whatever it would say. Both are logged.
    """
    try:
        answer = question(*args)
    except (Exception, SystemExit) as error:  # noqa: BLE001 - user code: no is the safe answer
        logger.error("%s raised %s: that counts as no", what, _name(error))
        return False
    if not isinstance(answer, bool):
        logger.error("%s must return True or False: %s is a no", what, type(answer).__name__)
    return answer is True


def _name(error: BaseException) -> str:
    """Name an exception and its place without its text."""
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    place = f" at {trace.tb_frame.f_code.co_filename}:{trace.tb_lineno}" if trace else ""
    return type(error).__name__ + place


# --- authenticators ------------------------------------------------------------------------

_NO_TOKEN = AuthResult(False, error="no token")


class APIKeyAuth:
    """Knows its users by a key each.

    Args:
        keys: user id by key. Several keys may be one user's, for a change of keys.
    """

    def __init__(self, keys: Mapping[str, str]) -> None:
        texts: list[object] = [*keys.keys()]
        if not all(isinstance(text, str) and text and not text.isspace() for text in texts):
            raise ConfigError("keys must map keys to user ids, neither of them empty")
        if not all(is_user(user) for user in keys.values()):
            raise ConfigError("keys must map keys to user ids that are text, and not blank")
        self._keys = [(key.encode(), user) for key, user in keys.items()]

    def __call__(self, environ: Environ) -> AuthResult:
        """Compare with every key, in a time that tells nothing of how far one agrees."""
        # As bytes: compare_digest takes no text outside ASCII (FAULTS 53).
        given = bearer_token(environ).encode("utf-8", "surrogatepass")
        if not given:
            return _NO_TOKEN
        found = None
        for key, user in self._keys:
            if hmac.compare_digest(key, given):
                found = user
        if found is None:
            return AuthResult(False, error="unknown key")
        return AuthResult(True, found)


class BearerTokenAuth:
    """Has a function say whose a token is.

    Args:
        validate: called with the token, returns an AuthResult.
    """

    def __init__(self, validate: Validate) -> None:
        self._validate = validate

    def __call__(self, environ: Environ) -> AuthResult:
        """Look at the token of a request."""
        token = bearer_token(environ)
        return self._validate(token) if token else _NO_TOKEN


class QueryTokenAuth:
    """Has a function say whose a token in the URL is: `/ws?token=...`.

    A URL is written into logs by everybody that it passes: take another way where there
    is one, and a token that is valid once or for a minute where there is none.

    Args:
        validate: called with the token, returns an AuthResult.
        name: of the parameter.
    """

    def __init__(self, validate: Validate, name: str = "token") -> None:
        self._validate = validate
        self._name = name

    def __call__(self, environ: Environ) -> AuthResult:
        """Look at the query of a request."""
        token = query_token(environ, self._name)
        return self._validate(token) if token else _NO_TOKEN


class CookieSessionAuth:
    """Has a function say whose session a cookie is.

    Args:
        name: of the cookie.
        validate: called with its value, returns an AuthResult.
    """

    def __init__(self, name: str, validate: Validate) -> None:
        self._name = name
        self._validate = validate

    def __call__(self, environ: Environ) -> AuthResult:
        """Look at the cookies of a request."""
        value = cookie(environ, self._name)
        return self._validate(value) if value else AuthResult(False, error="no session")


class JWTAuth:
    """Takes JSON web tokens (RFC 7519), signed with one algorithm and no other.

    `exp` is required; `nbf` is heeded; `aud` and `iss` are required where they are named
    here, and a token for an audience is refused where none is. Needs PyJWT.

    Args:
        keys: the key, or keys by `kid`, or a function from `kid` ("" for none) to key.
            To change keys, have both there while tokens of the old one are valid.
        algorithm: "HS256", "RS256", "ES256" ...
        audience: who the tokens must be for; several: one of them.
        issuer: who they must be from.
        user_claim: the claim that is the user's id.
        leeway: seconds by which clocks may differ.
    """

    def __init__(
        self,
        keys: Any,
        algorithm: str,
        *,
        audience: str | Collection[str] | None = None,
        issuer: str | None = None,
        user_claim: str = "sub",
        leeway: float = 0.0,
    ) -> None:
        try:
            import jwt
        except ImportError as error:
            raise ImportError("JWTAuth needs PyJWT: pip install 'ws-hub[jwt]'") from error
        if algorithm.lower() == "none":
            raise ConfigError("algorithm must be one that signs")
        try:
            jwt.get_algorithm_by_name(algorithm)
        except NotImplementedError as error:
            raise ConfigError(f"algorithm {excerpt(algorithm)} is not there: {error}") from error
        if not keys:
            raise ConfigError("keys must not be empty: anybody could sign")
        self._jwt = jwt
        self._keys = keys
        self._user_claim = user_claim
        self._leeway = leeway
        needed = {"exp": True, user_claim: True, "aud": audience, "iss": issuer}
        self._settings: dict[str, Any] = {
            "algorithms": [algorithm],  # never what the token says of itself
            "audience": audience if audience is None or isinstance(audience, str) else [*audience],
            "issuer": issuer,
            "leeway": leeway,
            "options": {"require": [name for name, each in needed.items() if each]},
        }

    def __call__(self, environ: Environ) -> AuthResult:
        """Verify the token of a request."""
        token = bearer_token(environ)
        if not token:
            return _NO_TOKEN
        try:
            key = self._key_of(token)
            if not key:
                return AuthResult(False, error="signed with an unknown key")
            claims = self._jwt.decode(token, key, **self._settings)
        except (self._jwt.PyJWTError, UnicodeError) as error:
            return AuthResult(False, error=type(error).__name__)
        user = claims[self._user_claim]
        if not isinstance(user, str):
            return AuthResult(False, error=f"{self._user_claim} is no text")
        return AuthResult(True, user, claims, expires_at=float(claims["exp"]) + self._leeway)

    def _key_of(self, token: str) -> Any:
        if not callable(self._keys) and not isinstance(self._keys, Mapping):
            return self._keys
        kid = self._jwt.get_unverified_header(token).get("kid", "")
        return self._keys(kid) if callable(self._keys) else self._keys.get(kid)
