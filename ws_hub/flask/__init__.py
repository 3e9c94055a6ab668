"""A Flask extension: serves a hub in a Flask application, by the application's own settings.

Flask is imported here and nowhere else in the package; `pip install 'ws-hub[flask]'`
installs it.
"""

from __future__ import annotations

try:
    import flask  # noqa: F401 - before the modules below, whose error would not name the extra
except ImportError as error:
    raise ImportError("ws_hub.flask needs Flask: pip install 'ws-hub[flask]'") from error

from .extension import HubExtension
from .session_auth import FlaskSessionAuth

__all__ = ["FlaskSessionAuth", "HubExtension"]
