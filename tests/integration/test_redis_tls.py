"""Redis servers that are reached under TLS, and users of them with some rights only."""

from __future__ import annotations

import contextlib
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
import redis

from tests.integration.apps.live import Live, subscribe
from tests.interventions import broker_times
from tests.redis_servers import (
    SERVERS,
    RedisProcess,
    SentinelProcess,
    documented_rights,
    has_tls,
    running,
    started,
)
from tests.support import TIMEOUT, free_port, wait_until
from ws_hub import ChannelRule, ConfigError, HistoryError, Hub, HubConfig, Message, serve
from ws_hub.backplane.redis import RedisBackplane
from ws_hub.backplane.redis_history import RedisHistory
from ws_hub.backplane.redis_server import RedisServer

pytestmark = pytest.mark.skipif(not SERVERS, reason="needs a Redis or a Valkey server")

RIGHTS = documented_rights()
RULES = [ChannelRule("kept", history_messages=10)]
TEXT = b'{"type":"event","channel":"kept","data":1}'


class Authority:
    """Signs certificates, which are files of a folder.

    Args:
        folder: the folder.
        name: the name of the authority.
    """

    def __init__(self, folder: Path, name: str) -> None:
        self._folder = folder
        self._name = name
        self.file = folder / f"{name}.pem"
        self._openssl(name, "-subj", f"/CN={name}")

    def issue(self, name: str, *options: str) -> tuple[Path, Path]:
        """Return a certificate, and its key."""
        by = ("-CA", str(self.file), "-CAkey", str(self._folder / f"{self._name}.key"))
        self._openssl(name, "-subj", f"/CN={name}", *by, *options)
        return self._folder / f"{name}.pem", self._folder / f"{name}.key"

    def _openssl(self, name: str, *options: str) -> None:
        subprocess.run(
            [
                *("openssl", "req", "-x509", "-newkey", "ec", "-nodes", "-days", "2"),
                *("-pkeyopt", "ec_paramgen_curve:prime256v1", *options),
                *("-keyout", str(self._folder / f"{name}.key")),
                *("-out", str(self._folder / f"{name}.pem")),
            ],
            check=True,
            capture_output=True,
            timeout=TIMEOUT,
        )


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("authority"), "authority")


class Secure:
    """A server whose certificate is one of `localhost`.

    Args:
        process: the server, with a port without TLS as well.
        port: the port under TLS.
        authority: what has signed its certificate.
    """

    def __init__(self, process: RedisProcess, port: int, authority: Authority) -> None:
        self.process = process
        self.port = port
        self.authority = authority

    def url(self, query: str | None = None, *, user: str = "", host: str = "localhost") -> str:
        """Return its address, with the file of the authority unless another query is given."""
        query = f"?ssl_ca_certs={self.authority.file}" if query is None else query
        return f"rediss://{user}{host}:{self.port}/0{query}"


@pytest.fixture(params=["no", "yes"], ids=["any client", "clients with a certificate"])
def clients(request: pytest.FixtureRequest) -> str:
    mark: str = request.param
    return mark


@pytest.fixture
def secure(authority: Authority) -> Iterator[Secure]:
    with secured(authority, "no") as server:
        yield server


@contextlib.contextmanager
def secured(authority: Authority, clients: str) -> Iterator[Secure]:
    settings = tls_settings(authority, "DNS:localhost", clients)
    port = int(settings["tls-port"])
    words = [word for name, value in settings.items() for word in (f"--{name}", value)]
    with running("redis-server", *words, "--requirepass", "secret") as process:
        make_user(process, RIGHTS)
        yield Secure(process, port, authority)


def tls_settings(authority: Authority, names: str, clients: str = "no") -> dict[str, str]:
    """Return the settings of a server with a port under TLS and a certificate of some names."""
    if "redis-server" not in SERVERS or not has_tls("redis-server"):
        pytest.skip("needs a Redis server with TLS")
    options = ("-addext", f"subjectAltName={names}", "-addext", "basicConstraints=CA:false")
    certificate, key = authority.issue("server", *options)
    return {
        "tls-port": str(free_port()),
        "tls-cert-file": str(certificate),
        "tls-key-file": str(key),
        "tls-ca-cert-file": str(authority.file),
        "tls-auth-clients": clients,
    }


