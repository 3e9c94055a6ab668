"""The ways to push from Flask that there are, on Werkzeug's threaded server."""

from __future__ import annotations

import threading
from typing import Any

from flask import Flask
from werkzeug.serving import make_server

from ws_hub import middleware

from .base import Publish, Server, echo, ready_text, reports
from .hub import HubServer

__all__ = [
    "CompressingFlaskSock",
    "FlaskSock",
    "FlaskSocketIO",
    "FlaskWebSockets",
    "HubBesideFlask",
]


class _Werkzeug(Server):
    """A Flask application on the server that `app.run(threaded=True)` uses."""

    def start(self) -> int:
        self._server = make_server("127.0.0.1", 0, self.application(), threaded=True)
        self._server.socket.listen(1024)
        threading.Thread(target=self._server.serve_forever, name="serve", daemon=True).start()
        return int(self._server.server_port)

    def application(self) -> Flask:
        """Return the application, with an ordinary page beside the WebSocket."""
        self._app = Flask("bench")
        self._app.add_url_rule("/", view_func=lambda: "ok", endpoint="page")
        self.prepare()
        return self._app

    def prepare(self) -> None:
        """Add the WebSocket to the application."""
        raise NotImplementedError


class HubBesideFlask(_Werkzeug, HubServer):
    """ws_hub on the server of the application, as README has it."""

    def prepare(self) -> None:
        self.hub.start()
        self._app.wsgi_app = middleware(  # type: ignore[method-assign]
            self._app.wsgi_app, self.hub, path=self.path
        )


class FlaskSock(_Werkzeug):
    """A set of connections, and a loop of `send()` over it."""

    path = "/ws"
    distribution = "flask-sock"

    def prepare(self) -> None:
        from flask_sock import Sock  # type: ignore[import-untyped]

        # guards: the connections. Taken alone.
        self._lock = threading.Lock()
        self._connections: dict[Any, None] = {}
        Sock(self._app).route(self.path)(self._live)

    def _live(self, connection: Any) -> None:
        with self._lock:
            self._connections[connection] = None
        try:
            while True:
                connection.send(echo(connection.receive()))
        finally:
            with self._lock:
                del self._connections[connection]

    def clients(self) -> int:
        return len(self._connections)

    def publisher(self, target: str, size: int, count: int) -> Publish:
        text = ready_text(target, size)
        return lambda: self._send(text)

    def _send(self, text: str) -> None:
        with self._lock:
            everybody = list(self._connections)
        for connection in everybody:
            connection.send(text)


class CompressingFlaskSock(FlaskSock):
    """The same: it compresses for whoever offers to take that, and cannot be told not to."""

    def publisher(self, target: str, size: int, count: int) -> Publish:
        texts = reports(size)
        return lambda: self._send(next(texts))


class FlaskSocketIO(_Werkzeug):
    """`emit()` to everybody, threading mode, WebSocket from the start."""

    path = "/socket.io/?EIO=4&transport=websocket"
    greeting = "40"  # joins the default namespace
    distribution = "flask-socketio"
    message_queue: str | None = None  # the address of what connects several processes

    def prepare(self) -> None:
        from flask_socketio import SocketIO  # type: ignore[import-untyped]

        # guards: the number. Taken alone.
        self._lock = threading.Lock()
        self._connected = 0
        # Clients that are not asked for a while do not answer its pings, and would be cut.
        self._socketio = SocketIO(
            self._app,
            async_mode="threading",
            ping_interval=3600,
            message_queue=self.message_queue,
        )
        self._socketio.on("connect")(lambda auth: self._count(1))
        self._socketio.on("disconnect")(lambda reason: self._count(-1))

    def _count(self, by: int) -> None:
        with self._lock:
            self._connected += by

    def clients(self) -> int:
        return self._connected

    def publisher(self, target: str, size: int, count: int) -> Publish:
        text = ready_text(target, size)
        return lambda: self._socketio.emit("event", text)


class FlaskWebSockets(_Werkzeug):
    """`publish()` to a channel that every connection subscribes to."""

    path = "/ws"
    distribution = "flask-websockets"
    channel = "everybody"

    def prepare(self) -> None:
        from flask_websockets import WebSockets

        # guards: the number. Taken alone.
        self._lock = threading.Lock()
        self._connected = 0
        self._websockets = WebSockets(self._app)
        self._websockets.route(self.path)(self._live)

    def _live(self, connection: Any) -> None:
        with self._websockets.subscribe(connection, [self.channel]):
            self._count(1)
            try:
                for text in connection.iter_data():
                    connection.send(echo(text))
            finally:
                self._count(-1)

    def _count(self, by: int) -> None:
        with self._lock:
            self._connected += by

    def clients(self) -> int:
        return self._connected

    def publisher(self, target: str, size: int, count: int) -> Publish:
        text = ready_text(target, size)
        return lambda: self._websockets.publish(text, [self.channel])
