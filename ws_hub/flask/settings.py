"""What the `WS_HUB_*` keys of an application's config set.

`WS_HUB_<FIELD>` is a field of HubConfig; the three others, of `Places`, say where things are
served. An unknown key is refused: a misspelt limit would be no limit.
"""

from __future__ import annotations

import dataclasses
import difflib
import enum
import re
from collections.abc import Mapping
from typing import Any

from ..config import ChannelRule, HubConfig, as_rules
from ..errors import ConfigError, excerpt

__all__ = ["UNSET", "Place", "Places", "differing", "hub_settings", "places"]

_PREFIX = "WS_HUB_"
_FIELDS = {_PREFIX + field.name.upper(): field.name for field in dataclasses.fields(HubConfig)}
_PATH = re.compile(r"/[^\s<>?#]*")
# What else is guessed, in the words of other libraries: too far from the right key to be found
# by its letters.
_GUESSED = {
    "ALLOWED_HOSTS": "ALLOWED_ORIGINS",
    "AUTH": "AUTHENTICATOR",
    "AUTHORISER": "CHANNEL_AUTHORISER",
    "AUTHORIZER": "CHANNEL_AUTHORISER",
    "CHANNELS": "RULES",
    "CORS": "ALLOWED_ORIGINS",
    "CORS_ORIGINS": "ALLOWED_ORIGINS",
    "ENDPOINT": "PATH",
    "HEARTBEAT_TIMEOUT": "PONG_TIMEOUT",
    "HISTORY_SIZE": "RULES",
    "JS": "JS_PATH",
    "JS_URL": "JS_PATH",
    "LOGIN": "AUTHENTICATOR",
    "MAX_CLIENTS": "MAX_CONNECTIONS",
    "MAX_CONNECTIONS_PER_IP": "MAX_CONNECTIONS_PER_ADDRESS",
    "ON_CLOSE": "ON_DISCONNECT",
    "ORIGIN": "ALLOWED_ORIGINS",
    "PING_INTERVAL": "HEARTBEAT_INTERVAL",
    "PREFIX": "PATH",
    "PROXY": "TRUSTED_PROXIES",
    "RATE_LIMIT": "MAX_MESSAGE_RATE",
    "ROUTE": "PATH",
    "SCRIPT": "JS_PATH",
    "TOKEN": "AUTHENTICATOR",
    "URL": "PATH",
    "VIEWER_PATH": "VIEWER_PREFIX",
    "WEBSOCKET_PATH": "PATH",
    "WS_PATH": "PATH",
    "WS_URL": "PATH",
} | {field.name.upper(): "RULES" for field in dataclasses.fields(ChannelRule)}


class Unset(enum.Enum):
    """The type of `UNSET`: an argument that was left out, where None has a meaning."""

    UNSET = "unset"


UNSET = Unset.UNSET
Place = str | None | Unset


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Places:
    """The paths that the extension serves, below that of the application; None for not at all.

    Args:
        path: of the WebSocket.
        js_path: of the browser client.
        viewer_prefix: of the viewer's page.
    """

    path: str | None = "/ws"
    js_path: str | None = "/ws_hub.js"
    viewer_prefix: str | None = None

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            name, value = field.name, getattr(self, field.name)
            if value is None:
                continue
            if not isinstance(value, str) or _PATH.fullmatch(value) is None:
                raise ConfigError(f"{name} must be a path (`/live`) or None, not {excerpt(value)}")
        if self.viewer_prefix is not None and not self.viewer_prefix.strip("/"):
            raise ConfigError(
                "viewer_prefix must be a path below the root, such as `/live`: `/` is the "
                "application's"
            )


_PLACES = {_PREFIX + field.name.upper(): field.name for field in dataclasses.fields(Places)}


def places(config: Mapping[str, Any], *given: Mapping[str, Place]) -> Places:
    """Return where things are served: by the last of `given` that says it, else by the config.

    Raises ConfigError for what is no path.
    """
    found = {name: config[key] for key, name in _PLACES.items() if key in config}
    for each in given:
        found |= {name: value for name, value in each.items() if value is not UNSET}
    return Places(**found)


def hub_settings(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return the fields of HubConfig that an application's config sets.

    Raises ConfigError for an unknown key, and for an invalid value or combination.
    """
    for key in config:
        if key == "WS_HUB" or key.startswith("WSHUB_"):
            raise ConfigError(
                f"app.config: {key} sets nothing: use a key for each field of HubConfig, such as "
                "WS_HUB_MAX_CONNECTIONS and WS_HUB_RULES"
            )
        if key.startswith(_PREFIX) and key not in _FIELDS and key not in _PLACES:
            near = _nearest(key)
            raise ConfigError(f"app.config: unknown key {key}; did you mean {near}?")
    fields = {name: config[key] for key, name in _FIELDS.items() if key in config}
    if "rules" in fields:
        try:
            fields["rules"] = as_rules(fields["rules"])
        except ConfigError as error:
            raise ConfigError(f"app.config: WS_HUB_RULES: {error}") from None
    try:
        HubConfig(**fields)
    except ConfigError as error:
        raise ConfigError(
            f"app.config, whose WS_HUB_ keys are fields of HubConfig: {error}"
        ) from None
    return fields


def _nearest(key: str) -> str:
    """Return the known key that an unknown one was most likely meant to be."""
    name = key.removeprefix(_PREFIX)  # which all have in common
    known = [each.removeprefix(_PREFIX) for each in (*_FIELDS, *_PLACES)]
    near = _GUESSED.get(name) or difflib.get_close_matches(name, known, 1, 0.0)[0]
    return _PREFIX + near


def differing(fields: Mapping[str, Any], config: HubConfig) -> list[str]:
    """Return the keys of fields that have another value in a hub's settings."""
    return [
        _PREFIX + name.upper()
        for name, value in fields.items()
        if _comparable(value) != _comparable(getattr(config, name))
    ]


def _comparable(value: object) -> object:
    return tuple(value) if isinstance(value, list) else value
