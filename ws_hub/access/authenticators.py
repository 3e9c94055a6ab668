"""Authentication: what an authenticator returns, and the authenticators that are built in.

An authenticator is any callable that takes the environ of a handshake (a mapping as in
PEP 3333) and returns an AuthResult.

Nothing here logs a token. An exception of an authenticator is logged by its type and its
place in the source, because the text of a KeyError is the key.
"""

from __future__ import annotations

import copy
import hmac
import math
import unicodedata
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, cast

from ..errors import ConfigError, InvalidName, excerpt
from ..log import get_logger
from ..protocol.names import AnyId, id_text
from ..validation import check_function, check_words, is_number
from .contexts import context_of
from .tokens import Environ, bearer_token, cookie, query_token

__all__ = [
    "APIKeyAuth",
    "AuthResult",
    "BearerTokenAuth",
    "CookieSessionAuth",
    "JWTAuth",
    "QueryTokenAuth",
    "authenticate",
    "is_permitted",
    "is_user",
    "user_text",
]

logger = get_logger(__name__)

# Control characters, lone surrogates, and line and paragraph separators.
_CONTROLS = frozenset({"Cc", "Cs", "Zl", "Zp"})

Validate = Callable[[str], "AuthResult"]


@dataclass(frozen=True, slots=True)
class AuthResult:
    """The result of an authenticator. Immutable.

    Args:
        valid: whether the request may connect.
        user_id: the user's id; an int or a UUID means its text. A valid result without one
            is treated as a refusal.
        claims: more facts about the user: copied, and read-only at every depth.
        error: the reason of a refusal, for the log and `on_auth_failure`; never sent to the
            peer.
        forbidden: the user is known and may not connect: 403 instead of 401.
        expires_at: POSIX seconds at which the connection is closed with 4401; by default
            the claim `exp`, if there is one.

    Raises TypeError for an argument of another type.

    Threads: any.
    """

    valid: bool
    user_id: str | None = None
    claims: Mapping[str, Any] = field(default_factory=dict)
    error: str = ""
    forbidden: bool = False
    expires_at: float | None = None

    if TYPE_CHECKING:  # what is given as user id may be a number; the field is its text

        def __init__(
            self,
            valid: bool,
            user_id: AnyId | None = None,
            claims: Mapping[str, Any] = ...,
            error: str = "",
            forbidden: bool = False,
            expires_at: float | None = None,
        ) -> None: ...

    def __post_init__(self) -> None:
        valid: object = self.valid
        if not isinstance(valid, bool):
            raise TypeError(f"valid must be True or False, not {excerpt(valid)}")
        if self.user_id is not None:
            object.__setattr__(self, "user_id", id_text(self.user_id, "user id"))
        flag, error, claims = cast(tuple[object, ...], (self.forbidden, self.error, self.claims))
        if not isinstance(flag, bool):
            raise TypeError(f"forbidden must be True or False, not {excerpt(flag)}")
        if not isinstance(error, str):
            raise TypeError(f"error must be text, the reason of a refusal, not {excerpt(error)}")
        if not isinstance(claims, Mapping):
            raise TypeError(f"claims must be a mapping, not a {type(claims).__name__}")
        object.__setattr__(self, "claims", _frozen(claims))
        ends = claims.get("exp") if self.expires_at is None else self.expires_at
        if ends is not None and (not isinstance(ends, (int, float)) or not math.isfinite(ends)):
            raise TypeError(
                f"expires_at, or the claim exp, must be a number of seconds, not {excerpt(ends)}"
            )
        object.__setattr__(self, "expires_at", ends)


def _frozen(value: Any) -> Any:
    """Return a copy in which no container can be changed."""
    if isinstance(value, Mapping):
        return MappingProxyType({key: _frozen(each) for key, each in value.items()})
    if isinstance(value, (list, tuple)):
        return tuple(_frozen(each) for each in value)
    if isinstance(value, (set, frozenset)):
        return frozenset(value)
    return copy.deepcopy(value)


# --- calling the application's checks ------------------------------------------------------


