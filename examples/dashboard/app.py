"""A dashboard of this machine, twenty times a second. Reads /proc, so it needs Linux.

flask --app examples/dashboard/app run
"""

from __future__ import annotations

import threading
import time
from collections import deque
from contextlib import suppress
from pathlib import Path

from flask import Flask, Response, send_file

from ws_hub import HubNotRunning
from ws_hub.flask import HubExtension

app = Flask(__name__, static_folder="../static")
# Thirty seconds, so that a page begins with a whole picture.
app.config["WS_HUB_RULES"] = [{"pattern": "dashboard", "history_messages": 600, "replay": True}]
hub = HubExtension(app).hub


@app.get("/")
def page() -> Response:
    return send_file("page.html")


def processor() -> tuple[int, int]:
    """Return how long the processors were idle, and how long they were there."""
    times = [int(each) for each in Path("/proc/stat").read_text().split()[1:9]]
    return times[3] + times[4], sum(times)


def memory() -> float:
    """Return the percentage that is used."""
    sizes = dict(line.split()[:2] for line in Path("/proc/meminfo").read_text().splitlines())
    return 100 - 100 * int(sizes["MemAvailable:"]) / int(sizes["MemTotal:"])


def publish_samples(stop: threading.Event) -> None:
    seen = deque([processor()], maxlen=10)  # half a second: the kernel counts in steps of 10 ms
    while not stop.wait(0.05):
        seen.append(processor())
        idle, there = (new - old for old, new in zip(seen[0], seen[-1], strict=True))
        if hub.has_subscribers("dashboard"):
            percent = 100 - 100 * idle / max(there, 1)
            sample = {"at": time.time(), "processor": percent, "memory": memory()}
            with suppress(HubNotRunning):  # it stops just now
                hub.send_event("sample", sample, channel="dashboard")


stop = threading.Event()
hub.at_stop(stop.set)
# A daemon: Python waits for other threads before it stops the hub.
threading.Thread(target=publish_samples, args=[stop], name="samples", daemon=True).start()
