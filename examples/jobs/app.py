"""Jobs in a thread pool, their progress on every page, and a way to cancel them.

flask --app examples/jobs/app run
"""

from __future__ import annotations

import itertools
import threading
from concurrent.futures import ThreadPoolExecutor

from flask import Flask, Response, send_file

from ws_hub import Client, Message
from ws_hub.flask import HubExtension

STEPS = 40
MOST = 20  # jobs that are not over

app = Flask(__name__, static_folder="../static")
app.config["WS_HUB_RULES"] = [
    {"pattern": "jobs", "history_messages": 20, "replay": True},  # the newest twenty
    {"pattern": "job:*", "history_messages": 1, "replay": True},  # the present state of each
]
hub = HubExtension(app).hub
pool = ThreadPoolExecutor(max_workers=3)  # Ctrl-C waits for what it was given
numbers = itertools.count(1)
cancelled: dict[str, threading.Event] = {}  # of the jobs that are not over


@app.get("/")
def page() -> Response:
    return send_file("page.html")


@hub.on("start")
def start(client: Client, message: Message) -> bool:
    if len(cancelled) >= MOST:
        return False
    job = str(next(numbers))
    cancelled[job] = threading.Event()
    report(job, "waiting", 0)
    hub.send_event("started", job, channel="jobs")
    pool.submit(work, job)
    return True


@hub.on("cancel")
def cancel(client: Client, message: Message) -> None:
    if event := cancelled.get(str(message.data)):
        event.set()


def work(job: str) -> None:
    done = 0
    while done < STEPS and not cancelled[job].wait(0.1):  # instead of the work of a step
        done += 1
        report(job, "running", done)
    report(job, "done" if done == STEPS else "cancelled", done)
    del cancelled[job]


def report(job: str, state: str, done: int) -> None:
    progress = {"job": job, "state": state, "done": done, "of": STEPS}
    hub.send_event("progress", progress, channel=f"job:{job}")