def authenticate(authenticator: Callable[[Environ], Any], environ: Environ) -> AuthResult:
    """Return an authenticator's result; every error of the authenticator is a refusal.

    An error is an exception, a return value that is no AuthResult, and a valid result without
    a usable user id. Each is logged in one line, without the text of the exception.
    """
    try:
        with context_of(environ):
            result = authenticator(environ)
    except (Exception, SystemExit) as error:  # noqa: BLE001 - user code: an exception is a refusal
        logger.error("the authenticator raised %s: refused", _name(error))
        return AuthResult(False, error="the authenticator raised an exception")
    if not isinstance(result, AuthResult):
        logger.error("the authenticator returned no AuthResult: refused")
        return AuthResult(False, error="the authenticator returned no AuthResult")
    if result.valid and not is_user(result.user_id):
        what = "a user id that is blank or has control characters"
        if not result.user_id:
            what = "a user without an id"
        logger.error(
            "the authenticator accepted %s: refused. A guest needs one too, such as 'guest-' and "
            "secrets.token_hex(8)",
            what,
        )
        return AuthResult(False, error=f"accepted {what}")
    return result


def is_user(user_id: object) -> bool:
    """Return whether a text can be a user id: not blank, without control characters.

    User ids are compared, logged and shown: two ids that look the same in a log must be equal.
    """
    return (
        isinstance(user_id, str)
        and not (not user_id or user_id.isspace())
        and not any(unicodedata.category(each) in _CONTROLS for each in user_id)
    )


def user_text(user_id: object) -> str:
    """Return the text of a user id; an int or a UUID means its text.

    Raises TypeError for anything else, InvalidName for a text that is no user id.
    """
    text = id_text(user_id, "user id")
    if not is_user(text):
        raise InvalidName(
            f"user id {excerpt(text)} is refused: it must be a text that is not blank, without "
            "control characters"
        )
    return text


def is_permitted(what: str, question: Callable[..., object], *args: object) -> bool:
    """Return whether a check of the application's returns True itself.

    An exception is a refusal, and so is any other true value: an `async` function returns a
    coroutine, which is always true. Both are logged.
    """
    try:
        answer = question(*args)
    except (Exception, SystemExit) as error:  # noqa: BLE001 - user code: an exception is a refusal
        logger.error("%s raised %s: treated as a refusal", what, _name(error))
        return False
    if not isinstance(answer, bool):
        logger.error(
            "%s must return True or False, not %s: treated as a refusal",
            what,
            type(answer).__name__,
        )
    return answer is True


def _name(error: BaseException) -> str:
    """Return an exception's type and place in the source, without its text."""
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    place = f" at {trace.tb_frame.f_code.co_filename}:{trace.tb_lineno}" if trace else ""
    return type(error).__name__ + place


# --- authenticators ------------------------------------------------------------------------

_NO_TOKEN = AuthResult(False, error="no token")


class APIKeyAuth:
    """Authenticates users by API keys.

    Reads the key as `bearer_token` reads a token: from the Authorization header, the
    subprotocol (browsers), or a first message. Raises ConfigError for an empty key or an
    invalid user id.

    Args:
        keys: user id by key; an int or a UUID means its text. A user may have several keys,
            for a change of keys.

    Threads: any.
    """

    def __init__(self, keys: Mapping[str, AnyId]) -> None:
        given: object = keys
        if not isinstance(given, Mapping):
            raise ConfigError(
                f"keys must map keys to user ids, not be a {type(given).__name__}: "
                'APIKeyAuth({"key": "user"})'
            )
        texts: list[object] = [*keys.keys()]
        if not all(isinstance(text, str) and text and not text.isspace() for text in texts):
            raise ConfigError(
                "keys must map keys to user ids: every key must be a string and not blank"
            )
        try:
            self._keys = [(key.encode(), user_text(user)) for key, user in keys.items()]
        except (TypeError, InvalidName) as error:
            raise ConfigError(f"keys must map keys to user ids: {error}") from None

    def __call__(self, environ: Environ) -> AuthResult:
        """Compare the request's key with every key, in constant time."""
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
    """Authenticates the bearer token of a request by a function.

    Reads the token from the Authorization header (RFC 6750), the subprotocol (browsers), or a
    first message.

    Args:
        validate: called with the token, returns an AuthResult.

    Threads: any; `validate` is called on the thread of the request, or on the client's
    reader thread for a first message.
    """

    def __init__(self, validate: Validate) -> None:
        check_function("validate", validate, "token")
        self._validate = validate

    def __call__(self, environ: Environ) -> AuthResult:
        """Authenticate the token of a request."""
        token = bearer_token(environ)
        return self._validate(token) if token else _NO_TOKEN


