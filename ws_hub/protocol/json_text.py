"""The JSON text of an application's data, and what stands for values that JSON does not know.

Where orjson is installed (the extra `fast`), a hub writes by it what it writes as the standard
library does. Rules of this file:

- The two may differ in bytes (1e16, 1e+16), never in the value that a receiver reads, and
  never in what is refused. What orjson refuses is given to the standard library, which decides:
  keys that are no text, integers beyond 64 bits, lone surrogates, deep nesting.
- orjson writes NaN and infinity as null. So a text with a null in it is thrown away, and
  written by the standard library.
- What orjson has forms of its own for (dates, dataclasses, subclasses of dict) it hands to us.
  Only an enumeration it reads by itself, by its value. So the two differ in one that is an int
  or a str as well, with another value than that; and in orjson's own Fragment.
"""

from __future__ import annotations

import dataclasses
import datetime
import decimal
import enum
import json
import pathlib
import uuid
from collections.abc import Callable
from typing import Any

from ..errors import excerpt

__all__ = ["ToJson", "fast_encoder", "json_default", "json_encoder", "to_json"]

ToJson = Callable[[Any], str]


def json_default(value: Any) -> Any:
    """Return what stands in JSON for a value that JSON does not know.

    A datetime, date or time is its ISO 8601 text, a UUID, a Decimal or a path its text, an
    enumeration its value, a dataclass an object of its fields. Raises TypeError for anything
    else. `HubConfig.json_default` may call it for what it does not handle itself.

    Threads: any.
    """
    if isinstance(value, enum.Enum):
        return value.value
    if isinstance(value, (datetime.date, datetime.time)):  # a datetime is a date
        return value.isoformat()
    if isinstance(value, (uuid.UUID, decimal.Decimal, pathlib.PurePath)):
        return str(value)
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {each.name: getattr(value, each.name) for each in dataclasses.fields(value)}
    raise TypeError(
        f"{excerpt(value)}, of type {type(value).__name__}, has no JSON form: convert it, or set "
        "HubConfig(json_default=...) or ReconnectConfig(json_default=...)"
    )


def json_encoder(default: Callable[[Any], Any] | None = None) -> ToJson:
    """Return the function that encodes data.

    `default` is called with each value that JSON does not know, as by `json.dumps`; None for
    `json_default`. What the function raises for data without a JSON form may be anything; a
    lone surrogate is left to the caller, who meets it when the text becomes UTF-8.
    """
    return json.JSONEncoder(
        ensure_ascii=False,
        allow_nan=False,
        separators=(",", ":"),
        default=json_default if default is None else default,
    ).encode


to_json = json_encoder()


def fast_encoder() -> ToJson:
    """Return a function that encodes data as `to_json` does, by orjson if it is installed.

    Threads: any.
    """
    try:
        import orjson
    except ImportError:
        return to_json
    dumps, options = (
        orjson.dumps,
        (
            orjson.OPT_PASSTHROUGH_DATACLASS
            | orjson.OPT_PASSTHROUGH_DATETIME
            | orjson.OPT_PASSTHROUGH_SUBCLASS
        ),
    )

    def encode(data: Any) -> str:
        try:
            text: bytes = dumps(data, _orjson_default, options)
        except Exception:  # noqa: BLE001 - whatever it is, the standard library decides
            return to_json(data)
        return to_json(data) if b"null" in text else text.decode()

    return encode


def _orjson_default(value: Any) -> Any:
    """Return what stands for a value of a class that orjson does not write by itself.

    For a subclass that is its content, read as the standard library does: of a container by
    what it overrides, of a text and a number past that.
    """
    if isinstance(value, str):
        return str.__str__(value)
    if isinstance(value, int):
        return int.__int__(value)
    if isinstance(value, float):
        return float.__float__(value)
    if isinstance(value, (list, tuple)):
        return [*value]
    if isinstance(value, dict):  # an empty one's `items` is not asked
        return dict(value.items()) if dict.__len__(value) else {}
    return json_default(value)
