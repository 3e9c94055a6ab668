"""Another library's server under the same faults: python -m tests.chaos.peer NAME ...

The other arguments, and the commands, are those of `app`; FILE and CLOCK are not used. Two
threads publish numbers to everybody, in a loop of `send()` with flask-sock and by `emit()` with
Flask-SocketIO.
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
import threading
import time
from collections.abc import Callable
from typing import Any

from flask import Flask
from flask_sock import Sock  # type: ignore[import-untyped]
from simple_websocket import ConnectionClosed
from werkzeug.serving import make_server

from tests.chaos.plan import FIRM, LOOSE, MARK, data_of

PAUSE = 0.025  # seconds between two messages of a thread

Publish = Callable[[dict[str, Any]], object]


def with_flask_sock(app: Flask) -> Publish:
    """Add a WebSocket at /ws; return what sends to all that are connected."""
    app.config["SOCK_SERVER_OPTIONS"] = {"ping_interval": 2}
    # guards: the connections. Taken alone.
    lock = threading.Lock()
    connections: dict[Any, None] = {}

    @Sock(app).route("/ws")  # type: ignore[untyped-decorator]
    def live(connection: Any) -> None:
        with lock:
            connections[connection] = None
        try:
            while True:
                connection.receive()
        finally:
            with lock:
                connections.pop(connection)

    def publish(data: dict[str, Any]) -> None:
        text = json.dumps(data)
        with lock:
            everybody = list(connections)
        for connection in everybody:
            with contextlib.suppress(ConnectionClosed, OSError):
                connection.send(text)

    return publish


def with_flask_socketio(app: Flask) -> Publish:
    """Add a Socket.IO server; return what emits to all that are connected."""
    from flask_socketio import SocketIO  # type: ignore[import-untyped]

    server = SocketIO(app, async_mode="threading", ping_interval=1.5, ping_timeout=2.5)
    return lambda data: server.emit("event", data)


SERVERS = {"flask-sock": with_flask_sock, "flask-socketio": with_flask_socketio}


def main(name: str, port: str, file: str, record: str, life: str, clock: str) -> None:
    """Serve until the input ends."""
    app = Flask("peer")
    publish = SERVERS[name](app)
    stop, accepted = threading.Event(), os.open(record, os.O_WRONLY | os.O_APPEND)

    def run(publisher: int) -> None:
        number = int(life) * 1_000_000
        while not stop.wait(PAUSE):
            number += 1
            publish(data_of(publisher, number))
            os.write(accepted, f"{publisher} {number} - {time.monotonic()} sure\n".encode())

    threads = [threading.Thread(target=run, args=(each,)) for each in (LOOSE, FIRM)]

    def go() -> None:
        for thread in threads:
            thread.start()

    def quiet() -> None:
        stop.set()
        for thread in threads:
            thread.join()

    commands: dict[str, Callable[..., object]] = {
        "go": go,
        "quiet": quiet,
        "mark": lambda number: publish(data_of(MARK, int(number))),
        "clock": lambda offset: None,
    }
    server = make_server("127.0.0.1", int(port), app, threaded=True)
    server.socket.listen(1024)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    print(server.server_port, flush=True)
    for line in sys.stdin:
        command, *arguments = line.split()
        commands[command](*arguments)
        print("null", flush=True)
    os._exit(0)  # its threads may wait for clients that read nothing


if __name__ == "__main__":
    main(*sys.argv[1:])
