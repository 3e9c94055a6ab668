"""Several Redis or Valkey servers of the tests' own: one with sentinels, and clusters."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator

from tests.redis_servers import RedisProcess, SentinelProcess, running, started
from tests.support import free_port, wait_until

__all__ = ["SERVICE", "Cluster", "Watched", "clustered", "watched"]

SERVICE = "mymaster"


class Watched:
    """A master, its replicas, and the sentinels that watch them.

    Args:
        servers: the master first.
        sentinels: the sentinels.
    """

    def __init__(self, servers: list[RedisProcess], sentinels: list[SentinelProcess]) -> None:
        self.servers = servers
        self.sentinels = sentinels

    def url(self, query: str = "", *, user: str = "") -> str:
        """Return the address of what the sentinels watch."""
        nodes = ",".join(f"{each.host}:{each.port}" for each in self.sentinels)
        return f"redis+sentinel://{user}{nodes}/{SERVICE}/0{query}"

    def wait_for_replication(self) -> None:
        """Wait until all replicas have what the master has."""
        master, *others = self.servers

        def offset(server: RedisProcess) -> str:
            name = "slave_repl_offset" if server is not master else "master_repl_offset"
            return field(server.ask("INFO", "replication"), name)

        wait_until(
            lambda: {offset(each) for each in others} == {offset(master)}, what="the replication"
        )

    def wait_for_master(self, port: int) -> None:
        """Wait until all sentinels name the server of a port."""
        for each in self.sentinels:
            wait_until(lambda each=each: self.named_by(each) == port, what="the fail-over")  # type: ignore[misc]

    def named_by(self, sentinel: SentinelProcess) -> int:
        """Return the port of the master that a sentinel names."""
        answer = sentinel.ask("SENTINEL", "GET-MASTER-ADDR-BY-NAME", SERVICE)
        return int(answer.split(b"\r\n")[-2])


@contextlib.contextmanager
def watched(
    name: str, *, replicas: int = 1, sentinels: int = 3, password: str = ""
) -> Iterator[Watched]:
    """Run servers that replicate the first, and sentinels that watch it.

    With a password, connections to the servers need it once all of them run.
    """
    with contextlib.ExitStack() as stack:
        at_once = ("--repl-diskless-sync-delay", "0")
        master = stack.enter_context(running(name, *at_once))
        servers = [master]
        for _ in range(replicas):
            of = ("--replicaof", master.host, str(master.port))
            servers.append(stack.enter_context(running(name, *at_once, *of)))
        for each in servers[1:]:
            wait_until(
                lambda each=each: b"master_link_status:up" in each.ask("INFO", "replication"),  # type: ignore[misc]
                what="the replica",
            )
        if password:
            for each in servers[::-1]:
                each.ask("CONFIG", "SET", "masterauth", password, "requirepass", password)
        lines = (
            f"sentinel monitor {SERVICE} {master.host} {master.port} {sentinels // 2 + 1}",
            f"sentinel down-after-milliseconds {SERVICE} 500",
            f"sentinel failover-timeout {SERVICE} 3000",
            *([f'sentinel auth-pass {SERVICE} "{password}"'] if password else []),
        )
        found = [
            stack.enter_context(started(SentinelProcess, name, lines)) for _ in range(sentinels)
        ]
        for sentinel in found:
            wait_until(
                lambda sentinel=sentinel: _knows(sentinel, replicas, sentinels - 1),  # type: ignore[misc]
                what="the sentinels to know each other",
            )
        yield Watched(servers, found)


def _knows(sentinel: SentinelProcess, replicas: int, others: int) -> bool:
    answer = sentinel.ask("INFO", "sentinel").decode()
    found = re.search(r"slaves=(\d+),sentinels=(\d+)", answer)
    return found is not None and (int(found[1]), int(found[2])) == (replicas, others + 1)


def field(answer: bytes, name: str) -> str:
    """Return a field of what INFO returns."""
    found = re.search(rf"^{name}:(.*)\r$", answer.decode(), re.MULTILINE)
    return found[1] if found else ""


class Cluster:
    """Three masters of a cluster, each with a third of the slots, and replicas of the first.

    Args:
        masters: the masters.
        replicas: the replicas.
    """

    def __init__(self, masters: list[RedisProcess], replicas: list[RedisProcess]) -> None:
        self.masters = masters
        self.replicas = replicas

    @property
    def nodes(self) -> list[RedisProcess]:
        """All nodes."""
        return [*self.masters, *self.replicas]

    def url(self, query: str = "", *, user: str = "") -> str:
        """Return its address, which names two of its nodes."""
        nodes = ",".join(f"{each.host}:{each.port}" for each in self.masters[:2])
        return f"redis+cluster://{user}{nodes}/{query}"

    def owner(self, slot: int) -> RedisProcess:
        """Return the master that has a slot at first."""
        return self.masters[min(slot // (SLOTS // 3), 2)]

    def move(self, slot: int, source: RedisProcess, target: RedisProcess) -> None:
        """Move a slot, and its keys, to another master."""
        self.begin_move(slot, source, target)
        self.end_move(slot, target)

    def begin_move(self, slot: int, source: RedisProcess, target: RedisProcess) -> None:
        """Move the keys of a slot, which the other master has not yet."""
        target.ask("CLUSTER", "SETSLOT", str(slot), "IMPORTING", name_of(source))
        source.ask("CLUSTER", "SETSLOT", str(slot), "MIGRATING", name_of(target))
        keys = texts_of(source.ask("CLUSTER", "GETKEYSINSLOT", str(slot), "1000"))
        to = ("MIGRATE", target.host, str(target.port), "", "0", "5000", "KEYS")
        assert source.ask(*to, *keys) == b"+OK\r\n"

    def end_move(self, slot: int, target: RedisProcess) -> None:
        """Have a slot be the other master's."""
        for each in (target, *self.masters):
            answer = each.ask("CLUSTER", "SETSLOT", str(slot), "NODE", name_of(target))
            assert answer == b"+OK\r\n"


