"""A Bottle application whose routes and threads push to every open browser.

python examples/bottle_app.py
gunicorn --worker-class gthread --threads 4 --chdir examples bottle_app:application
"""

from __future__ import annotations

from bottle import Bottle, request, run

from ws_hub import Hub, middleware

app = Bottle()
hub = Hub()
application = middleware(app, hub, start=True)


@app.post("/say")
def say() -> dict[str, int]:
    hub.send_event("said", request.json)
    return {"listening": hub.client_count()}


if __name__ == "__main__":
    run(application, host="127.0.0.1", port=8080)
