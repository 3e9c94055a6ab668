"""Parses IP addresses, the same few of them again and again: a handshake asks four times.

Must not know what an address is for.
"""

from __future__ import annotations

import functools
import ipaddress

__all__ = ["Address", "parse_address"]

Address = ipaddress.IPv4Address | ipaddress.IPv6Address

_LONGEST = 64  # characters, with a zone; longer texts are not worth a place in the cache


def parse_address(text: str) -> Address | None:
    """Return an address, without its zone; the IPv4 address of a mapped one; None for others.

    Threads: any.
    """
    return _parse(text) if len(text) <= _LONGEST else None


@functools.lru_cache(1024)
def _parse(text: str) -> Address | None:
    try:
        parsed = ipaddress.ip_address(text.partition("%")[0])
    except ValueError:
        return None
    return getattr(parsed, "ipv4_mapped", None) or parsed
