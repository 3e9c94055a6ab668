"""What stands for the hub's thread where one client is delivered to."""

from __future__ import annotations

from collections.abc import Sequence

from ws_hub.connection.client import Client
from ws_hub.connection.fast_send import send_to_each
from ws_hub.protocol.publication import Batch, Publication

__all__ = ["deliver"]


def deliver(client: Client, batch: Batch) -> Sequence[Publication]:
    """Deliver straight, and else by way of the outbox; return what was refused."""
    refused: list[Publication] = []

    def begun(client: Client, sent: int) -> None:
        refused.extend(client.begin_locked(batch, sent))

    for each in send_to_each([client], batch.frames, begun):
        refused.extend(each.deliver(batch))
    return refused
