"""Finds the client of a request behind trusted proxies.

An environ goes in (a mapping as in PEP 3333), facts come out. Anyone can send
`X-Forwarded-For`, so only the entries that trusted proxies have added are believed: read
from the right, the first address that is not a trusted proxy's is the client's, and the
entries left of it may be forged by the client (FAULTS 51).
"""

from __future__ import annotations

import ipaddress
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

from ..ip_address import Address, parse_address

__all__ = ["Requester", "TrustedProxies"]

_UNIX = "unix"  # among trusted proxies: connections by a Unix socket, which have no address

# A request with one of these headers from an untrusted address comes from a proxy that the
# settings do not name, or pretends to. It is believed only from private addresses, and only as
# evidence that the address may be shared.
_BY_PROXY = ("HTTP_X_FORWARDED_FOR", "HTTP_FORWARDED", "HTTP_X_REAL_IP", "HTTP_VIA")

_UNKNOWN = "unknown"  # the network of all connections without a known address


@dataclass(frozen=True, slots=True)
class Requester:
    """The client of a request, as its trusted proxies report it.

    Args:
        address: the client's address, with its port where that is known; "" without one.
        scheme: `http` or `https`.
        host: the host that the client asked for; None when the request names none.
        shared: whether the address may be that of a proxy with many clients behind it, or is
            missing.
    """

    address: str
    scheme: str
    host: str | None
    shared: bool = False

    @property
    def network(self) -> str:
        """The key by which connections are counted: the address, for IPv6 its network of 64 bits.

        An IPv6 customer is given a whole network of 64 bits, so one address would be no limit.
        """
        parsed = _parse(self.address)
        if isinstance(parsed, ipaddress.IPv6Address):
            return str(ipaddress.ip_network((int(parsed) >> 64 << 64, 64)))
        return str(parsed or _UNKNOWN)

    @property
    def payer(self) -> str:
        """The network that the client's usage is charged to; "" where it may be shared."""
        return "" if self.shared else self.network


class TrustedProxies:
    """Reads the headers of trusted proxies.

    Args:
        trusted: networks and addresses of proxies; "unix" for connections without an address.
    """

    def __init__(self, trusted: Collection[str] = ()) -> None:
        self._networks = [ipaddress.ip_network(each) for each in trusted if each != _UNIX]
        self._unix = _UNIX in trusted

    def requester(self, environ: Mapping[str, Any]) -> Requester:
        """Return address, scheme and host of a request's client."""
        address, port = environ.get("REMOTE_ADDR") or "", environ.get("REMOTE_PORT", "")
        scheme, host = environ.get("wsgi.url_scheme", "http"), environ.get("HTTP_HOST")
        if not self._trusts(address):
            shown = f"[{address}]" if ":" in address else address
            parsed = _parse(address)
            shared = parsed is None or (_is_proxied(environ) and not parsed.is_global)
            return Requester(f"{shown}:{port}" if port else address, scheme, host, shared)
        # The last value of each was written by the nearest proxy, which is trusted.
        told = _items(environ.get("HTTP_X_FORWARDED_PROTO", ""))
        if told and told[-1].lower() in ("http", "https"):
            scheme = told[-1].lower()
        told = _items(environ.get("HTTP_X_FORWARDED_HOST", ""))
        if told:
            host = told[-1]
        address = self._client(environ, address)
        return Requester(address, scheme, host, shared=self._trusts(address) or not address)

    def _client(self, environ: Mapping[str, Any], address: str) -> str:
        for hop in reversed(_items(environ.get("HTTP_X_FORWARDED_FOR", ""))):
            parsed = _parse(hop)
            if parsed is None:
                break  # not an address: the client is the last known one
            address = str(parsed)
            if not self._trusts(address):
                break
        return address

    def _trusts(self, address: str) -> bool:
        if not address:
            return self._unix
        parsed = _parse(address) if self._networks else None
        return parsed is not None and any(
            parsed.version == network.version and parsed in network for network in self._networks
        )


def _is_proxied(environ: Mapping[str, Any]) -> bool:
    """Return whether a request claims to have passed through a proxy."""
    return any(name in environ for name in _BY_PROXY)


def _items(value: str) -> list[str]:
    return [item.strip() for item in value.split(",") if item.strip()]


def _parse(text: str) -> Address | None:
    """Return an address, without the port that some proxies add; None for anything else."""
    if text.startswith("["):
        text = text[1:].partition("]")[0]
    elif text.count(":") == 1:
        text = text.partition(":")[0]
    return parse_address(text)
