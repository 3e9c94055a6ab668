"""The host names that a server answers to: protection against DNS rebinding.

The owner of a site can make its name point to 127.0.0.1. For the browser its page then has
the same origin as a server there: it may read the server's pages and open WebSockets. The
Host header shows the foreign name, and a page cannot choose it (FAULTS 123).
`X-Forwarded-Host` does not count: such a page may set it.
"""

from __future__ import annotations

import re
from collections.abc import Collection

from ..errors import ConfigError, excerpt
from ..ip_address import parse_address

__all__ = ["Hosts", "parse_host"]

_HOST = re.compile(r"(?:\[([0-9a-f:.]+)\]|([a-z0-9_.-]+))(?::\d{0,5})?\Z", re.IGNORECASE | re.ASCII)
_NAME = re.compile(r"(?:\*\.)?[a-z0-9_-]+(?:\.[a-z0-9_-]+)*\Z", re.ASCII)


def parse_host(text: str) -> str | None:
    """Return the name or address of a Host header without its port; None for a bad one."""
    match = _HOST.match(text.strip())
    if match is None:
        return None
    if match[1] is not None:
        address = parse_address(match[1])
        return None if address is None else str(address)
    return match[2].lower().removesuffix(".") or None


class Hosts:
    """The host names that a server answers to.

    A server bound to a loopback address answers to `localhost`, to names that end in
    `.localhost`, and to loopback addresses. One bound elsewhere answers to every name,
    unless `allowed` has some.

    Args:
        address: the address that the server is bound to.
        allowed: further names; `*.example.com` for all names below it, "*" for every name.
            A server bound elsewhere then answers to these names and its own address only.
    """

    def __init__(self, address: str, allowed: Collection[str] = ()) -> None:
        if isinstance(allowed, (str, bytes)) or not isinstance(allowed, Collection):
            raise ConfigError(
                f"allowed_hosts must be a collection of names, not {excerpt(allowed)}"
            )
        names = [_checked(each) for each in allowed]
        bound = parse_address(address)
        self._loopback = bound is not None and bound.is_loopback
        self._all = "*" in names or (not self._loopback and not names)
        self._names = {name for name in names if not name.startswith("*")}
        self._ends = tuple(name[1:] for name in names if name.startswith("*."))
        if bound is not None and not bound.is_unspecified:
            self._names.add(str(bound))

    @property
    def open(self) -> bool:
        """Whether the server answers to every name."""
        return self._all

    def answers_to(self, name: str) -> bool:
        """Return whether the server answers to a name, as `parse_host` returns it."""
        return self._all or is_local(name) or name in self._names or name.endswith(self._ends)

    def is_direct(self, name: str) -> bool:
        """Return whether a request by this name comes from this machine, without a proxy."""
        return self._loopback and is_local(name)


def is_local(name: str) -> bool:
    """Return whether a name always means the machine that resolves it."""
    if name == "localhost" or name.endswith(".localhost"):
        return True
    address = parse_address(name)
    return address is not None and address.is_loopback


def _checked(name: object) -> str:
    if not isinstance(name, str):
        raise ConfigError(f"allowed_hosts must hold names, not {excerpt(name)}")
    if name == "*":
        return name
    address = parse_address(name.strip("[]"))
    if address is not None:
        return str(address)
    plain = name.lower().removesuffix(".")
    if _NAME.match(plain) is None:
        raise ConfigError(
            f"allowed_hosts must hold names like example.com or *.example.com, without scheme "
            f"and port, not {excerpt(name)}"
        )
    return plain
