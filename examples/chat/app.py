"""A chat with rooms, the last fifty messages of each, and who is there.

flask --app examples/chat/app run
"""

from __future__ import annotations

from flask import Flask, Response, request, send_file

from ws_hub import Client, Message
from ws_hub.flask import HubExtension

app = Flask(__name__, static_folder="../static")
app.config["WS_HUB_RULES"] = [
    {"pattern": "room:*", "history_messages": 50, "replay": True, "presence": True},
]
hub = HubExtension(app).hub


@app.get("/")
def page() -> Response:
    return send_file("page.html")


@hub.on_connect
def connected(client: Client) -> None:
    # Whatever the page says. For names that are true, see docs/howto/login.md.
    client.set_info(request.args.get("name", "").strip()[:30] or f"guest {client.id}")


@hub.on("say")
def say(client: Client, message: Message) -> bool:
    text = str(message.data).strip()[:500]
    said = bool(text) and message.channel in client.subscriptions()
    if said:
        hub.send_event("said", [client.info, text], channel=message.channel)
    return said
