"""A small message is not held back for the acknowledgement of the one before it.

With Nagle's algorithm (RFC 896) the kernel keeps a second small message until the first is
acknowledged, which a peer may delay by 40 ms.
"""

from __future__ import annotations

import socket
import ssl
import threading
import wsgiref.simple_server
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from tests.integration.apps.launch import CERTIFICATE, client_context
from tests.integration.apps.live import live
from tests.integration.apps.sock import serve_routes
from tests.support import RawPeer
from ws_hub import Hub, serve
from ws_hub.connection.transport import Transport


class Quiet(wsgiref.simple_server.WSGIRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: Any) -> None:
        pass


@contextmanager
def served() -> Iterator[RawPeer]:
    with live() as hub, hub.peer() as peer:
        yield peer


@contextmanager
def served_with_tls() -> Iterator[RawPeer]:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(CERTIFICATE)
    with Hub() as hub, serve(hub, ssl_context=context) as server:
        with RawPeer(server.host, server.port, ssl_context=client_context()) as peer:
            yield peer


@contextmanager
def adopted() -> Iterator[RawPeer]:
    with Hub() as hub:
        server = wsgiref.simple_server.make_server(
            "127.0.0.1", 0, hub.handler(), handler_class=Quiet
        )
        thread = threading.Thread(target=server.serve_forever, args=(0.01,), name="test:server")
        thread.start()
        try:
            with RawPeer("127.0.0.1", server.server_port) as peer:
                yield peer
        finally:
            server.shutdown()
            thread.join()
            server.server_close()


@contextmanager
def attached() -> Iterator[RawPeer]:
    with serve_routes() as site, site.peer() as peer:
        yield peer


@pytest.mark.parametrize("door", [served, served_with_tls, adopted, attached])
def test_small_messages_are_sent_at_once(door: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[socket.socket] = []
    init = Transport.__init__

    def note(transport: Transport, sock: socket.socket, **options: Any) -> None:
        init(transport, sock, **options)
        made.append(sock)

    monkeypatch.setattr(Transport, "__init__", note)
    with door() as peer:
        peer.send_json({"type": "ping", "id": 1})
        assert peer.recv_json()["type"] == "pong"
        assert [sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY) != 0 for sock in made] == [
            True
        ]
