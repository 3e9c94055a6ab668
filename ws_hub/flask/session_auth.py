"""Authenticates the clients of a hub by the session of a Flask application."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from flask import has_request_context, session
from flask.sessions import NullSession

from ..access.authenticators import AuthResult
from ..access.tokens import TOKEN_KEY
from ..log import get_logger
from ..validation import check_function, check_words

__all__ = ["FlaskSessionAuth"]

logger = get_logger(__name__)


class FlaskSessionAuth:
    """Authenticates users by the session of a Flask application with a HubExtension.

    It is the session of the handshake, opened as Flask does, and is not saved. The session is
    in a cookie, so a handshake without an Origin is refused (FAULTS 2).

    Args:
        key: the session's key of the user id, a text, an int or a UUID: "_user_id" for
            Flask-Login.
        validate: called with the session instead, returns an AuthResult.

    Threads: any; `validate` is called on the thread of the request.
    """

    def __init__(
        self,
        key: str = "user_id",
        validate: Callable[[Mapping[str, Any]], AuthResult] | None = None,
    ) -> None:
        check_words("key", key)
        if validate is not None:
            check_function("validate", validate, "session")
        self.key = key
        self._validate = validate

    def __call__(self, environ: Mapping[str, Any]) -> AuthResult:
        """Authenticate the session of a request."""
        if TOKEN_KEY in environ or not has_request_context():
            # A first message, which the browser's page sends and not its cookie; or a hub
            # without a HubExtension.
            return AuthResult(False, error="the request has no Flask session")
        if isinstance(session, NullSession):
            logger.error("the application has no secret key, so it has no sessions")
            return AuthResult(False, error="no secret key")
        if self._validate is not None:
            return self._validate(session)
        user = session.get(self.key)
        if user is None:
            return AuthResult(False, error="not logged in")
        try:
            return AuthResult(True, user)
        except TypeError:  # the str() of an object may be one id for many users
            kind = type(user).__name__
            logger.error(
                "session[%r] must be a user id, a text, an int or a UUID, and is a %s: refused",
                self.key,
                kind,
            )
            return AuthResult(False, error=f"the user id in the session is a {kind}")
