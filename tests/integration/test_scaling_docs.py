"""What docs/scaling.md has for nginx and systemd, run as it stands there; for Kubernetes, read."""

from __future__ import annotations

import configparser
import contextlib
import json
import os
import re
import select
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlencode
from urllib.request import urlopen

import pytest
import yaml  # type: ignore[import-untyped]
from gunicorn.config import KNOWN_SETTINGS

from tests.integration.apps.launch import ROOT, START, Running, command
from tests.integration.apps.live import subscribe
from tests.nginx import arguments
from tests.redis_servers import SERVERS
from tests.redis_servers import running as broker
from tests.support import TIMEOUT, RawPeer, free_port, wait_until

pytestmark = pytest.mark.timeout(240)

PAGE = (ROOT / "docs" / "scaling.md").read_text(encoding="utf-8")
NGINX = shutil.which("nginx", path=f"{os.environ['PATH']}:/usr/sbin")
PORTS = (8001, 8002)  # of the servers, as the page has them
DIRECTORY = "/run/app"


def block(language: str) -> str:
    """Return the only block of a language on the page."""
    (found,) = re.findall(rf"```{language}\n(.*?)```", PAGE, re.DOTALL)
    return str(found)


def unit() -> configparser.SectionProxy:
    """Return the section of the unit that says what is run."""
    parser = configparser.ConfigParser(interpolation=None, strict=True)
    parser.optionxform = str  # type: ignore[assignment,method-assign]
    parser.read_string(block("ini"))
    return parser["Service"]


@contextlib.contextmanager
def service(folder: Path, *before: str, backplane: str = "") -> Iterator[Running]:
    """Run what the unit runs, in a folder that stands for its runtime directory.

    `backplane` is an address in the place of the unit's.
    """
    words = shlex.split(unit()["ExecStart"])
    assert words[-1] == "app:app" and words[words.index("--bind") + 1] == "127.0.0.1:%i"
    words[words.index("--bind") + 1] = "127.0.0.1:0"
    argv = [*before, sys.executable, "-m", "gunicorn", *words[1:-1]]
    if any(setting.name == "control_socket_disable" for setting in KNOWN_SETTINGS):
        argv += ["--no-control-socket"]  # newer ones would make one in the home directory
    name, _, value = unit()["Environment"].partition("=")
    assert value == f"local://{DIRECTORY}/hub"
    environment = {name: backplane or value.replace(DIRECTORY, str(folder))}
    with command([*argv, "tests.integration.apps.workers:application"], **environment) as found:
        yield found


@contextlib.contextmanager
def proxy(folder: Path, servers: list[Running]) -> Iterator[int]:
    """Run nginx with the configuration of the page in front of these servers; yield its port."""
    assert NGINX is not None
    port = free_port()
    text = block("nginx").replace("listen 8080", f"listen 127.0.0.1:{port}")
    for documented, server in zip(PORTS, servers, strict=True):
        assert f":{documented};" in text
        text = text.replace(f":{documented};", f":{server.port};")
    argv = [NGINX, *arguments(folder, f"access_log off; {text}")]
    with subprocess.Popen(argv) as process:
        try:
            wait_until(lambda: listens(process, port), START, what="nginx listens")
            yield port
        finally:
            process.terminate()


def listens(process: subprocess.Popen[bytes], port: int) -> bool:
    assert process.poll() is None
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port)):
        return True
    return False


def ask(port: int, page: str, **query: str) -> dict[str, Any]:
    with urlopen(f"http://127.0.0.1:{port}/{page}?{urlencode(query)}", timeout=TIMEOUT) as answer:
        found: dict[str, Any] = json.load(answer)
        return found


def states(port: int, workers: int) -> list[dict[str, Any]]:
    """Return the state of each worker, by what is at a port, when so many know each other."""
    found: dict[int, dict[str, Any]] = {}

    def all_there() -> bool:
        state = ask(port, "state")
        found[state["pid"]] = state
        return len(found) == workers and all(
            each["peers"] == workers - 1 for each in found.values()
        )

    wait_until(all_there, START, what="all workers")
    return [*found.values()]


