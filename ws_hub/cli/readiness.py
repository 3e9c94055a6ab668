"""When a program of `ws-hub up` is ready, so that those behind it in the file may start."""

from __future__ import annotations

import contextlib
import http.client
import re
import socket
import ssl
from typing import NamedTuple
from urllib.parse import quote, urlsplit

from ..errors import ConfigError, excerpt
from ..lines import GOES_ON, REPLACED
from .terminal import plain_text

__all__ = ["OWN_PORT", "Output", "Readiness", "parse_readiness"]

OWN_PORT = "PORT"  # in place of a number: the port that the program is given
_LOOK_WITHIN = 2.0  # seconds of one look
_SAFE = "/?%:@!$&'()*+,;=~"  # characters of a path and a query that stay as they are


class Readiness(NamedTuple):
    """What says that a program is ready: one of these.

    Args:
        port: a port of this machine that accepts connections; 0 for none.
        url: an URL that is answered, with less than 500; "" for none.
        text: a text in a line that the program prints; "" for none.
    """

    port: int = 0
    url: str = ""
    text: str = ""

    def look(self) -> bool:
        """Return whether the port accepts, or the URL is answered.

        Threads: any; waits some seconds at most.
        """
        try:
            if self.port:
                socket.create_connection(("localhost", self.port), _LOOK_WITHIN).close()
                return True
            return bool(self.url) and _status(self.url) < 500
        except (OSError, http.client.HTTPException):
            return False


class Output:
    """Looks for a text in the lines that a program prints, of which long ones come in pieces.

    Args:
        text: the text; "" for none.

    Threads: one at a time for each stream.
    """

    def __init__(self, text: str) -> None:
        self._text = text
        self._begun: dict[str, str] = {}  # of each stream, the end of a line that goes on

    def has(self, text: str, stream: str) -> bool:
        """Take a text of the output; return whether its line, as far as it came, has the text."""
        if not self._text or text.endswith(REPLACED):
            return False
        seen = self._begun.pop(stream, "") + plain_text(text.removesuffix(GOES_ON))
        if text.endswith(GOES_ON):
            self._begun[stream] = seen[-len(self._text) :]
        return self._text in seen


def parse_readiness(text: str, ports: dict[str, int]) -> tuple[str, Readiness]:
    """Return the name of a program, and what says that it is ready; raises ConfigError.

    `ports` are those that the programs are given.
    """
    name, _, value = text.partition("=")
    if not name or not value:
        raise ConfigError(
            f"--wait-for must be NAME=PORT, NAME=URL or NAME=TEXT, not {excerpt(text)}"
        )
    if value == OWN_PORT and name in ports:
        return name, Readiness(port=ports[name])
    if re.fullmatch(r"[0-9]{1,5}", value) and 0 < int(value) < 1 << 16:
        return name, Readiness(port=int(value))
    if not re.match(r"https?://", value):
        return name, Readiness(text=value)
    with contextlib.suppress(ValueError):  # a host or a port that is none
        parts = urlsplit(value)
        host = parts.hostname or ""
        host.encode("idna")
        if host and host.isprintable() and " " not in host and parts.port != 0:
            return name, Readiness(url=value)
    raise ConfigError(f"--wait-for {name} must have an URL with a host, not {excerpt(value)}")


def _status(url: str) -> int:
    parts = urlsplit(url)
    kind = http.client.HTTPSConnection if parts.scheme == "https" else http.client.HTTPConnection
    host, port = parts.hostname or "", parts.port or kind.default_port
    connection: http.client.HTTPConnection
    if parts.scheme == "https":
        # Whether it answers is asked, not who it is: nothing is sent that is secret.
        context = ssl.create_default_context()
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        connection = http.client.HTTPSConnection(host, port, timeout=_LOOK_WITHIN, context=context)
    else:
        connection = http.client.HTTPConnection(host, port, timeout=_LOOK_WITHIN)
    try:
        path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
        connection.request("GET", quote(path, safe=_SAFE))
        return connection.getresponse().status
    finally:
        connection.close()
