"""Stream a command to whoever watches its channel, and print what a viewer gets.

    python examples/stream_process.py ping -c 3 127.0.0.1

Meanwhile any number of WebSocket clients may connect to the URL it prints and send
{"type":"subscribe","channel":"process:demo"}: late ones get what was printed before.
"""

from __future__ import annotations

import sys
import threading

from ws_hub import Hub, Message, ProcessStartError, serve

PROGRESS = """
import time
for percent in range(0, 101, 5):
    print(f"\\r{percent:3}%", end="", flush=True)
    time.sleep(0.1)
print("\\nDone.")
"""


def main(argv: list[str]) -> int:
    over = threading.Event()

    def show(message: Message) -> None:
        sys.stdout.write(f"{message.type}: {message.data!r}\n")
        if isinstance(message.data, dict) and message.data["status"] != "running":
            over.set()

    with Hub() as hub, serve(hub) as server:
        print(f"watch channel process:demo at {server.url}", flush=True)
        listener = hub.listen("process:demo", show)
        try:
            with hub.run_process(argv or [sys.executable, "-c", PROGRESS], "demo", pty=True) as run:
                code: int = run.wait()
        except ProcessStartError:
            code = 127
        over.wait()
        listener.close()
        return code


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
