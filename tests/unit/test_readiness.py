"""What says that a program of `ws-hub up` is ready."""

from __future__ import annotations

import http.server
import socket
import threading

import pytest

from tests.support import TIMEOUT
from ws_hub.cli import readiness


class _Server(http.server.HTTPServer):
    address_family = socket.AF_INET6


@pytest.mark.skipif(not socket.has_ipv6, reason="needs IPv6")
def test_an_url_of_an_ipv6_address_has_the_usual_port(monkeypatch: pytest.MonkeyPatch) -> None:
    with _Server(("::1", 0), http.server.SimpleHTTPRequestHandler) as server:
        monkeypatch.setattr(server.RequestHandlerClass, "log_message", lambda *_: None)
        monkeypatch.setitem(readiness._PORTS, "http", server.server_port)
        thread = threading.Thread(target=server.handle_request)
        thread.start()
        name, found = readiness.parse_readiness("web=http://[::1]/none", {})
        assert (name, found.look()) == ("web", True)
        thread.join(TIMEOUT)
