"""Three instances on three machines, and a Redis server on a fourth: one instance is cut off."""

from __future__ import annotations

import contextlib
import json
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import pytest

from tests.integration.apps.launch import Running, server
from tests.integration.apps.live import subscribe
from tests.machines import Machine, Network, network
from tests.redis_servers import SERVERS, RedisProcess
from tests.support import RawPeer, wait_until

pytestmark = [
    pytest.mark.timeout(240),
    pytest.mark.skipif(not SERVERS, reason="needs a Redis or a Valkey server"),
]

MISSED = 45.0  # seconds, at most, for an instance to be missed, which takes fifteen
CHANNELS = ("news", "kept:a", "room:1")


class Instance:
    """A gunicorn on a machine, and a client of it there.

    Attributes:
        machine: the machine.
        peer: the client, which is subscribed to all CHANNELS.
    """

    def __init__(self, machine: Machine, running: Running) -> None:
        self.machine = machine
        self._running = running
        with machine.entered():
            self.peer = RawPeer(running.host, running.port)
        for channel in CHANNELS:
            subscribe(self.peer, channel)

    def ask(self, page: str, **query: str) -> dict[str, Any]:
        with self.machine.entered():
            response = self._running.get(f"/{page}?{urlencode(query)}")
        assert response.status == 200, self._running.log()
        found: dict[str, Any] = json.loads(response.body)  # type: ignore[attr-defined]
        return found

    def hears(self, *data: str, perhaps: str = "") -> dict[str, int | None]:
        """Return the numbers of the messages that come next, which say this."""
        found: dict[str, int | None] = {}
        while not found.keys() >= set(data):
            message = self.peer.recv_json()
            if message["type"] != "presence":
                said = message["data"]["data"]
                assert said in (*data, perhaps) and said not in found
                found[said] = message.get("seq")
        return found

    def await_state(self, **fields: object) -> None:
        def has_come() -> bool:
            state = self.ask("state")
            return all(state[name] == value for name, value in fields.items())

        wait_until(has_come, MISSED, what=str(fields))

    def await_present(self, count: int) -> None:
        def has_come() -> bool:
            return bool(self.ask("presence", channel="room:1")["connections"] == count)

        wait_until(has_come, MISSED, what=f"{count} present")


@pytest.fixture
def cables() -> Iterator[Network]:
    with network(4) as made:
        yield made


@pytest.fixture
def instances(cables: Network) -> Iterator[list[Instance]]:
    first, *others = cables.machines
    with contextlib.ExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="redis-"))
        program = next(iter(SERVERS.values()))
        broker = RedisProcess(program, Path(folder), ("--protected-mode", "no"))
        broker.host = first.address
        stack.callback(broker.close)
        with first.entered():
            broker.start()
        options = ["--workers", "1", "--threads", "8", "--config", "python:ws_hub.gunicorn"]
        found = []
        for machine in others:
            with machine.entered():
                env = {"WS_HUB_BACKPLANE": broker.url()}
                made = server("gthread", app="workers", options=options, **env)
                running = stack.enter_context(made)
            found.append(Instance(machine, running))
            stack.callback(found[-1].peer.sock.close)
        for each in found:
            each.await_state(peers=2, bus_down=False)
            each.await_present(3)
        yield found


def test_fault_47_an_instance_that_is_cut_off_goes_on_and_has_everything_when_it_is_back(
    cables: Network, instances: list[Instance]
) -> None:
    here, there, lonely = instances
    here.ask("send", channel="kept:a", data="one")
    here.ask("send", channel="news", data="two")
    for each in instances:
        assert each.hears("one", "two") == {"one": 1, "two": None}
    cables.cut(lonely.machine)
    lonely.await_state(bus_down=True, peers=0)
    lonely.ask("send", channel="news", data="alone")
    assert lonely.hears("alone") == {"alone": None}
    for each in (here, there):  # it counts as gone, and its clients with it
        each.await_state(bus_down=False, peers=1)
        each.await_present(2)
    here.ask("send", channel="news", data="missed")
    there.ask("send", channel="kept:a", data="kept meanwhile")
    for each in (here, there):
        assert each.hears("missed", "kept meanwhile") == {"missed": None, "kept meanwhile": 2}
    lonely.ask("send", channel="kept:a", data="not kept")
    assert lonely.hears("not kept") == {"not kept": None}  # after a wait that is bounded
    cables.join(lonely.machine)
    for each in instances:
        each.await_state(bus_down=False, peers=2)
        each.await_present(3)
    assert lonely.hears("kept meanwhile") == {"kept meanwhile": 2}
    lonely.ask("send", channel="kept:a", data="last")  # behind the number of what is not kept
    there.ask("send", channel="news", data="at once")
    for each in instances:
        found = each.hears("last", "at once", perhaps="" if each is lonely else "alone")
        assert (found["last"], found["at once"]) == (4, None)
        if "alone" not in found:  # it has waited for ten seconds, or "missed" has not come
            wait_until(lambda each=each: each.ask("state")["bus_lost"] > 0)  # type: ignore[misc]
