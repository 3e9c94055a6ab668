r"""The forms that a secret takes in output: as it is, and as base64, URL and JSON have it.

Rules of this file:

- A secret of several lines is each of its lines: no form has a newline.
- Blanks around a line, and control sequences in it, are no part of it.
- The base64 of a long secret may be broken into lines, as `base64` and `openssl` do: each of these
  is a form as well.
- In base64 the characters that a secret shares with its neighbours are no part of a form, but
  for those at the end of the encoded text, with their padding.
"""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Iterator
from urllib.parse import quote

from .sequences import bare

__all__ = ["LEAST_BYTES", "forms_of"]

LEAST_BYTES = 4  # of a secret: what is shorter is in every text
_ENDS = re.compile("[\r\n]+")
_WIDTHS = (76, 64)  # of MIME, and of PEM
_LEAST_WRAPPED = 8  # characters of the last line
# What is left as it is: by RFC 3986, by Python, by JavaScript, and by forms, which encode ~.
_SAFE = ("", "/", "!'()*", "*")
_ESCAPE = re.compile("%[0-9A-F]{2}")


def forms_of(secret: str) -> set[str]:
    """Return the forms of a secret; none where no line of it has LEAST_BYTES bytes.

    Raises UnicodeEncodeError for text that has no UTF-8 form.
    """
    found: set[str] = set()
    for line in _ENDS.split(secret):
        text = bare(line).strip()
        data = text.encode("utf-8", "surrogateescape")
        if len(data) >= LEAST_BYTES:
            found.add(text)
            found.update(_json(text), _url(data), _base64(data))
    if found:
        found.update(_wrapped(secret), _wrapped(secret.strip()), _wrapped(secret.strip() + "\n"))
    return found


def _json(text: str) -> Iterator[str]:
    for ascii_only in (True, False):
        form = json.dumps(text, ensure_ascii=ascii_only)[1:-1]
        yield form
        yield form.replace("/", "\\/")


def _url(data: bytes) -> Iterator[str]:
    for safe in _SAFE:
        upper = quote(data, safe)
        lower = _ESCAPE.sub(lambda match: match[0].lower(), upper)
        for form in (upper, lower):
            for each in (form, form.replace("~", "%7e" if form is lower else "%7E")):
                yield each
                yield each.replace("%20", "+")


def _wrapped(secret: str) -> Iterator[str]:
    encoded = base64.b64encode(secret.encode("utf-8", "surrogateescape")).decode("ascii")
    for width in _WIDTHS:
        for start in range(0, len(encoded) if len(encoded) > width else 0, width):
            line = encoded[start : start + width]
            if len(line) >= _LEAST_WRAPPED:
                yield line


def _base64(data: bytes) -> Iterator[str]:
    for before in range(3):
        encoded = base64.b64encode(b"\0" * before + data)
        first = (before * 8 + 5) // 6  # the sextets that are its own begin here
        last = (before + len(data)) * 8 // 6
        for end in {last, len(encoded.rstrip(b"=")), len(encoded)}:
            form = encoded[first:end].decode("ascii")
            yield form
            yield form.replace("+", "-").replace("/", "_")
