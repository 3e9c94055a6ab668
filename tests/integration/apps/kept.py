"""A server whose history is in a file: python -m tests.integration.apps.kept PORT FILE CHANNEL.

It publishes what it reads, a number a line, and prints each number when that is accepted.
"""

from __future__ import annotations

import sys

from ws_hub import ChannelRule, Hub, HubConfig, Message, SqliteHistory, serve

RULES = [ChannelRule(pattern="*", history_messages=100_000)]


def main(port: str, file: str, channel: str) -> None:
    """Serve until the input ends."""
    hub = Hub(HubConfig(history=SqliteHistory(file), rules=RULES))
    with hub, serve(hub, port=int(port)) as server:
        print("at", server.port, flush=True)
        for line in sys.stdin:
            hub.send_to_channel(channel, Message("event", data=int(line)))
            print(int(line), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
