"""A Flask application for several workers: what one is asked to publish reaches all clients.

Its backplane is what the environment says, in WS_HUB_BACKPLANE.
"""

from __future__ import annotations

import logging
import os
from dataclasses import asdict
from typing import Any

from flask import Flask, request

from ws_hub import AuthResult, ChannelRule, ProcessAlreadyRunning, WaitTimeout
from ws_hub.flask import HubExtension

logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(name)s %(message)s")

application = Flask(__name__)
application.config["WS_HUB_RULES"] = [
    ChannelRule("kept:*", history_messages=1000),
    ChannelRule("state", keyed=True),
    ChannelRule("room:*", presence=True, presence_grace=1.0),
]
application.config["WS_HUB_AUTHENTICATOR"] = lambda environ: AuthResult(
    valid=True, user_id=environ.get("HTTP_X_USER", "guest")
)
application.config["WS_HUB_INPUT_AUTHORISER"] = lambda client, process_id, action: (
    client.user_id == "ann"
)
hub = HubExtension(application).hub


@application.get("/state")
def state() -> dict[str, Any]:
    stats = hub.stats()
    return {
        "pid": os.getpid(),
        "peers": stats.peers,
        "clients": stats.clients,
        "bus_down": stats.bus_down,
        "bus_lost": stats.bus_lost,
        "told": stats.bus_told,
    }


@application.get("/presence")
def presence() -> dict[str, Any]:
    found = hub.presence(request.args["channel"])
    return state() | {"connections": found.connections, "users": found.users}


@application.get("/all")
def everywhere() -> dict[str, Any]:
    """Ask all workers; what cannot be said in time is None."""
    args = request.args
    timeout = float(args.get("timeout", 10))
    found = {"instances": [asdict(each) for each in hub.instances(timeout)]}
    questions = {"count": (hub.count, args["channel"]), "online": (hub.is_connected, args["user"])}
    for name, (ask, about) in questions.items():
        try:
            found[name] = ask(about, timeout)
        except WaitTimeout:
            found[name] = None
    return state() | found


@application.get("/send")
def send() -> dict[str, Any]:
    key = request.args.get("key")
    named = {} if key is None else {"key": key}
    hub.send_event("said", request.args["data"], channel=request.args["channel"], **named)
    return state()


@application.get("/broadcast")
def broadcast() -> dict[str, Any]:
    hub.broadcast({"type": "event", "data": request.args["data"]})
    return state()


@application.get("/user")
def user() -> dict[str, Any]:
    hub.send_to_user(request.args["id"], {"type": "event", "data": request.args["data"]})
    return state()


@application.get("/disconnect")
def disconnect() -> dict[str, Any]:
    hub.disconnect(request.args["id"])
    return state()


@application.get("/run")
def run() -> dict[str, Any]:
    """Run a program that ends with this worker alone."""
    try:
        hub.run_process(["cat"], process_id=request.args["id"], stdin=True)
    except ProcessAlreadyRunning:
        return state() | {"refused": True}
    return state()
