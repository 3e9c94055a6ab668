"""What says that a program of `ws-hub up` is ready."""

from __future__ import annotations

import http.client
import http.server
import socket
import threading

import pytest

from tests.support import TIMEOUT
from ws_hub.cli import readiness
from ws_hub.lines import GOES_ON, REPLACED


class _Server(http.server.HTTPServer):
    address_family = socket.AF_INET6


def test_a_text_is_found_in_a_line_that_comes_in_pieces() -> None:
    output = readiness.Output("now ready")
    for text, stream, has in [
        ("now", "stdout", False),
        (" ready", "stdout", False),
        ("x" * 9000 + "\x1b[1mnow r\x1b[0m" + GOES_ON, "stdout", False),
        ("eady", "stderr", False),
        ("ea" + GOES_ON, "stdout", False),
        ("dy", "stdout", True),
        ("y", "stdout", False),
        ("now ready" + REPLACED, "stdout", False),
        ("now ready", "stderr", True),
    ]:
        assert output.has(text, stream) is has, text
    assert not readiness.Output("").has("", "stdout")


@pytest.mark.skipif(not socket.has_ipv6, reason="needs IPv6")
def test_an_url_of_an_ipv6_address_has_the_usual_port(monkeypatch: pytest.MonkeyPatch) -> None:
    with _Server(("::1", 0), http.server.SimpleHTTPRequestHandler) as server:
        monkeypatch.setattr(server.RequestHandlerClass, "log_message", lambda *_: None)
        monkeypatch.setattr(http.client.HTTPConnection, "default_port", server.server_port)
        thread = threading.Thread(target=server.handle_request)
        thread.start()
        name, found = readiness.parse_readiness("web=http://[::1]/none", {})
        assert (name, found.look()) == ("web", True)
        thread.join(TIMEOUT)
