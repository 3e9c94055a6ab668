"""Filters: which messages of a channel a subscriber gets, by the fields of their data.

A filter maps top-level fields of `data` to the values that they may have. Rules of this file:

- A message passes when each field of the filter is in its data, with one of the values. Data
  that is no JSON object has no fields.
- Values are compared as JSON has them: true is not 1, 1 is 1.0, and a field that is missing is
  not null. An object or an array is none of the values.
- A filter is small, so that a decision costs less than the send that it saves.
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Mapping
from typing import Any

from ..errors import excerpt
from .json_text import to_json

__all__ = ["AnyFilter", "Filter", "fields_of", "filter_of"]

Scalar = str | int | float | bool | None
AnyFilter = Mapping[str, Collection[Scalar]]  # what `filter_of` accepts

_MAX_FIELDS = 8
_MAX_VALUES = 64  # of all fields together
_MAX_BYTES = 1024  # of the filter as JSON
_EXAMPLE = '{"level": ["error", "warning"]}'
_COLLECTIONS = (list, tuple, set, frozenset)
_MISSING = object()
_STRING = r'"[^"\\]*(?:\\.[^"\\]*)*"'
# What is before the data of a message, and the bracket of an object.
_BEFORE_DATA = re.compile(
    rf'\{{"type":{_STRING}(?:,"channel":{_STRING})?(?:,"processId":{_STRING})?,"data":(\{{)?'
)
_decode = json.JSONDecoder().raw_decode


class Filter:
    """The values that fields of a message's data may have. Immutable; equal by meaning.

    Raises TypeError for what maps no fields to lists of values, ValueError beyond the bounds:
    8 fields, 64 values in all, 1,024 bytes as JSON.

    Args:
        fields: the values of each field.

    Attributes:
        value: the filter as it is sent.
    """

    __slots__ = ("_fields", "_hash", "value")

    def __init__(self, fields: AnyFilter) -> None:
        given: object = fields
        if not isinstance(given, Mapping):
            raise TypeError(
                f"filter must map fields to lists of values, not {excerpt(given)}: {_EXAMPLE}"
            )
        for field, values in given.items():
            _check_field(field, values)
        count = sum(len(values) for values in given.values())
        if len(given) > _MAX_FIELDS or count > _MAX_VALUES:
            raise ValueError(
                f"filter must have at most {_MAX_FIELDS} fields and {_MAX_VALUES} values in all, "
                f"not {len(given)} and {count}"
            )
        self.value: dict[str, list[Scalar]] = {name: list(each) for name, each in given.items()}
        size = _size(self.value)
        if size > _MAX_BYTES:
            raise ValueError(f"filter must have at most {_MAX_BYTES} bytes as JSON, not {size}")
        self._fields = tuple(
            (field, frozenset(map(_comparable, values)))
            for field, values in sorted(self.value.items())
        )
        self._hash = hash(self._fields)

    def passes(self, data: Mapping[str, Any] | None) -> bool:
        """Return whether a message with such data passes; None for data that is no object."""
        if data is None:
            return False
        for field, values in self._fields:
            found = data.get(field, _MISSING)
            if isinstance(found, (dict, list)) or _comparable(found) not in values:
                return False
        return True

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Filter) and self._fields == other._fields

    def __hash__(self) -> int:
        return self._hash

    def __repr__(self) -> str:
        return f"Filter({self.value!r})"


def filter_of(fields: AnyFilter | None) -> Filter | None:
    """Return the filter of a subscription; None for None and for one without fields.

    All messages pass a filter without fields. Raises what `Filter` raises.
    """
    found = None if fields is None else Filter(fields)
    return found if found is not None and found.value else None


def _comparable(value: object) -> object:
    """Return what is equal for equal JSON: in Python True is 1."""
    return (value,) if isinstance(value, bool) else value


def _check_field(field: object, values: object) -> None:
    if not isinstance(field, str):
        raise TypeError(f"a field of filter must be text, not {excerpt(field)}: {_EXAMPLE}")
    if not isinstance(values, _COLLECTIONS):
        raise TypeError(
            f"filter must have a list of values for {excerpt(field)}, not {excerpt(values)}: "
            f"{_EXAMPLE}"
        )
    for value in values:
        if value is not None and not isinstance(value, (str, int, float)):
            raise TypeError(
                f"a value of filter must be text, a number, true, false or null, not "
                f"{excerpt(value)}: {_EXAMPLE}"
            )


def _size(value: object) -> int:
    try:
        return len(to_json(value).encode())
    except Exception as error:  # a user's subclass of int or str may raise anything
        raise ValueError(
            f"filter {excerpt(value)} has no JSON form, pass text and finite numbers: {error}"
        ) from error


def fields_of(text: bytes) -> dict[str, Any] | None:
    """Return the fields of an encoded message's data; None for data that is no object."""
    try:
        found = text.decode()
        match = _BEFORE_DATA.match(found)
        if match is None:  # another program's, in a store: its fields may be in another order
            message = json.loads(found)
            data = message.get("data") if isinstance(message, dict) else None
        elif match[1] is None:  # a line of output, mostly: it is not parsed
            return None
        else:
            data, _ = _decode(found, match.start(1))
    except (ValueError, RecursionError):
        return None
    return data if isinstance(data, dict) else None
