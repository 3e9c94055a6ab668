"""The address of a Redis or Valkey server, of the sentinels of one, or of a cluster.

    redis://user:password@host:6379/0?prefix=ws
    redis+sentinel://user:password@host1:26379,host2:26379/mymaster/0?prefix=ws
    redis+cluster://user:password@host1:6379,host2:6379/?prefix=ws

`rediss` in place of `redis` is with TLS; `valkey` and `valkeys` are the same.
"""

from __future__ import annotations

import os
import re
import ssl
from collections.abc import Mapping
from dataclasses import dataclass
from urllib.parse import parse_qsl, quote, unquote, urlencode, urlsplit

from ..errors import ConfigError, excerpt

__all__ = ["EXAMPLE", "Node", "RedisAddress"]

Node = tuple[str, int]  # a host and its port

EXAMPLE = '"redis://localhost:6379/0?prefix=ws"'
_FORMS = {
    "": EXAMPLE,
    "sentinel": '"redis+sentinel://host1:26379,host2:26379/mymaster/0?prefix=ws"',
    "cluster": '"redis+cluster://host1:6379,host2:6379/?prefix=ws"',
}
_SCHEME = re.compile(r"(?:redis|valkey)(s?)(?:\+(sentinel|cluster))?")
_HOST = re.compile(r"(?:\[([^]]+)\]|([^][:,\s]+))(?::(\d{1,5}))?")
_SERVICE = re.compile(r"[A-Za-z0-9._-]+")  # as Sentinel has it
_PREFIX = re.compile(r"[A-Za-z0-9_.:-]{1,64}")
_SETTINGS = re.compile(r"db|client_name|ssl_[a-z_]+")
_FILES = ("ssl_ca_certs", "ssl_ca_path", "ssl_certfile", "ssl_keyfile")
_SECRET = re.compile(r"//[^/]*@|(?<=password=)[^&]*")


@dataclass(frozen=True, slots=True)
class RedisAddress:
    """What an address says.

    Args:
        label: the address, without passwords, for the log.
        kind: "" for a server, "sentinel", or "cluster".
        nodes: the server, the sentinels, or some nodes of the cluster.
        service: the name that the sentinels have for the master; else "".
        database: the number of the database.
        prefix: what all keys and channels of the application begin with.
        user: the user of the server.
        is_tls: whether connections are under TLS.
        login: user and password of the server, as in the address.
        sentinel_login: those of the sentinels.
        go: whether Go hubs use the same prefix, and are spoken to.
        settings: what else redis-py is told.
    """

    label: str
    kind: str
    nodes: tuple[Node, ...]
    service: str
    database: str
    prefix: str
    user: str
    is_tls: bool
    login: str
    sentinel_login: str
    go: bool
    settings: Mapping[str, str]

    @classmethod
    def parsed(cls, url: str) -> RedisAddress:
        """Return what an address says; raises ConfigError where it is none."""
        try:
            parts = urlsplit(url)
            settings = dict(parse_qsl(parts.query, strict_parsing=bool(parts.query)))
        except ValueError:
            raise _not_an_address(url) from None
        scheme = _SCHEME.fullmatch(parts.scheme)
        if scheme is None:
            raise _not_an_address(url)
        kind = scheme[2] or ""
        login, _, hosts = parts.netloc.rpartition("@")
        nodes = _nodes_of(hosts, 26379 if kind == "sentinel" else 6379)
        *before, database = parts.path.strip("/").split("/")
        if kind == "sentinel" and not database.isdecimal():
            before, database = [*before, database], ""
        service = before[0] if before else ""
        database = settings.pop("db", database or "0")
        if (
            not nodes
            or (len(nodes) > 1 and not kind)
            or parts.fragment
            or len(before) != (kind == "sentinel")
            or (kind == "sentinel" and not _SERVICE.fullmatch(service))
            or not database.isdecimal()
        ):
            raise _not_an_address(url, kind)
        prefix = settings.pop("prefix", "ws")
        sentinel_login = _sentinel_login(settings) if kind == "sentinel" else ""
        go = _go(settings, kind)
        _check(prefix, settings)
        if kind == "cluster" and database != "0":
            raise ConfigError(
                f"a cluster has the database 0 alone, not {excerpt(database)}: give each "
                'application a prefix, as in "?prefix=chat"'
            )
        user = unquote(login.partition(":")[0])
        at = ",".join(f"{host}:{port}" for host, port in nodes)
        path = f"{service}/{database}" if service else database
        label = f"{parts.scheme}://{f'{user}@' if user else ''}{at}/{path}?prefix={prefix}"
        return cls(label, kind, nodes, service, database, prefix, user, bool(scheme[1]),
                   login, sentinel_login, go, settings)  # fmt: skip

    def url(self, node: Node) -> str:
        """Return the address of a node, as redis-py takes it."""
        return self._url(self.login, node, self.database)

    def sentinel_url(self, node: Node) -> str:
        """Return the address of a sentinel, as redis-py takes it."""
        return self._url(self.sentinel_login, node, "")

    def _url(self, login: str, node: Node, database: str) -> str:
        host, port = node
        at = f"[{host}]" if ":" in host else host
        scheme = "rediss" if self.is_tls else "redis"
        query = urlencode(self.settings)
        return f"{scheme}://{f'{login}@' if login else ''}{at}:{port}/{database}?{query}"


