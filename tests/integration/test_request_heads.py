"""The heads of requests to the embedded server: the usual ones are parsed by a shorter way."""

from __future__ import annotations

import json
import random
import socket
from collections.abc import Iterator
from typing import Any

import pytest

from tests.support import TIMEOUT
from ws_hub import Hub, serve

# A name with an underscore has no place in the environ, and its head is parsed by the standard
# library: it makes no other difference.
UNUSUAL = "X_Y: z"


def _app(environ: dict[str, Any], start_response: Any) -> list[bytes]:
    start_response("200 OK", [("Content-Type", "application/json")])
    told = {name: value for name, value in environ.items() if isinstance(value, str)}
    body = environ["wsgi.input"].read(int(environ["CONTENT_LENGTH"] or 0)).decode()
    return [json.dumps({**told, "REMOTE_PORT": "", "body": body}).encode()]


@pytest.fixture(scope="module")
def port() -> Iterator[int]:
    with Hub() as hub, serve(hub, app=_app) as server:
        yield server.port


def _environ(port: int, start: str, *fields: str, body: str = "") -> Any:
    """Return what the application was given; the whole answer where it was not asked."""
    with socket.create_connection(("127.0.0.1", port), TIMEOUT) as sock:
        sock.sendall("\r\n".join([start, *fields, "", body]).encode("latin-1"))
        answer = b"".join(iter(lambda: sock.recv(65536), b""))
    head, _, told = answer.partition(b"\r\n\r\n")
    return json.loads(told) if head.startswith(b"HTTP/1.1 200") and told else head.split(b"\r\n")[0]


HOST = "Host: localhost"
VALUES = ' \tab,;="%'


@pytest.mark.parametrize(
    "head",
    [
        ("GET / HTTP/1.1", HOST),
        ("GET / HTTP/1.0", HOST),
        ("GET / HTTP/1.0",),
        ("GET / HTTP/1.1",),
        ("HEAD / HTTP/1.1", HOST),
        ("GET /a%20b%C3%A4?c=d%20e?f HTTP/1.1", HOST),
        ("GET //evil.example/x HTTP/1.1", HOST),
        ("GET /? HTTP/1.1", HOST),
        ("GET /#x HTTP/1.1", HOST),
        ("GET / HTTP/1.1", HOST, "Accept: a", "accept:b", "ACCEPT:  c \t"),
        ("GET / HTTP/1.1", HOST, "Empty:", "Spaces:   ", "Tab:\ta\tb"),
        ("GET / HTTP/1.1", HOST, "Server-Name: evil", "Path-Info: /x", "Remote-Addr: 1.2.3.4"),
        ("GET / HTTP/1.1", HOST, "Http-Host: evil", "X: a:b:c", "1: 2"),
        ("GET / HTTP/1.1", HOST, "Content-Type: text/html", "Content-Length: 0"),
        ("GET / HTTP/1.1", HOST, "Connection: close", "Expect: 100-continue"),
        ("GET / HTTP/1.1", HOST, "Umlaut: \xe4"),
        ("GET / HTTP/1.1", HOST, "Folded: a", " b"),
        ("GET / HTTP/1.1", HOST, *[f"X-{number}: {number}" for number in range(90)]),
        ("OPTIONS * HTTP/1.1", HOST),
        ("GET http://localhost/x?y HTTP/1.1", "Host: other"),
        ("GET / HTTP/2.0", HOST),
        ("GET / HTTP/1.1 x", HOST),
        ("get / HTTP/1.1", HOST),
    ],
)
def test_a_head_means_the_same_by_both_ways(port: int, head: tuple[str, ...]) -> None:
    assert _environ(port, *head) == _environ(port, *head, UNUSUAL)


def test_heads_made_at_random_mean_the_same_by_both_ways(port: int) -> None:
    chance = random.Random(16)
    names = ["Accept", "accept", "X-A", "X-a", "Cookie", "Origin", "Upgrade", "Server-Port", "~"]
    for _ in range(60):
        path = "".join(chance.choices("/ab%20?&=#;~'", k=chance.randrange(9)))
        fields = [
            f"{chance.choice(names)}:" + "".join(chance.choices(VALUES, k=chance.randrange(9)))
            for _ in range(chance.randrange(9))
        ]
        head = (f"GET /{path} HTTP/1.1", HOST, *fields)
        assert _environ(port, *head) == _environ(port, *head, UNUSUAL), head


def test_a_body_behind_a_head_is_read_whole(port: int) -> None:
    fields = (HOST, "Content-Length: 5", "Content-Type: text/plain")
    for unusual in ((), (UNUSUAL,)):
        told = _environ(port, "POST / HTTP/1.1", *fields, *unusual, body="hello")
        assert (told["body"], told["CONTENT_LENGTH"]) == ("hello", "5")
    twice = (HOST, "Content-Length: 5", "Content-Length: 4")
    told = _environ(port, "GET / HTTP/1.1", *twice, body="hello")
    assert told == _environ(port, "GET / HTTP/1.1", *twice, UNUSUAL, body="hello")


def test_a_head_in_pieces_is_read_whole(port: int) -> None:
    whole = _environ(port, "GET /a?b HTTP/1.1", HOST, "X: y")
    with socket.create_connection(("127.0.0.1", port), TIMEOUT) as sock:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for each in b"GET /a?b HTTP/1.1\r\nHost: localhost\r\nX: y\r\n\r\n":
            sock.sendall(bytes([each]))
        answer = b"".join(iter(lambda: sock.recv(65536), b""))
    assert json.loads(answer.partition(b"\r\n\r\n")[2]) == whole
