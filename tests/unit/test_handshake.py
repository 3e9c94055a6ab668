"""The opening handshake as a decision."""

from __future__ import annotations

import pytest

from ws_hub.protocol.handshake import Request, as_environ, decide, refusal

GOOD = {
    "host": "example.com",
    "upgrade": "websocket",
    "connection": "keep-alive, Upgrade",
    "sec-websocket-key": "dGhlIHNhbXBsZSBub25jZQ==",
    "sec-websocket-version": "13",
}


def request(
    method: str = "GET", version: str = "HTTP/1.1", scheme: str = "http", **headers: str | None
) -> Request:
    merged = {**GOOD, **{name.replace("_", "-"): value for name, value in headers.items()}}
    return Request(
        method,
        version,
        scheme,
        {name: value for name, value in merged.items() if value is not None},
    )


def test_the_example_of_the_rfc_is_accepted() -> None:
    answer = decide(request())
    assert answer.accepted
    assert ("Sec-WebSocket-Accept", "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=") in answer.headers
    assert answer.to_bytes().startswith(
        b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\n"
    )
    assert answer.to_bytes().endswith(b"\r\n\r\n")


@pytest.mark.parametrize("method", ["POST", "HEAD", "PUT"])
def test_another_method_is_405(method: str) -> None:
    answer = decide(request(method=method))
    assert answer.status == "405 Method Not Allowed"
    assert ("Allow", "GET") in answer.headers


@pytest.mark.parametrize("upgrade", [None, "", "h2c"])
def test_plain_http_is_426_with_the_version(upgrade: str | None) -> None:
    answer = decide(request(upgrade=upgrade))
    assert answer.status == "426 Upgrade Required"
    assert ("Sec-WebSocket-Version", "13") in answer.headers
    assert b"ws://" in answer.body


@pytest.mark.parametrize("version", [None, "8", "0", "13, 8", "x"])
def test_another_version_is_426_with_the_supported_one(version: str | None) -> None:
    answer = decide(request(sec_websocket_version=version))
    assert answer.status == "426 Upgrade Required"
    assert ("Sec-WebSocket-Version", "13") in answer.headers


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"version": "HTTP/1.0"}, "HTTP/1.1"),
        ({"version": "HTTP/2"}, "HTTP/1.1"),
        ({"host": None}, "Host"),
        ({"host": " "}, "Host"),
        ({"connection": None}, "Connection"),
        ({"connection": "keep-alive"}, "Connection"),
        ({"content_length": "5"}, "body"),
        ({"transfer_encoding": "chunked"}, "body"),
        ({"sec_websocket_key": None}, "Sec-WebSocket-Key"),
        ({"sec_websocket_key": "x"}, "Sec-WebSocket-Key"),
        ({"sec_websocket_key": "AAAA"}, "Sec-WebSocket-Key"),
        ({"sec_websocket_key": "dGhlIHNhbXBsZSBub25jZQ==é"}, "Sec-WebSocket-Key"),
    ],
)
def test_a_malformed_handshake_is_400_with_the_reason(changes: dict[str, str], text: str) -> None:
    answer = decide(request(**changes))
    assert answer.status == "400 Bad Request"
    assert text.encode() in answer.body


def test_an_empty_body_is_no_body() -> None:
    assert decide(request(content_length="0")).accepted
    assert decide(request(content_length="")).accepted


@pytest.mark.parametrize(
    ("origin", "changes"),
    [
        ("http://example.com", {}),
        ("HTTP://EXAMPLE.com", {}),
        ("http://example.com:80", {}),
        ("http://example.com", {"host": "example.com:80"}),
        ("http://example.com:8080", {"host": "example.com:8080"}),
        ("https://example.com", {"scheme": "https"}),
        ("https://example.com", {}),  # a proxy ended TLS
        ("http://[::1]:80", {"host": "[::1]"}),
    ],
)
def test_fault_03_the_requests_own_origin_may_connect(origin: str, changes: dict[str, str]) -> None:
    assert decide(request(origin=origin, **changes)).accepted


@pytest.mark.parametrize(
    "origin",
    [
        "null",
        "",
        "http://evil.example",
        "http://example.com.evil",
        "http://evilexample.com",
        "http://example.com:81",
        "http://user@example.com",
        "http://example.com/path",
        "http://example.com, http://evil.example",
        "http://example.com http://evil.example",
        "ftp://example.com",
        "http://example.com:port",
        "http://",
    ],
)
def test_fault_01_03_any_other_origin_is_403(origin: str) -> None:
    assert decide(request(origin=origin)).status == "403 Forbidden"


def test_a_plain_origin_does_not_reach_a_secure_server() -> None:
    assert not decide(request(scheme="https", origin="http://example.com")).accepted


def test_allowed_origins_may_connect_and_compare_normalised() -> None:
    allowed = ["https://app.example", "http://localhost:3000"]
    assert decide(request(origin="https://APP.example:443"), allowed_origins=allowed).accepted
    assert decide(request(origin="http://localhost:3000"), allowed_origins=allowed).accepted
    assert not decide(request(origin="http://localhost"), allowed_origins=allowed).accepted
    assert not decide(request(origin="http://app.example"), allowed_origins=allowed).accepted


def test_a_star_allows_every_origin() -> None:
    assert decide(request(origin="null"), allowed_origins=["*"]).accepted


def test_fault_02_no_origin_is_accepted_unless_one_is_required() -> None:
    assert decide(request()).accepted
    assert decide(request(), require_origin=True).status == "403 Forbidden"


def test_a_refusal_has_its_content_length() -> None:
    answer = refusal("503 Service Unavailable", "later", ("Retry-After", "5"))
    assert not answer.accepted
    assert answer.to_bytes() == (
        b"HTTP/1.1 503 Service Unavailable\r\n"
        b"Content-Type: text/plain; charset=utf-8\r\nContent-Length: 6\r\nRetry-After: 5\r\n\r\n"
        b"later\n"
    )


def test_compression_is_agreed_on_when_it_is_wanted_and_offered() -> None:
    offered = request(sec_websocket_extensions="permessage-deflate; client_max_window_bits")
    assert not decide(offered).compression
    assert not decide(request(), compression=True).compression
    answer = decide(offered, compression=True)
    assert answer.compression and answer.accepted
    assert answer.to_bytes().count(b"Sec-WebSocket-Extensions: permessage-deflate; ") == 1


@pytest.mark.parametrize(
    ("head", "environ"),
    [
        (b"", {}),
        (b"GET / HTTP/1.1\r\nHost: a\r\n", {}),  # there may be more
        (b"GET / HTTP/1.1\r\n\r\n", {}),
        (b"GET / HTTP/1.1\r\nHost : a\r\nno field\r\n\r\n", {}),
        (
            b"GET / HTTP/1.1\r\nHost: a:1\r\nX-A:1\r\nx-a: \xe9 \r\n\r\nbody: 1\r\n\r\n",
            {"HTTP_HOST": "a:1", "HTTP_X_A": "1,\xe9"},
        ),
    ],
)
def test_the_fields_of_a_head_that_is_complete(head: bytes, environ: dict[str, str]) -> None:
    assert as_environ(head) == environ
