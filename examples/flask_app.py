"""A Flask application whose pages and threads push to every open browser.

    flask --app examples/flask_app.py run
    gunicorn --worker-class gthread --threads 4 --chdir examples flask_app:app

A browser listens with `new WebSocket("ws://localhost:5000/ws")`.
"""

from __future__ import annotations

from flask import Flask, request

from ws_hub.flask import HubExtension

app = Flask(__name__)
hub = HubExtension(app, path="/ws").hub


@app.post("/say")
def say() -> dict[str, int]:
    hub.send_event("said", request.get_json())
    return {"listening": hub.client_count()}