def _nodes_of(hosts: str, default: int) -> tuple[Node, ...]:
    found = [_HOST.fullmatch(each) for each in hosts.split(",")]
    nodes = [(each[1] or each[2], int(each[3] or default)) for each in found if each]
    if len(nodes) < len(found) or any(not 0 < port < 65536 for _, port in nodes):
        return ()
    return tuple((host.lower(), port) for host, port in nodes)


def _sentinel_login(settings: dict[str, str]) -> str:
    user, password = settings.pop("sentinel_username", ""), settings.pop("sentinel_password", "")
    return f"{quote(user, safe='')}:{quote(password, safe='')}" if user or password else ""


def _go(settings: dict[str, str], kind: str) -> bool:
    go = settings.pop("go", "0")
    if go not in ("0", "1"):
        raise ConfigError(
            f"go={excerpt(go)} is no setting of a RedisBackplane's address: use go=1 where Go "
            "hubs with the same prefix are to get and send messages, else leave it out"
        )
    if go == "1" and kind == "cluster":
        raise ConfigError(
            "go=1 is no setting of a RedisBackplane's address with a cluster: use a server, or "
            "sentinels, where there are Go hubs"
        )
    return go == "1"


def _check(prefix: str, settings: Mapping[str, str]) -> None:
    if not _PREFIX.fullmatch(prefix):
        raise ConfigError(
            f"{excerpt(prefix)} is no prefix of a RedisBackplane: use up to 64 letters, "
            "digits and any of _ . : -"
        )
    for name in settings:
        if not _SETTINGS.fullmatch(name):
            raise ConfigError(
                f"{excerpt(name)} is no setting of a RedisBackplane's address: it takes "
                "prefix, go, db, client_name and those of TLS, such as ssl_ca_certs; before "
                "sentinels also sentinel_username and sentinel_password"
            )
    for name in _FILES:
        path = settings.get(name)
        if path is not None and not os.access(path, os.R_OK):
            raise ConfigError(
                f"{name}={excerpt(path)} in the address of a RedisBackplane cannot be read: give "
                "the path of a PEM file that this user may read"
            )
    if "ssl_ca_certs" in settings:
        path = settings["ssl_ca_certs"]
        try:
            ssl.create_default_context(cafile=path)
        except ssl.SSLError as error:
            raise ConfigError(
                f"ssl_ca_certs={excerpt(path)} in the address of a RedisBackplane has no "
                "certificate: give the path of a PEM file with the one of the authority"
            ) from error


def _not_an_address(url: str, kind: str = "") -> ConfigError:
    # Without what may be a password.
    shown = _SECRET.sub(lambda found: "//***@" if found[0].startswith("//") else "***", url)
    return ConfigError(
        f"{excerpt(shown)} is no address of a Redis server: use one such as {_FORMS[kind]}"
    )
