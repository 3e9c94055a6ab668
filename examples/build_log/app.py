"""A live build log: every visitor sees the same build, late ones from its first line.

flask --app examples/build_log/app run
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from flask import Flask, Response, send_file

from ws_hub import Client, Message, Process, ProcessAlreadyRunning
from ws_hub.flask import HubExtension

BUILD = [sys.executable, str(Path(__file__).with_name("build.py"))]  # or ["make", "-j4"]

app = Flask(__name__, static_folder="../static")
hub = HubExtension(app).hub
newest: list[Process] = []


@app.get("/")
def page() -> Response:
    return send_file("page.html")


@hub.on("build")
def build(client: Client, message: Message) -> dict[str, Any]:
    try:
        newest[:] = [hub.run_process(BUILD, "build", pty=True)]
    except ProcessAlreadyRunning:
        return {"started": False}  # the second of two who press the button watches the first's
    return {"started": True}


@hub.on("stop")
def stop(client: Client, message: Message) -> None:
    for process in newest:
        process.terminate()
