"""The cursors of all visitors on one board.

flask --app examples/cursors/app run
"""

from __future__ import annotations

from flask import Flask, Response, send_file

from ws_hub import Client, Message
from ws_hub.flask import HubExtension

app = Flask(__name__, static_folder="../static")
hub = HubExtension(app).hub


@app.get("/")
def page() -> Response:
    return send_file("page.html")


@hub.on_subscribe("board")
def entered(client: Client, channel: str) -> None:
    # The pages that are there answer with where they are; the server need not know.
    hub.send_event("entered", client.id, channel=channel, exclude=client)


@hub.on("move")
def move(client: Client, message: Message) -> None:
    match message.data:
        case [int() | float() as x, int() | float() as y]:  # of 0 to 1
            hub.send_event("moved", [client.id, x, y], channel="board", exclude=client)


@hub.on_unsubscribe("board")
def left(client: Client, channel: str) -> None:
    hub.send_event("left", client.id, channel=channel)
