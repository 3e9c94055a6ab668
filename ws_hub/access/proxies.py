"""What the proxies in front of a server say of a request, as far as they are trusted.

Must not know sockets or the hub: an environ in (a mapping as in PEP 3333), facts out.
Anybody can write `X-Forwarded-For`, so nothing of it is believed but what trusted proxies
have added: read from the right, the first address that is not one of theirs is the
client's, and what stands left of it is the client's own invention (FAULTS 51).
"""

from __future__ import annotations

import contextlib
import ipaddress
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

__all__ = ["Forwarded", "Seen"]

_UNIX = "unix"  # among trusted proxies: whoever connects by a Unix socket, without an address

# Whoever writes one of these and is not trusted is a proxy that nobody has named, or wants to
# be taken for one: believed only where no stranger connects from, and only that much.
_BY_PROXY = ("HTTP_X_FORWARDED_FOR", "HTTP_FORWARDED", "HTTP_X_REAL_IP", "HTTP_VIA")

_UNKNOWN = "unknown"  # all of those whose address nobody knows

Address = ipaddress.IPv4Address | ipaddress.IPv6Address


@dataclass(frozen=True, slots=True)
class Seen:
    """A request as its client sent it.

    Args:
        address: of the client, with its port where that is known; "" where it has none.
        scheme: `http` or `https`.
        host: what the client called the server; None when it did not say.
        shared: whether the address is, as far as can be seen, a proxy's, behind which
            there may be anybody, or there is none.
    """

    address: str
    scheme: str
    host: str | None
    shared: bool = False

    @property
    def network(self) -> str:
        """What connections are counted by: the address, of IPv6 the network of 64 bits.

        Who is given IPv6 has such a network whole, with as many addresses as they like.
        """
        parsed = _parse(self.address)
        if isinstance(parsed, ipaddress.IPv6Address):
            return str(ipaddress.ip_network((int(parsed) >> 64 << 64, 64)))
        return str(parsed or _UNKNOWN)

    @property
    def payer(self) -> str:
        """The network that what the client costs is charged to; "" where that may be anybody."""
        return "" if self.shared else self.network


class Forwarded:
    """Sees through trusted proxies.

    Args:
        trusted: their networks and addresses; "unix" for those without an address.
    """

    def __init__(self, trusted: Collection[str] = ()) -> None:
        self._networks = [ipaddress.ip_network(each) for each in trusted if each != _UNIX]
        self._unix = _UNIX in trusted

    def see(self, environ: Mapping[str, Any]) -> Seen:
        """Return what is known of a request's client."""
        address, port = environ.get("REMOTE_ADDR") or "", environ.get("REMOTE_PORT", "")
        scheme, host = environ.get("wsgi.url_scheme", "http"), environ.get("HTTP_HOST")
        if not self._trusts(address):
            shown = f"[{address}]" if ":" in address else address
            parsed = _parse(address)
            shared = parsed is None or (not parsed.is_global and _is_proxied(environ))
            return Seen(f"{shown}:{port}" if port else address, scheme, host, shared)
        # The last of each is what the nearest proxy wrote, and that one is trusted.
        told = _items(environ.get("HTTP_X_FORWARDED_PROTO", ""))
        if told and told[-1].lower() in ("http", "https"):
            scheme = told[-1].lower()
        told = _items(environ.get("HTTP_X_FORWARDED_HOST", ""))
        if told:
            host = told[-1]
        address = self._client(environ, address)
        return Seen(address, scheme, host, shared=self._trusts(address) or not address)

    def _client(self, environ: Mapping[str, Any], address: str) -> str:
        for hop in reversed(_items(environ.get("HTTP_X_FORWARDED_FOR", ""))):
            parsed = _parse(hop)
            if parsed is None:
                break  # nobody could say whose that is: as far as the last that is known
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
    """Say whether a request claims to have come by a proxy."""
    return any(name in environ for name in _BY_PROXY)


def _items(value: str) -> list[str]:
    return [item.strip() for item in value.split(",") if item.strip()]


def _parse(text: str) -> Address | None:
    """Return an address, without the port that some proxies add; None for anything else."""
    if text.startswith("["):
        text = text[1:].partition("]")[0]
    elif text.count(":") == 1:
        text = text.partition(":")[0]
    with contextlib.suppress(ValueError):
        parsed = ipaddress.ip_address(text.partition("%")[0])
        return getattr(parsed, "ipv4_mapped", None) or parsed
    return None