def make_user(server: RedisProcess, rights: list[str]) -> None:
    with redis.Redis(port=server.port, password="secret") as client:
        client.script_flush()
        client.execute_command("ACL", "SETUSER", "app", "reset", *rights)


@contextlib.contextmanager
def hub_at(url: str) -> Iterator[Live]:
    with Hub(HubConfig(rules=RULES, backplane=RedisBackplane(url))) as hub, serve(hub) as server:
        yield Live(hub, server, None)  # type: ignore[arg-type]


@contextlib.contextmanager
def store_at(url: str) -> Iterator[RedisHistory]:
    store = RedisHistory(RedisServer(url), "0" * 32)
    store.open(lambda channel: RULES[0])
    try:
        yield store
    finally:
        store.close()


def test_hubs_meet_under_tls_with_a_user_that_has_the_documented_rights(
    authority: Authority, clients: str, caplog: pytest.LogCaptureFixture
) -> None:
    with secured(authority, clients) as secure:
        query = f"?ssl_ca_certs={authority.file}"
        if clients == "yes":
            certificate, key = authority.issue("app")
            query += f"&ssl_certfile={certificate}&ssl_keyfile={key}"
        url = secure.url(query, user="app:right@")
        with hub_at(url) as here, hub_at(url) as there, there.subscribed("news", "kept") as far:
            wait_until(lambda: here.hub.stats().peers == there.hub.stats().peers == 1)
            here.hub.send_to_channel("news", Message("event", data="told"))
            assert far.recv_json()["data"] == "told"
            here.hub.send_to_channel("kept", Message("event", data="kept"), wait=TIMEOUT)
            assert far.recv_json()["seq"] == 1
            with here.peer() as late:
                assert subscribe(late, "kept", since=0)["replayed"] == 1
            assert here.hub.run_process(["true"], "job").wait() == 0
    assert not caplog.records


def test_sentinels_and_the_master_that_they_name_are_reached_under_tls(
    authority: Authority, caplog: pytest.LogCaptureFixture
) -> None:
    settings = tls_settings(authority, "DNS:localhost,IP:127.0.0.1")
    words = [word for name, value in settings.items() for word in (f"--{name}", value)]
    with running("redis-server", *words) as master:
        monitor = f"sentinel monitor mymaster {master.host} {settings['tls-port']} 1"
        settings["tls-port"] = str(free_port())
        lines = [f"{name} {value}" for name, value in settings.items()]
        lines += ["tls-replication yes", monitor]
        with started(SentinelProcess, "redis-server", tuple(lines)):
            at = f"localhost:{settings['tls-port']}/mymaster/0"
            with hub_at(f"rediss+sentinel://{at}?ssl_ca_certs={authority.file}") as live:
                assert not live.hub.stats().bus_down
                message = Message("event", data="kept")
                assert live.hub.send_to_channel("kept", message, wait=TIMEOUT).seq == 1  # type: ignore[union-attr]
            assert not caplog.records
            with hub_at(f"rediss+sentinel://{at}"):
                assert "none of its sentinels answers: its certificate is not" in caplog.text


