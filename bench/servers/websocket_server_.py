"""The `websocket-server` package: a thread a client, nothing but the standard library."""

from __future__ import annotations

import threading
from typing import Any

from websocket_server import WebsocketServer  # type: ignore[import-untyped]

from .base import Publish, Server, echo, ready_text

__all__ = ["SendToAll"]


class SendToAll(Server):
    """`send_message_to_all()`: a loop of sends over the list of clients."""

    distribution = "websocket-server"

    def start(self) -> int:
        self._server = WebsocketServer("127.0.0.1", 0)
        self._server.set_fn_message_received(_answer)
        # Its own five are too few for the handshakes under way, here and in any real use.
        self._server.socket.listen(1024)
        threading.Thread(target=self._server.run_forever, name="serve", daemon=True).start()
        return int(self._server.port)

    def clients(self) -> int:
        return len(self._server.clients)

    def publisher(self, target: str, size: int, count: int) -> Publish:
        text = ready_text(target, size)
        return lambda: self._server.send_message_to_all(text)


def _answer(client: dict[str, Any], server: Any, message: str) -> None:
    server.send_message(client, echo(message))
