"""Serves the demo application with a server that has no command line of its own.

    python -m tests.integration.apps.serve KIND [CERTIFICATE]

It prints its port, and serves until its input ends.
"""

from __future__ import annotations

import ssl
import sys
import threading
from typing import Any
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server

from tests.integration.apps.demo import application, guarded, hub


class Quiet(WSGIRequestHandler):
    def log_message(self, format: str, *args: Any) -> None:
        pass


class Wide(WSGIServer):
    request_queue_size = 512


def main(kind: str, certificate: str | None = None) -> None:
    context = None
    if certificate is not None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate)
    if kind == "embedded":
        import ws_hub

        with ws_hub.serve(hub, app=application, ssl_context=context) as embedded:
            print(embedded.port, flush=True)
            sys.stdin.read()
        guarded.stop()
        return
    server: Any
    if kind == "wsgiref":
        server = make_server("127.0.0.1", 0, application, server_class=Wide, handler_class=Quiet)
        if context is not None:
            server.socket = context.wrap_socket(server.socket, server_side=True)
        port = server.server_port
    elif kind == "waitress":
        import waitress

        server = waitress.create_server(application, host="127.0.0.1", port=0)
        port = server.effective_port
    else:
        import werkzeug.serving

        server = werkzeug.serving.make_server(
            "127.0.0.1",
            0,
            application,
            threaded=kind == "werkzeug",
            ssl_context=context,
        )
        port = server.server_port
    print(port, flush=True)
    run = server.run if kind == "waitress" else server.serve_forever
    threading.Thread(target=run, name="server", daemon=True).start()
    sys.stdin.read()
    hub.stop()
    guarded.stop()


if __name__ == "__main__":
    main(*sys.argv[1:])
