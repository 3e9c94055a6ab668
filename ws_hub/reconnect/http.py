"""One HTTP request and the head of its response, bounded in time and size.

`Exchange` takes the place of the socket in websocket-client's handshake, and adds what
that lacks (FAULTS 1d): no redirect is followed, the head of a response is bounded in size
and time, and neither request nor response touches the cookie jar that the whole process
shares.
"""

from __future__ import annotations

import email.utils
import io
from collections.abc import Callable, Sequence

from ..backoff import MAX_ASKED
from ..errors import CloseCode, HandshakeRefused, ProtocolError, excerpt
from ..protocol.compression import check_answer
from .stream import READ, Stream

__all__ = ["Exchange", "parse_head"]

_MAX_HEAD = 64 * 1024  # bytes before the empty line of an HTTP response
_ALONE = {b"retry-after", b"date"}  # not lists: when one is repeated, the first counts
_PASSED_ON = {b"upgrade", b"connection", b"sec-websocket-accept"}


class Exchange:
    """One HTTP request and the head of its response, with the interface of a socket.

    Args:
        stream: a connected socket.
        cookie: the Cookie header to send, in place of any other.
        deadline: when the exchange must be complete, by `clock`.
        clock: returns monotonic seconds.
        protocols: the subprotocols that are offered.
        compression: whether permessage-deflate is offered.

    Attributes:
        agreed: whether the server agreed on compression.
        selected: the subprotocol that it selected; "" for none.
        rest: the bytes received after the head of the response.
    """

    def __init__(
        self,
        stream: Stream,
        cookie: str,
        deadline: float,
        clock: Callable[[], float],
        *,
        protocols: Sequence[str] = (),
        compression: bool = False,
    ) -> None:
        self._stream = stream
        self._cookie = cookie
        self._deadline = deadline
        self._clock = clock
        self._protocols = protocols
        self._compression = compression
        self._shown: io.BytesIO | None = None
        self.agreed = False
        self.selected = ""
        self.rest = b""

    # --- what websocket-client calls -------------------------------------------------------

    def gettimeout(self) -> float:
        """Return a value other than 0, so that websocket-client does not wait by itself."""
        return 1.0

    def send(self, request: bytes) -> int:
        """Send the whole request, with our cookies and none from the shared jar."""
        lines = request.removesuffix(b"\r\n\r\n").split(b"\r\n")
        lines = [line for line in lines if not line.lower().startswith(b"cookie:")]
        if self._cookie:
            lines.append(b"Cookie: " + self._cookie.encode())
        self.write(b"\r\n".join([*lines, b"", b""]))
        return len(request)

    def recv(self, size: int) -> bytes:
        """Return the next bytes of the response's head, reduced to the lines that matter."""
        if self._shown is None:
            self._shown = io.BytesIO(self._accepted(self.read_head()))
        return self._shown.read(size)

    def close(self) -> None:
        """Do nothing: the owner of the stream closes it."""

    # --- the response ----------------------------------------------------------------------

    def _accepted(self, head: bytes) -> bytes:
        """Return the lines of a 101 that matter, without Set-Cookie and the rest.

        Raises HandshakeRefused for any other status. A redirect is one of these: its
        target must not get our credentials.
        """
        status, reason, headers = parse_head(head)
        if status != 101:
            raise HandshakeRefused(status, reason, _retry_after(headers))
        extensions = headers.get(b"sec-websocket-extensions", b"").decode("latin-1")
        if extensions and not self._compression:
            raise ProtocolError(CloseCode.PROTOCOL_ERROR, "an extension that was not offered")
        if extensions:
            check_answer(extensions)
            self.agreed = True
        # RFC 6455 section 4.1 lets a server select none of those offered; websocket-client
        # does not, so it is checked here and not passed on.
        self.selected = headers.get(b"sec-websocket-protocol", b"").decode("latin-1")
        if self.selected and self.selected not in self._protocols:
            reason = f"a subprotocol that was not offered: {excerpt(self.selected)}"
            raise ProtocolError(CloseCode.PROTOCOL_ERROR, reason)
        lines = [head.partition(b"\r\n")[0]]
        lines += [name + b": " + value for name, value in headers.items() if name in _PASSED_ON]
        return b"\r\n".join([*lines, b"", b""])

    def write(self, data: bytes) -> None:
        """Send all of `data`; raises OSError."""
        mark = self._stream.append(data)
        while events := self._stream.push(mark):
            self._wait(events)

    def read_head(self) -> bytes:
        """Return the head, up to the empty line; `rest` gets the bytes after it."""
        received = b""
        while b"\r\n\r\n" not in received[-_MAX_HEAD:]:
            if len(received) > _MAX_HEAD:
                raise ProtocolError(
                    CloseCode.PROTOCOL_ERROR, f"the head of the response is over {_MAX_HEAD} bytes"
                )
            data = self._stream.receive()
            if data == b"":
                raise ConnectionError("the connection ended during the handshake")
            if data is None:
                self._wait(READ)
            else:
                received += data
        head, _, self.rest = received.partition(b"\r\n\r\n")
        return head

    def _wait(self, events: int) -> None:
        # The deadline counts even while bytes arrive: a server may send one at a time for ever.
        if self._clock() >= self._deadline or not self._stream.wait(events, self._deadline):
            raise TimeoutError("no handshake in time")


def parse_head(head: bytes) -> tuple[int, str, dict[bytes, bytes]]:
    """Return status, reason, and headers by lower-case name, repeated ones joined."""
    first, *lines = head.split(b"\r\n")
    version, _, rest = first.partition(b" ")
    digits, _, reason = rest.partition(b" ")
    if not version.startswith(b"HTTP/1.") or not (digits.isdigit() and len(digits) == 3):
        raise ProtocolError(CloseCode.PROTOCOL_ERROR, f"not an HTTP response: {excerpt(first)}")
    headers: dict[bytes, bytes] = {}
    for line in lines:
        name, colon, value = line.partition(b":")
        if not colon:
            continue
        key = name.strip().lower()
        if key not in headers:
            headers[key] = value.strip()
        elif key not in _ALONE:
            headers[key] += b", " + value.strip()
    return int(digits), reason.decode("latin-1").strip(), headers


def _retry_after(headers: dict[bytes, bytes]) -> float | None:
    """Return the seconds of a Retry-After (RFC 9110 section 10.2.3); None without one.

    A date is measured by the server's own clock, the Date header.
    """
    text = headers.get(b"retry-after", b"").decode("latin-1")
    if text.isdecimal():
        return min(float(text[:9]), MAX_ASKED)
    try:
        until = email.utils.parsedate_to_datetime(text)
        now = email.utils.parsedate_to_datetime(headers.get(b"date", b"").decode("latin-1"))
        return min(max((until - now).total_seconds(), 0.0), MAX_ASKED)
    except (TypeError, ValueError):  # neither a number nor a date, or there is no Date header
        return None