def test_a_certificate_that_is_not_trusted_is_said_with_what_to_do(
    secure: Secure, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    other = Authority(tmp_path, "other").file
    for query in ("", f"?ssl_ca_certs={other}"):
        caplog.clear()
        with hub_at(secure.url(query)) as live, live.subscribed("news") as peer:
            assert live.hub.stats().bus_down
            live.hub.send_to_channel("news", Message("event", data="here"))
            assert peer.recv_json()["data"] == "here"
        assert "cannot reach rediss://localhost" in caplog.text
        assert "is not trusted" in caplog.text
        assert "as in ?ssl_ca_certs=/etc/ssl/redis.pem" in caplog.text
    with store_at(secure.url("")) as store, pytest.raises(HistoryError, match="ssl_ca_certs="):
        store.append("kept", [TEXT])


def test_a_certificate_of_another_host_is_refused(secure: Secure) -> None:
    with store_at(secure.url(host="127.0.0.1")) as store:
        with pytest.raises(HistoryError, match="one of another host"):
            store.append("kept", [TEXT])
    query = f"?ssl_ca_certs={secure.authority.file}&ssl_check_hostname=no"
    with store_at(secure.url(query, host="127.0.0.1", user="app:right@")) as store:
        assert store.append("kept", [TEXT]).last == 1


def test_a_server_that_wants_a_certificate_and_ports_of_the_other_kind_are_explained(
    authority: Authority,
) -> None:
    with secured(authority, "yes") as secure:
        plain = secure.process.port
        for url, text in (
            (secure.url(), "set ssl_certfile and ssl_keyfile in the address"),
            (f"redis://localhost:{secure.port}/0", "use rediss:// in the address"),
            (f"rediss://localhost:{plain}/0", "use redis:// in the address"),
        ):
            server = RedisServer(url)
            server.timeout = 0.5  # a port without TLS does not answer
            with pytest.raises(server.failures) as caught:
                server.session()
            assert text in str(caught.value)


def test_a_login_that_is_refused_is_explained_without_the_password(
    secure: Secure, caplog: pytest.LogCaptureFixture
) -> None:
    for user in ("app:wrong@", ""):
        caplog.clear()
        with hub_at(secure.url(user=user)) as live:
            assert live.hub.stats().bus_down
        assert "set the user and the password of the server in its address" in caplog.text
        assert "wrong" not in caplog.text.replace("WRONGPASS", "")


@pytest.mark.parametrize("name", SERVERS)
def test_a_user_that_lacks_a_right_is_told_which(
    name: str, caplog: pytest.LogCaptureFixture
) -> None:
    with running(name, "--requirepass", "secret") as server, broker_times(silence=1.0):
        url = f"redis://app:right@{server.host}:{server.port}/1"
        # Without that one it is taken for a server that may lose something at its restart.
        lacking = [each for each in RIGHTS if each[0] in "+~&" and each != "+config|get"]
        assert len(lacking) > 30
        for right in lacking:
            caplog.clear()
            make_user(server, [each for each in RIGHTS if each != right])
            with hub_at(url) as live:
                live.hub.send_to_channel("kept", Message("event", data=1))
                what = right[1:] if right[0] == "+" else "permission"
                wait_until(
                    lambda what=what: re.search(rf"\b{what}", caplog.text),  # type: ignore[misc]
                    what=f"a word about {right}",
                )
            assert "give the user the rights that docs/scaling.md lists" in caplog.text, right
            assert "right@" not in caplog.text


@pytest.mark.parametrize("name", SERVERS)
def test_nothing_is_kept_in_part_by_a_user_that_lacks_a_right(name: str) -> None:
    with running(name, "--requirepass", "secret") as server:
        make_user(server, [each for each in RIGHTS if each != "+zadd"])
        url = server.url(user="app:right@")
        with (
            store_at(url) as store,
            pytest.raises(HistoryError, match="may not call zadd on the keys"),
        ):
            store.append("kept", [TEXT])
        with redis.Redis(port=server.port, password="secret") as client:
            assert client.keys("*") == []
        make_user(server, RIGHTS)
        with store_at(url) as store:
            assert store.append("kept", [TEXT]).last == 1


@pytest.mark.parametrize("setting", ["ssl_ca_certs", "ssl_certfile", "ssl_keyfile", "ssl_ca_path"])
def test_a_file_that_cannot_be_read_is_refused_at_once(setting: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=f"{setting}=.*cannot be read: give the path"):
        RedisBackplane(f"rediss://localhost/0?{setting}={tmp_path}/missing.pem")


def test_a_file_without_a_certificate_is_refused_at_once(tmp_path: Path) -> None:
    path = tmp_path / "empty.pem"
    path.write_text("no certificate")
    with pytest.raises(ConfigError, match="has no certificate: give the path"):
        RedisBackplane(f"rediss://localhost/0?ssl_ca_certs={path}")