@contextlib.contextmanager
def clients_of_all(port: int, workers: int) -> Iterator[list[RawPeer]]:
    """Have clients in each worker, all of them through a proxy; yield them, subscribed."""
    with contextlib.ExitStack() as stack:
        found: list[RawPeer] = []
        while not all(state["clients"] for state in states(port, workers)):
            found.append(stack.enter_context(RawPeer("127.0.0.1", port)))
            subscribe(found[-1], "news")
        yield found


@pytest.fixture
def folder() -> Iterator[Path]:
    """A directory with a short path, as those of sockets must be."""
    with tempfile.TemporaryDirectory(prefix="wsh-", dir="/tmp") as made:
        yield Path(made)


@pytest.fixture(params=["", *SERVERS])
def backplane(request: pytest.FixtureRequest) -> Iterator[str]:
    """The address of a server of each kind; "" for the one of the unit, a directory."""
    with contextlib.ExitStack() as stack:
        yield stack.enter_context(broker(request.param)).url() if request.param else ""


def exchange(port: int, peers: list[RawPeer]) -> None:
    """Have several workers publish, to all clients; which of them gets a request is chance."""
    published: list[str] = []
    publishers: set[int] = set()

    def several_have() -> bool:
        published.append(str(len(published)))
        publishers.add(ask(port, "send", channel="news", data=published[-1])["pid"])
        return len(publishers) > 1 and len(published) >= 8

    wait_until(several_have, what="a message of a second worker")
    for peer in peers:
        heard = [peer.recv_json()["data"]["data"] for _ in published]
        assert sorted(heard, key=int) == published


@pytest.mark.skipif(NGINX is None, reason="no nginx on this machine")
def test_clients_behind_nginx_get_what_either_worker_of_a_server_publishes(
    folder: Path, backplane: str
) -> None:
    with service(folder, backplane=backplane) as server, contextlib.ExitStack() as stack:
        port = stack.enter_context(proxy(folder, [server, server]))
        exchange(port, stack.enter_context(clients_of_all(port, 2)))
        assert server.complaints() == []


@pytest.mark.skipif(NGINX is None, reason="no nginx on this machine")
def test_clients_behind_nginx_get_what_any_worker_of_two_servers_publishes(
    folder: Path, backplane: str
) -> None:
    with contextlib.ExitStack() as stack:
        servers = [stack.enter_context(service(folder, backplane=backplane)) for _ in PORTS]
        port = stack.enter_context(proxy(folder, servers))
        peers = stack.enter_context(clients_of_all(port, 4))
        exchange(port, peers)
        # One server ends: its clients are told, come back, and are sent to the other one.
        servers[0].process.send_signal(signal.SIGTERM)
        gone = goodbyes(servers[0], peers)
        assert 0 < len(gone) < len(peers)
        with RawPeer("127.0.0.1", port) as back:
            subscribe(back, "news")
            ask(port, "send", channel="news", data="later")
            for peer in (back, *(peer for peer in peers if peer not in gone)):
                assert peer.recv_json()["data"]["data"] == "later"
        assert servers[1].complaints() == []


def goodbyes(server: Running, peers: list[RawPeer]) -> list[RawPeer]:
    """Wait until a server has ended; return its clients, which are told that before."""
    gone: list[RawPeer] = []

    def ended() -> bool:
        silent = [peer.sock for peer in peers if peer not in gone]
        readable = select.select(silent, [], [], 0)[0]
        for peer in peers:
            if peer.sock in readable:
                assert peer.recv_close()[0] == 1001
                peer.send_close(1001)
                gone.append(peer)
        return server.process.poll() == 0

    wait_until(ended, START, what="the server has ended")
    return gone


def can_unshare() -> bool:
    """Say whether processes can have process ids of their own, as in containers."""
    if shutil.which("unshare") is None:
        return False
    argv = ["unshare", "--pid", "--fork", "--mount-proc", "true"]
    return subprocess.run(argv, stderr=subprocess.DEVNULL, check=False).returncode == 0


