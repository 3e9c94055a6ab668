"""Origins: compared whole, and which of them a list allows."""

from __future__ import annotations

import pytest

from ws_hub import ConfigError, HubConfig
from ws_hub.origin import fault_of_allowed, is_allowed, parse_origin

CUSTOM = [
    "wails://wails", "wails://wails.localhost:34115", "tauri://localhost", "capacitor://localhost",
    "ionic://localhost", "chrome-extension://aapbdbdomjkkjkaonfhkkikfgjllcleb", "app://-",
    "moz-extension://0b9f3c2e-1f3a-4f6e-9d3b-2d1c6b7a8e9f", "vscode-webview://1abc2def",
]  # fmt: skip


@pytest.mark.parametrize("origin", CUSTOM)
def test_fault_111_an_application_of_its_own_scheme_can_be_listed(origin: str) -> None:
    HubConfig(allowed_origins=[origin])
    assert is_allowed(origin, [origin]) and is_allowed(origin.upper(), [origin])
    assert not is_allowed(origin, ["https://a.example"])
    assert not is_allowed(origin + ".evil", [origin])
    assert not is_allowed(origin, [origin + "x"])
    assert not is_allowed("https" + origin[origin.index(":") :], [origin])


def test_fault_111_null_and_files_can_be_listed() -> None:
    HubConfig(allowed_origins=["null", "file://"])
    assert is_allowed("null", ["null"]) and is_allowed("null", ["file://"])
    assert is_allowed("file://", ["file://"]) and not is_allowed("file://", ["null"])
    for allowed in ([], ["https://a.example"], ["https://*.example"]):
        assert not is_allowed("null", allowed) and not is_allowed("file://", allowed)
    assert not is_allowed("https://a.example", ["null", "file://"])


BELOW = ["https://a.example.com", "https://a.b.c.example.com", "HTTPS://A.EXAMPLE.com:443"]
NOT_BELOW = [
    "https://example.com", "https://evilexample.com", "https://example.com.evil",
    "https://a.example.com.evil", "http://a.example.com", "https://a.example.com:8443",
    "https://.example.com", "https://a..example.com", "https://*.example.com", "null",
    "https://a@b.example.com", "https://evil.org/.example.com", "https://evil.org#.example.com",
    "https://evil.org?.example.com", "https://evil.org\\.example.com", "tauri://a.example.com",
    "https://a.example.com, https://b.example.com", "https://evil.org%2f.example.com",
]  # fmt: skip


@pytest.mark.parametrize("origin", BELOW)
def test_fault_111_a_wildcard_is_one_label_or_more(origin: str) -> None:
    assert is_allowed(origin, ["https://*.example.com"])


@pytest.mark.parametrize("origin", NOT_BELOW)
def test_fault_111_a_wildcard_matches_nothing_else(origin: str) -> None:
    assert not is_allowed(origin, ["https://*.example.com"])


def test_fault_111_a_wildcard_has_a_port_of_its_own() -> None:
    assert is_allowed("http://a.localhost:3000", ["http://*.localhost:3000"])
    assert not is_allowed("http://a.localhost", ["http://*.localhost:3000"])


@pytest.mark.parametrize(
    "item",
    [
        "", " ", "https://", "example.com", "https://example.com/", "https://example.com/path",
        "https://example.com?", "https://example.com#", "https://u@example.com", "https://a b.org",
        "https://a..org", "https://a.org:port", "https://a.org:99999", "https://*", "https://*.",
        "https://a.*.org", "https://*a.org", "https://*.*.org", "https://a*.org", "*://a.org",
        "http://localhost:*", "https://*.10.0.0.1", "https://*.[::1]", "tauri://*.localhost",
        "wss://a.org", "ws://a.org", "ftp://a.org", "file:///home", "file://host", "data:", "NULL",
        "https://b\u00fccher.example", "tauri:localhost", "*.example.com", "**", "//a.org",
    ],
)  # fmt: skip
def test_fault_111_an_origin_that_can_never_match_is_refused(item: str) -> None:
    assert fault_of_allowed(item)
    with pytest.raises(ConfigError, match="allowed_origins must hold origins"):
        HubConfig(allowed_origins=[item])


def test_an_origin_is_scheme_host_and_port() -> None:
    assert parse_origin("HTTP://Example.com") == ("http", "example.com", 80)
    assert parse_origin("https://[::1]:8443") == ("https", "::1", 8443)
    assert parse_origin("tauri://localhost") == ("tauri", "localhost", 0)
