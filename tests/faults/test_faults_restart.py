"""What a restart of the server must not change. Row 132 of the list of faults."""

from __future__ import annotations

from pathlib import Path

from ws_hub import AuthResult, ChannelRule, Hub, HubConfig, Message, SqliteHistory, serve
from ws_hub.testing import HubClient

RULES = [ChannelRule(pattern="open:*", history_messages=2, publish=True)]


def hub_of(file: Path) -> Hub:
    return Hub(
        HubConfig(
            history=SqliteHistory(file),
            rules=RULES,
            authenticator=lambda environ: AuthResult(valid=True, user_id=environ["QUERY_STRING"]),
        )
    )


def publish(client: HubClient, key: str, channel: str = "open:a") -> None:
    request = Message("publish", channel=channel, data=key, id=1, idempotency_key=key)
    client.send(request)
    assert client.expect(type="ack").id == 1


def test_fault_132_a_publish_repeated_after_a_restart_counts_once(tmp_path: Path) -> None:
    file = tmp_path / "hub.db"
    with hub_of(file) as hub, serve(hub) as server, HubClient(f"{server.url}?ann") as client:
        publish(client, "k1")
        publish(client, "k2")
        for _ in range(3):  # its message is not kept any more, and its key is remembered
            hub.send_to_channel("open:a", Message("event", data="other"))
    with hub_of(file) as hub, serve(hub) as server, HubClient(f"{server.url}?ann") as client:
        publish(client, "k1")
        publish(client, "k2")
        page = hub.history("open:a", last=10)
        assert ([each.data for each in page.messages], page.last) == (["other", "other"], 5)
        # Another channel's and another user's are others.
        publish(client, "k1", "open:b")
        with HubClient(f"{server.url}?bob") as other:
            publish(other, "k1")
        assert hub.history("open:a", last=1).messages[0].data == "k1"
        assert hub.history("open:b", last=1).messages[0].data == "k1"
