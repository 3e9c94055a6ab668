"""The JSON text of an application's data, and what stands for values that JSON does not know."""

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

__all__ = ["ToJson", "json_default", "json_encoder", "to_json"]

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
        "HubConfig(json_default=...)"
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
