"""Checks of single settings: an invalid value raises ConfigError with the field's name."""

from __future__ import annotations

import datetime
import inspect
import ipaddress
import math
import os
import re
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import TypeGuard

from .errors import ConfigError, excerpt
from .origin import fault_of_allowed

__all__ = [
    "check_arguments",
    "check_bound",
    "check_callables",
    "check_choice",
    "check_count",
    "check_flag",
    "check_function",
    "check_headers",
    "check_many",
    "check_named",
    "check_networks",
    "check_no_classes",
    "check_origins",
    "check_plain",
    "check_position",
    "check_positions",
    "check_rate",
    "check_seconds",
    "check_text",
    "check_timeout",
    "check_wait",
    "check_words",
    "is_line",
    "is_number",
    "is_path",
    "is_terminal_length",
    "posix_time",
]

# poll(2) counts milliseconds in a C int: a longer wait than 24 days overflows it.
_LONGEST_WAIT = 1_000_000.0
_NO_LINE = re.compile("[\r\n\0\ud800-\udfff]")


def is_number(value: object) -> bool:
    """Return whether a value is an int or a float; True and False are not."""
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def is_path(value: object) -> bool:
    """Return whether a value is a path, or a text that can be one; one of bytes is not."""
    text = os.fspath(value) if isinstance(value, os.PathLike) else value
    return isinstance(text, str) and text != "" and "\0" not in text


def is_terminal_length(value: object) -> TypeGuard[int]:
    """Return whether a value can be the columns, or the rows, of a terminal."""
    return isinstance(value, int) and not isinstance(value, bool) and 0 < value < 1 << 16


def is_line(value: object) -> TypeGuard[str]:
    """Return whether a value can be a header value: one line of text with a UTF-8 form."""
    return isinstance(value, str) and _NO_LINE.search(value) is None


def check_text(config: object, name: str, what: str, start: str | tuple[str, ...]) -> None:
    """Check a non-empty text that begins with `start`; `what` describes it in the error."""
    value = getattr(config, name)
    if not isinstance(value, str) or not value or not value.startswith(start):
        raise ConfigError(f"{name} must be {what}, not {excerpt(value)}")


def check_seconds(config: object, name: str) -> None:
    """Check a positive, finite duration."""
    value = getattr(config, name)
    if not is_number(value) or not 0 < value < math.inf:
        raise ConfigError(f"{name} must be a positive number of seconds, not {excerpt(value)}")


def check_wait(config: object, name: str) -> None:
    """Check a positive duration that a thread may wait: at most 1,000,000 seconds."""
    check_seconds(config, name)
    value = getattr(config, name)
    if value > _LONGEST_WAIT:
        raise ConfigError(
            f"{name} must be at most {_LONGEST_WAIT:,.0f} seconds, not {excerpt(value)}"
        )


def check_rate(config: object, name: str) -> None:
    """Check a positive, finite number per second."""
    value = getattr(config, name)
    if not is_number(value) or not 0 < value < math.inf:
        raise ConfigError(f"{name} must be a positive number a second, not {excerpt(value)}")


def check_flag(config: object, name: str) -> None:
    """Check a bool."""
    value = getattr(config, name)
    if not isinstance(value, bool):
        raise ConfigError(f"{name} must be True or False, not {excerpt(value)}")


def check_many(config: object, name: str, kind: type, what: str) -> None:
    """Check a collection of `kind`; a string is refused, although it is a collection."""
    value = getattr(config, name)
    if isinstance(value, (str, bytes)) or not isinstance(value, Collection):
        raise ConfigError(
            f"{name} must be a collection of {what}, not {excerpt(value)}: write a list, also "
            "of one"
        )
    for item in value:
        if not isinstance(item, kind):
            raise ConfigError(f"{name} must hold {what}, not {excerpt(item)}")


def check_count(config: object, name: str, *, least: int) -> None:
    """Check a whole number of at least `least`."""
    value = getattr(config, name)
    if not isinstance(value, int) or isinstance(value, bool) or value < least:
        raise ConfigError(f"{name} must be a whole number from {least}, not {excerpt(value)}")


def check_choice(config: object, name: str, choices: Sequence[str]) -> None:
    """Check a setting that is one of several texts."""
    value = getattr(config, name)
    if value not in choices:
        known = " or ".join(map(repr, choices))
        raise ConfigError(f"{name} must be {known}, not {excerpt(value)}")


def check_headers(config: object, name: str) -> None:
    """Check a mapping of strings to strings."""
    value = getattr(config, name)
    if not isinstance(value, Mapping):
        raise ConfigError(f"{name} must map names to values, not {excerpt(value)}")
    for item in (*value.keys(), *value.values()):
        if not isinstance(item, str):
            raise ConfigError(f"{name} must hold strings, not {excerpt(item)}")


def check_origins(config: object, name: str) -> None:
    """Check a collection of allowed origins; one that can never match is refused."""
    check_many(config, name, str, "origins")
    for item in getattr(config, name):
        fault = fault_of_allowed(item)
        if fault:
            raise ConfigError(f"{name} must hold origins, not {excerpt(item)}: {fault}")


def check_networks(config: object, name: str) -> None:
    """Check a collection of addresses and networks; "unix" is allowed."""
    check_many(config, name, str, "networks")
    for item in getattr(config, name):
        try:
            if item != "unix":
                ipaddress.ip_network(item)
        except ValueError as error:
            raise ConfigError(f"{name} must hold networks: {error}") from None


