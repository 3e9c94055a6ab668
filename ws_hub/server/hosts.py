"""Which names a server answers to, so that no foreign page reaches it by a name of its own.

Must not know sockets or WSGI. A page whose name its owner makes point to 127.0.0.1 (DNS
rebinding) is of one origin with whatever listens there: the browser lets it read pages and
open WebSockets. What gives it away is the name in `Host`, which a page cannot choose
(FAULTS 123). What a proxy says of itself in `X-Forwarded-Host` does not count: such a page
may set that.
"""

from __future__ import annotations

import contextlib
import ipaddress
import re
from collections.abc import Collection

from ..errors import ConfigError, excerpt

__all__ = ["Hosts", "parse_host"]

_HOST = re.compile(r"(?:\[([0-9a-f:.]+)\]|([a-z0-9_.-]+))(?::\d{0,5})?\Z", re.IGNORECASE | re.ASCII)
_NAME = re.compile(r"(?:\*\.)?[a-z0-9_-]+(?:\.[a-z0-9_-]+)*\Z", re.ASCII)


def parse_host(text: str) -> str | None:
    """Return the name or address in a `Host`, without its port; None for what is none."""
    match = _HOST.match(text.strip())
    if match is None:
        return None
    if match[1] is not None:
        address = _address(match[1])
        return None if address is None else str(address)
    return match[2].lower().removesuffix(".") or None


class Hosts:
    """The names that a server answers to.

    One that is bound to a loopback address answers to `localhost`, what ends in
    `.localhost`, and loopback addresses; one that is bound elsewhere to every name, unless
    some are named.

    Args:
        address: what the server is bound to.
        allowed: further names; `*.example.com` for all below that, "*" for every name.
            Where the server answers to every name, these and its own alone from then on.
    """

    def __init__(self, address: str, allowed: Collection[str] = ()) -> None:
        if isinstance(allowed, (str, bytes)) or not isinstance(allowed, Collection):
            raise ConfigError(f"allowed_hosts must be a collection, not {excerpt(allowed)}")
        names = [_checked(each) for each in allowed]
        bound = _address(address)
        self._loopback = bound is not None and bound.is_loopback
        self._all = "*" in names or (not self._loopback and not names)
        self._names = {name for name in names if not name.startswith("*")}
        self._ends = tuple(name[1:] for name in names if name.startswith("*."))
        if bound is not None and not bound.is_unspecified:
            self._names.add(str(bound))

    @property
    def open(self) -> bool:
        """Whether it answers to every name."""
        return self._all

    def answers_to(self, name: str) -> bool:
        """Say whether a name, as `parse_host` returns it, is one of the server's."""
        return self._all or is_local(name) or name in self._names or name.endswith(self._ends)

    def is_direct(self, name: str) -> bool:
        """Say whether who asked by this name did so on this machine, with no TLS in between."""
        return self._loopback and is_local(name)


def is_local(name: str) -> bool:
    """Say whether a name always means the machine that looks it up."""
    if name == "localhost" or name.endswith(".localhost"):
        return True
    address = _address(name)
    return address is not None and address.is_loopback


def _address(text: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    with contextlib.suppress(ValueError):
        parsed = ipaddress.ip_address(text.partition("%")[0])
        return getattr(parsed, "ipv4_mapped", None) or parsed
    return None


def _checked(name: object) -> str:
    if not isinstance(name, str):
        raise ConfigError(f"allowed_hosts must hold names, not {excerpt(name)}")
    if name == "*":
        return name
    address = _address(name.strip("[]"))
    if address is not None:
        return str(address)
    plain = name.lower().removesuffix(".")
    if _NAME.match(plain) is None:
        raise ConfigError(
            f"allowed_hosts must hold names like example.com or *.example.com, without scheme "
            f"and port, not {excerpt(name)}"
        )
    return plain
