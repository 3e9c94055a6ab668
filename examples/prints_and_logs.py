"""Send what a script prints and logs to a hub, live.

    python examples/prints_and_logs.py

A page would subscribe to "process:job" for the prints and to "logs" for the log records;
here two listeners in the same process show both.
"""

from __future__ import annotations

import contextlib
import logging
import sys
import threading
from concurrent.futures import ThreadPoolExecutor

from ws_hub import Hub, Message

logger = logging.getLogger("job")


def work(number: int) -> None:
    print("step", number, "done")  # from several threads at once: lines stay whole
    logger.warning("step %d was slow", number)


def show(message: Message, over: threading.Event) -> None:
    sys.stderr.write(f"{message.channel}: {message.data}\n")
    if message.data in ({"status": "exited", "exitCode": 0}, {"event": "end", "data": None}):
        over.set()


def main() -> None:
    with Hub() as hub:
        ends = [threading.Event(), threading.Event()]
        for channel, over in zip(("process:job", "logs"), ends, strict=True):
            hub.listen(channel, lambda message, over=over: show(message, over))
        handler = hub.log_handler("logs")
        logger.addHandler(handler)
        hub.send_process_status("job", "running")
        with hub.writer("job") as file, contextlib.redirect_stdout(file):
            with ThreadPoolExecutor(4) as pool:
                list(pool.map(work, range(8)))
        hub.send_process_status("job", "exited", 0)
        logger.removeHandler(handler)
        hub.send_event("end", channel="logs")
        for over in ends:
            over.wait()


if __name__ == "__main__":
    main()
