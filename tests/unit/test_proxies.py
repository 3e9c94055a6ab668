"""What is believed of what proxies say."""

from __future__ import annotations

import pytest

from ws_hub.access.proxies import Requester, TrustedProxies

PROXIES = ["10.0.0.0/8", "192.0.2.1", "2001:db8::/32"]


def see(address: str, trusted: list[str] | None = None, **headers: str) -> Requester:
    environ = {"REMOTE_ADDR": address, "REMOTE_PORT": "7", "wsgi.url_scheme": "http"}
    environ |= {f"HTTP_{name.upper()}": value for name, value in headers.items()}
    return TrustedProxies(PROXIES if trusted is None else trusted).requester(environ)


def test_fault_51_headers_of_untrusted_proxies_are_ignored() -> None:
    lies = {"x_forwarded_for": "1.2.3.4", "x_forwarded_proto": "https", "x_forwarded_host": "a"}
    assert see("203.0.113.9", host="own", **lies) == Requester("203.0.113.9:7", "http", "own", True)
    assert see("10.0.0.1", trusted=[], host="own", **lies) == Requester(
        "10.0.0.1:7", "http", "own", True
    )
    assert see("", host="own", **lies) == Requester(":7", "http", "own", True)


@pytest.mark.parametrize(
    ("chain", "client"),
    [
        ("203.0.113.9", "203.0.113.9"),
        ("1.1.1.1, 203.0.113.9", "203.0.113.9"),
        ("127.0.0.1, 203.0.113.9, 10.9.9.9", "203.0.113.9"),
        ("10.1.1.1, 203.0.113.9, 192.0.2.1,10.9.9.9", "203.0.113.9"),
        ("203.0.113.9:4711", "203.0.113.9"),
        ("[2001:db9::1]:4711, 2001:db8::5", "2001:db9::1"),
        ("::ffff:203.0.113.9", "203.0.113.9"),
        ("203.0.113.9, ::ffff:10.0.0.2", "203.0.113.9"),
        ("10.1.1.1, 10.2.2.2", "10.1.1.1"),
        ("203.0.113.9, unknown, 10.2.2.2", "10.2.2.2"),
        ("1.2.3.4\x1b[31m", "10.0.0.1"),
        ("", "10.0.0.1"),
        (" , ", "10.0.0.1"),
    ],
)
def test_fault_51_the_client_is_the_rightmost_that_is_not_trusted(chain: str, client: str) -> None:
    assert see("10.0.0.1", x_forwarded_for=chain).address == client


def test_scheme_and_host_are_what_the_nearest_proxy_wrote() -> None:
    seen = see(
        "::ffff:10.0.0.1",
        host="inner",
        x_forwarded_proto="http, HTTPS",
        x_forwarded_host="evil.example, app.example",
    )
    assert (seen.scheme, seen.host) == ("https", "app.example")
    assert see("10.0.0.1", host="inner", x_forwarded_proto="gopher").scheme == "http"
    assert see("10.0.0.1").host is None


def test_a_unix_socket_is_trusted_if_configured() -> None:
    assert see("", trusted=["unix"], x_forwarded_for="203.0.113.9").address == "203.0.113.9"
    assert (
        TrustedProxies(["10.0.0.0/8"]).requester({"HTTP_X_FORWARDED_FOR": "1.2.3.4"}).address == ""
    )