SLOTS = 16384


def name_of(node: RedisProcess) -> str:
    """Return the name of a node of a cluster."""
    return texts_of(node.ask("CLUSTER", "MYID"))[0]


def texts_of(answer: bytes) -> list[str]:
    """Return the texts of an answer, or the only one; none of them has a line feed."""
    lines = answer.decode().split("\r\n")
    return lines[2::2] if answer.startswith(b"*") else lines[1:2]


@contextlib.contextmanager
def clustered(name: str, *settings: str, replicas: int = 0) -> Iterator[Cluster]:
    """Run a cluster of three masters, and replicas of the first."""
    with contextlib.ExitStack() as stack:
        words = ("--cluster-enabled", "yes", "--cluster-node-timeout", "1000", *settings)
        buses = [free_port() for _ in range(3 + replicas)]
        nodes = [
            stack.enter_context(running(name, *words, "--cluster-port", str(bus))) for bus in buses
        ]
        for place, node in enumerate(nodes[:3]):
            first, last = place * (SLOTS // 3), (place + 1) * (SLOTS // 3) - 1
            node.ask("CLUSTER", "ADDSLOTSRANGE", str(first), str(SLOTS - 1 if place == 2 else last))
        for node, bus in zip(nodes[1:], buses[1:], strict=True):
            nodes[0].ask("CLUSTER", "MEET", node.host, str(node.port), str(bus))
        _wait_for(nodes, f"cluster_known_nodes:{len(nodes)}")
        for node in nodes[3:]:
            wait_until(
                lambda node=node: node.ask("CLUSTER", "REPLICATE", name_of(nodes[0])) == b"+OK\r\n",  # type: ignore[misc]
                what="a replica",
            )
            wait_until(
                lambda node=node: b"master_link_status:up" in node.ask("INFO", "replication"),  # type: ignore[misc]
                what="the replica",
            )
        _wait_for(nodes, "cluster_state:ok")
        if replicas:
            wait_until(
                lambda: b"slave" in nodes[1].ask("CLUSTER", "NODES"), what="the replica to be known"
            )
        yield Cluster(nodes[:3], nodes[3:])


def _wait_for(nodes: list[RedisProcess], text: str) -> None:
    for node in nodes:
        wait_until(
            lambda node=node: text.encode() in node.ask("CLUSTER", "INFO"),  # type: ignore[misc]
            what=text,
        )