def check_callables(config: object, **settings: str) -> None:
    """Check settings that are functions or None, each with the names of its arguments."""
    for name, arguments in settings.items():
        value = getattr(config, name)
        if value is None:
            continue
        if not callable(value):
            raise ConfigError(f"{name} must be callable or None, not {excerpt(value)}")
        check_plain(name, value)
        try:
            check_arguments(name, value, arguments)
        except TypeError as error:
            raise ConfigError(str(error)) from None


def check_no_classes(config: object, *names: str) -> None:
    """Check functions that decide: a class would make an object, which is no decision."""
    for name in names:
        value = getattr(config, name)
        if isinstance(value, type):
            kind = value.__name__
            raise ConfigError(
                f"{name} must be a function, or an object that can be called, and not the class "
                f"{kind}: pass {kind}(...)"
            )


def check_function(name: str, value: object, arguments: str | None = None) -> None:
    """Check a function that is an argument: TypeError for what cannot be called.

    `arguments` are as in `check_arguments`; None where they are not checked.
    """
    if not callable(value):
        raise TypeError(f"{name} must be a function, not {excerpt(value)}")
    check_plain(name, value)
    if arguments is not None:
        check_arguments(name, value, arguments)


def check_arguments(what: str, function: Callable[..., object], arguments: str) -> None:
    """Check that a function can be called with some arguments, "client, message" for two.

    One that does not tell what it takes, as some builtins, is not checked. Raises TypeError
    that shows the function as it should be.
    """
    try:
        # Of the function itself, not of what it wraps: a decorator may add arguments.
        signature = inspect.signature(function, follow_wrapped=False)
    except Exception:  # noqa: BLE001 - of a user's object, such as a proxy without a context
        return
    try:
        signature.bind(*filter(None, arguments.split(", ")))
    except TypeError:
        own = getattr(function, "__name__", "")
        name = own if isinstance(own, str) and own.isidentifier() else "function"
        taken = f"{name}({', '.join(signature.parameters)})"
        raise TypeError(
            f"{what} is called as {name}({arguments}), and {taken} does not take that: write "
            f"def {name}({arguments})"
        ) from None


def check_named(unnamed: tuple[object, ...], call: str) -> None:
    """Check that no argument came without its name: TypeError that shows the call with names."""
    if unnamed:
        raise TypeError(f"{', '.join(map(excerpt, unnamed))} must be passed by name: {call}")


def check_timeout(name: str, value: object) -> None:
    """Check an argument that is seconds to wait: TypeError for anything but a number or None."""
    if value is not None and (not is_number(value) or value != value):
        raise TypeError(f"{name} must be a number of seconds or None, not {excerpt(value)}")


def check_bound(name: str, value: object) -> float:
    """Return an argument that bounds a wait, as seconds that any wait takes.

    TypeError for what is no number, None included, ValueError for a negative one.
    """
    if not isinstance(value, (int, float)) or isinstance(value, bool) or value != value:
        raise TypeError(f"{name} must be a number of seconds, not {excerpt(value)}")
    if value < 0:
        raise ValueError(f"{name} must be a number of seconds from 0, not {excerpt(value)}")
    return min(float(value), _LONGEST_WAIT)


def check_position(name: str, value: object) -> None:
    """Check an argument that counts messages: a whole number from 0, or None."""
    if value is None:
        return
    if not isinstance(value, int) or isinstance(value, bool):
        raise TypeError(f"{name} must be a whole number or None, not {excerpt(value)}")
    if value < 0:
        raise ValueError(f"{name} must not be negative, and is {value}: 0 is the least")


def check_positions(call: str, since_time: object, **numbers: int | None) -> None:
    """Check arguments that each say where in a history: as `check_position`, and one at most."""
    for name, value in numbers.items():
        check_position(name, value)
    given = [name for name, value in numbers.items() if value is not None]
    if since_time is not None:
        given.append("since_time")
    if len(given) > 1:
        raise ValueError(
            f"{' and '.join(given)} of {call}() are mutually exclusive: pass one of them"
        )


def posix_time(name: str, value: object) -> float | None:
    """Return an argument that is a time as POSIX seconds; None for None.

    Raises TypeError for what is no time, ValueError for a datetime without a time zone: it
    would be another moment on each machine.
    """
    if value is None:
        return None
    if isinstance(value, datetime.datetime):
        if value.tzinfo is None:
            raise ValueError(
                f"{name} must have a time zone, not {excerpt(value)}: use datetime.now(UTC)"
            )
        return value.timestamp()
    if not is_number(value) or not math.isfinite(value):  # type: ignore[arg-type]
        raise TypeError(f"{name} must be POSIX seconds or a datetime, not {excerpt(value)}")
    return float(value)  # type: ignore[arg-type]


def check_words(name: str, value: object) -> None:
    """Check an argument that is a text: TypeError for anything else, and for an empty one."""
    if not isinstance(value, str) or not value:
        raise TypeError(f"{name} must be a text that is not empty, not {excerpt(value)}")


def check_plain(name: str, value: object) -> None:
    """Refuse a coroutine function as callback: its body would never run."""
    for function in (value, type(value).__call__ if callable(value) else None):
        if inspect.iscoroutinefunction(function) or inspect.isasyncgenfunction(function):
            raise ConfigError(
                f"{name} must be a plain function, not the coroutine function {excerpt(value)}: "
                "callbacks run on threads, which do not await coroutines"
            )
