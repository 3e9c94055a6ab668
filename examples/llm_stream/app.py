"""A language model's answer, token by token, which any other tab can join at any time.

flask --app examples/llm_stream/app run
"""

from __future__ import annotations

import secrets
import threading
from collections.abc import Iterator

from flask import Flask, Response, send_file

from ws_hub import Client, Message
from ws_hub.flask import HubExtension

MOST = 8  # answers at a time
ANSWER = """You asked: {}

This is no model, only a thread that says words, slowly. Each is a message in a channel with \
history, so a tab that is opened later has all of them, and goes on with what comes.
"""

app = Flask(__name__, static_folder="../static")
app.config["WS_HUB_RULES"] = [{"pattern": "answer:*", "history_messages": 2000, "replay": True}]
hub = HubExtension(app).hub
stops: dict[str, threading.Event] = {}  # of the answers that are being given


@app.get("/")
def page() -> Response:
    return send_file("page.html")


def model(prompt: str) -> Iterator[str]:
    """Yield the tokens of an answer. A real model's client goes here."""
    text = ANSWER.format(prompt) + ANSWER.partition("\n\n")[2] * 6
    yield from (f"{word} " for word in text.split(" "))


@hub.on("ask")
def ask(client: Client, message: Message) -> str | None:
    if len(stops) >= MOST:
        return None
    answer = secrets.token_urlsafe(8)  # knowing it is enough to read the answer
    prompt = str(message.data)[:500]
    stops[answer] = threading.Event()
    hub.send_event("question", prompt, channel=f"answer:{answer}")
    threading.Thread(target=generate, args=[answer, prompt], name="model", daemon=True).start()
    return answer


def generate(answer: str, prompt: str) -> None:
    for token in model(prompt):
        if stops[answer].wait(0.05):
            break
        hub.send_event("token", token, channel=f"answer:{answer}")
    hub.send_event("end", channel=f"answer:{answer}")
    del stops[answer]


@hub.on("stop")
def stop(client: Client, message: Message) -> None:
    if event := stops.get(str(message.data)):
        event.set()
