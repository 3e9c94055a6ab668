"""The context of a web framework, in which an application's functions run.

A framework's part (`ws_hub.flask`) puts a function into the environ of each request. It is
called for each function of the application that is about this request or about the client
that came of it, on any thread, and returns the context manager that is entered around that
one call. After the request it gets what `kept` has kept: the strings of the environ, because
the server's objects are invalid then.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from contextlib import AbstractContextManager
from typing import Any

__all__ = ["CONTEXT_KEY", "Context", "context_of", "kept", "texts"]

CONTEXT_KEY = "ws_hub.context"

Context = AbstractContextManager[object]
Environ = Mapping[str, Any]

_NO_CONTEXT: Context = contextlib.nullcontext()  # may be entered any number of times


def context_of(environ: Environ | None) -> Context:
    """Return the context of a request; one that does nothing where no framework set one."""
    enter = None if environ is None else environ.get(CONTEXT_KEY)
    return _NO_CONTEXT if enter is None else enter(environ)


def texts(environ: Environ) -> dict[str, Any]:
    """Return what of an environ is valid after its request: its strings, and its context."""
    return {
        key: value for key, value in environ.items() if isinstance(value, str) or key == CONTEXT_KEY
    }


def kept(environ: Environ) -> Environ | None:
    """Return what a connection keeps of its handshake: None where no framework set a context."""
    return texts(environ) if CONTEXT_KEY in environ else None