class QueryTokenAuth:
    """Authenticates a token in the URL, `/ws?token=...`, by a function.

    URLs are logged by every server and proxy on the way. Prefer another way to pass the token;
    otherwise use tokens that are valid once or for a minute.

    Args:
        validate: called with the token, returns an AuthResult.
        name: the name of the query parameter.

    Threads: any; `validate` is called on the thread of the request.
    """

    def __init__(self, validate: Validate, name: str = "token") -> None:
        check_function("validate", validate, "token")
        check_words("name", name)
        self._validate = validate
        self._name = name

    def __call__(self, environ: Environ) -> AuthResult:
        """Authenticate the token in the query of a request."""
        token = query_token(environ, self._name)
        return self._validate(token) if token else _NO_TOKEN


class CookieSessionAuth:
    """Authenticates the session cookie of a request by a function.

    Args:
        name: the name of the cookie.
        validate: called with its value, returns an AuthResult.

    Threads: any; `validate` is called on the thread of the request.
    """

    def __init__(self, name: str, validate: Validate) -> None:
        check_words("name", name)
        check_function("validate", validate, "value")
        self._name = name
        self._validate = validate

    def __call__(self, environ: Environ) -> AuthResult:
        """Authenticate the session cookie of a request."""
        value = cookie(environ, self._name)
        return self._validate(value) if value else AuthResult(False, error="no session")


class JWTAuth:
    """Authenticates JSON web tokens (RFC 7519), signed with one algorithm and no other.

    Reads the token as BearerTokenAuth does. `exp` is required and `nbf` is checked. `aud` and
    `iss` are required if they are given here; a token with an audience is refused if none is.
    Needs PyJWT: raises ImportError without it, ConfigError for an unknown algorithm or empty
    `keys`.

    Args:
        keys: the key, or keys by `kid`, or a function from `kid` ("" for none) to key.
            To change keys, keep both while tokens of the old one are valid.
        algorithm: "HS256", "RS256", "ES256" ...
        audience: the audience that tokens must name; of several, one.
        issuer: the issuer that tokens must name.
        user_claim: the claim that holds the user id, a text or a whole number.
        leeway: seconds by which clocks may differ.

    Threads: any; a `keys` function is called on the thread of the request, or on the client's
    reader thread for a first message.
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
        check_words("algorithm", algorithm)
        check_words("user_claim", user_claim)
        if issuer is not None:
            check_words("issuer", issuer)
        accepted: object = audience
        if not isinstance(accepted, (str, Collection, type(None))) or isinstance(accepted, bytes):
            raise TypeError(
                f"audience must be a text, a list of some, or None, not {excerpt(accepted)}"
            )
        if not is_number(leeway):
            raise TypeError(f"leeway must be a number of seconds, not {excerpt(leeway)}")
        if algorithm.lower() == "none":
            raise ConfigError("algorithm must be one that signs, such as HS256, not 'none'")
        try:
            jwt.get_algorithm_by_name(algorithm)
        except NotImplementedError as error:
            raise ConfigError(
                f"algorithm must be one that PyJWT has, such as HS256, not {excerpt(algorithm)}: "
                f"{error}"
            ) from error
        if not keys:
            raise ConfigError("keys must not be empty: anyone could sign a token")
        self._jwt = jwt
        self._keys = keys
        self._user_claim = user_claim
        self._leeway = leeway
        needed = {"exp": True, user_claim: True, "aud": audience, "iss": issuer}
        self._settings: dict[str, Any] = {
            "algorithms": [algorithm],  # never the algorithm that the token names
            "audience": audience if audience is None or isinstance(audience, str) else [*audience],
            "issuer": issuer,
            "leeway": leeway,
            # A `sub` that is a number means its text, as any user id does.
            "options": {
                "require": [name for name, each in needed.items() if each],
                "verify_sub": False,
            },
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
        if isinstance(user, bool) or not isinstance(user, (str, int)):
            return AuthResult(False, error=f"claim {self._user_claim} is no text and no number")
        return AuthResult(True, user, claims, expires_at=float(claims["exp"]) + self._leeway)

    def _key_of(self, token: str) -> Any:
        if not callable(self._keys) and not isinstance(self._keys, Mapping):
            return self._keys
        kid = self._jwt.get_unverified_header(token).get("kid", "")
        return self._keys(kid) if callable(self._keys) else self._keys.get(kid)