@pytest.mark.skipif(not can_unshare(), reason="process ids cannot be unshared here")
def test_servers_whose_process_ids_are_the_same_meet_in_a_directory(folder: Path) -> None:
    own = ("unshare", "--pid", "--fork", "--mount-proc", "--kill-child")
    with contextlib.ExitStack() as stack:
        one, other = (stack.enter_context(service(folder, *own)) for _ in PORTS)
        for server in (one, other):
            stack.callback(server.process.kill)  # which takes what it runs with it
        found: dict[str, set[int]] = {}

        def together() -> bool:
            for name, server in (("one", one), ("other", other)):
                state = ask(server.port, "state")
                if state["peers"] == 3:
                    found.setdefault(name, set()).add(state["pid"])
            return len(found) == 2 and all(len(pids) == 2 for pids in found.values())

        wait_until(together, START, what="all workers know each other")
        # Those of the first workers. Threads of these may come before the second ones.
        assert found["one"] & found["other"]
        with RawPeer("127.0.0.1", other.port) as peer:
            subscribe(peer, "news")
            ask(one.port, "send", channel="news", data="hello")
            assert peer.recv_json()["data"]["data"] == "hello"


def test_the_unit_is_one_that_systemd_takes(folder: Path) -> None:
    program = shutil.which("systemd-analyze")
    if program is None:
        pytest.skip("no systemd on this machine")
    gunicorn = folder / "gunicorn"
    gunicorn.write_text("#!/bin/sh\n", encoding="ascii")
    gunicorn.chmod(0o755)
    path = folder / "app@.service"
    text = block("ini").replace(unit()["ExecStart"].split()[0], str(gunicorn))
    path.write_text(text, encoding="utf-8")
    argv = [program, "verify", "--man=no", str(folder / "app@8001.service")]
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    said = [line for line in done.stderr.splitlines() if "app@" in line]
    assert (done.returncode, said) == (0, []), done.stderr
    path.write_text(text.replace("RuntimeDirectory=", "RuntimeDirectry="), encoding="utf-8")
    wrong = subprocess.run(argv, capture_output=True, text=True, check=False)
    assert "RuntimeDirectry" in wrong.stderr


def test_the_directory_of_the_unit_outlives_each_server_that_meets_there() -> None:
    service = unit()
    assert DIRECTORY == f"/run/{service['RuntimeDirectory']}"
    assert service["RuntimeDirectoryPreserve"] == "yes"
    assert all(f"app@{port}" in PAGE and f":{port};" in block("nginx") for port in PORTS)


def test_the_objects_of_kubernetes_agree_with_each_other_and_with_the_unit() -> None:
    deployment, service = yaml.safe_load_all(block("yaml"))
    spec, template = deployment["spec"], deployment["spec"]["template"]
    labels = template["metadata"]["labels"]
    assert labels == spec["selector"]["matchLabels"] == service["spec"]["selector"]
    pod = template["spec"]
    (container,), (exposed,) = pod["containers"], service["spec"]["ports"]
    (port,) = container["ports"]
    assert port["name"] == exposed["targetPort"] == container["readinessProbe"]["httpGet"]["port"]
    command = container["command"]
    assert all(isinstance(word, str) for word in command)
    assert command[command.index("--bind") + 1] == f"0.0.0.0:{port['containerPort']}"
    (variable,) = container["env"]
    assert variable["name"] == unit()["Environment"].partition("=")[0]
    # The words of the unit, which is run above, but for where it listens and how long it ends.
    words = shlex.split(unit()["ExecStart"])[1:]
    own = {"--bind", "127.0.0.1:%i"}
    assert [word for word in words if word not in own] == [
        word
        for word in command[1:]
        if word not in {"--bind", f"0.0.0.0:{port['containerPort']}", "--graceful-timeout", "20"}
    ]
    before = int(container["lifecycle"]["preStop"]["exec"]["command"][1])
    graceful = int(command[command.index("--graceful-timeout") + 1])
    assert pod["terminationGracePeriodSeconds"] > before + graceful
