"""The functions that an application has registered with the decorators of a hub.

Those of `HubConfig` are among them, and come first. A kind is one tuple, or
mapping, which is replaced whole when a function is added: threads read it without a lock.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeVar

from .. import threads
from ..config import ChannelRule, HubConfig
from ..connection.client import Client
from ..errors import ConfigError, excerpt
from ..protocol.message import Message, MessageType
from ..reentrant import Lock
from ..validation import check_arguments, check_plain

__all__ = [
    "MISSING",
    "ChannelHandler",
    "Handlers",
    "OnChannel",
    "OnConnect",
    "OnDisconnect",
    "OnMessage",
    "OnName",
    "OnStart",
]

OnConnect = TypeVar("OnConnect", bound=Callable[[Client], object])
OnDisconnect = TypeVar("OnDisconnect", bound=Callable[[Client, int, str], object])
OnMessage = TypeVar("OnMessage", bound=Callable[[Client, Message], object])
OnChannel = TypeVar("OnChannel", bound=Callable[[Client, str], object])
OnStart = TypeVar("OnStart", bound=Callable[[], object])
OnName = TypeVar("OnName", bound=Callable[[str], object])
F = TypeVar("F", bound=Callable[..., object])
H = TypeVar("H")

MISSING: Any = object()  # stands for an argument that was left out

# What the functions of each kind are called with.
_ARGUMENTS = {
    "start": "",
    "connect": "client",
    "slow_client": "client",
    "disconnect": "client, code, reason",
    "subscribe": "client, channel",
    "unsubscribe": "client, channel",
    "first_subscriber": "channel",
    "last_unsubscribe": "channel",
}
_ALL = ChannelRule(pattern="*")

# Types that may be meant as events of the hub, as in Flask-SocketIO.
_EVENTS = {"connect": "on_connect", "disconnect": "on_disconnect"}
# The types of messages that never reach an application, and what does.
_INSTEAD: dict[str, str] = {
    MessageType.SUBSCRIBE: "hub.on_subscribe, and HubConfig.channel_authoriser to refuse",
    MessageType.UNSUBSCRIBE: "hub.on_unsubscribe",
    MessageType.PUBLISH: "hub.listen, and HubConfig.publish_authoriser to refuse",
    MessageType.HISTORY: "HubConfig.channel_authoriser to refuse",
    MessageType.PRESENCE: "hub.presence, and HubConfig.channel_authoriser to refuse",
    MessageType.PROCESS_CONTROL: "HubConfig.input_authoriser to allow it",
    MessageType.PROCESS_HOLD: "HubConfig.input_authoriser to allow it",
    MessageType.PROCESS_INPUT: "HubConfig.input_authoriser to allow it",
    MessageType.PROCESS_RESIZE: "HubConfig.input_authoriser to allow it",
    MessageType.PROCESS_SIGNAL: "HubConfig.input_authoriser to allow it",
    MessageType.PING: "a type of your own, for the hub answers a ping",
}


@dataclass(frozen=True, slots=True)
class ChannelHandler:
    """A function for the channels that match a rule's pattern."""

    rule: ChannelRule
    function: Callable[..., object]


class Handlers:
    """The functions of one hub, for all of its lives. Read by any thread.

    Args:
        config: the settings, whose functions are called first.

    Attributes:
        start: called without arguments when the hub has started.
        connect: called with each client that has connected.
        disconnect: called with each client that is gone, the close code and the reason.
        slow_client: called with each client that has become slow.
        subscribe, unsubscribe: called with the client and the channel of each subscription
            that has begun, or ended.
        first_subscriber, last_unsubscribe: called with each channel that has its first
            subscriber, or has lost its last.
    """

    def __init__(self, config: HubConfig) -> None:
        self._renew_lock()
        self._config = config
        self.start: Sequence[Callable[..., object]] = ()
        self.connect = _given(config.on_connect)
        self.disconnect = _given(config.on_disconnect)
        self.slow_client = _given(config.on_slow_client)
        self.subscribe: Sequence[ChannelHandler] = ()
        self.unsubscribe: Sequence[ChannelHandler] = ()
        self.first_subscriber = _for_all(config.on_first_subscriber)
        self.last_unsubscribe = _for_all(config.on_last_unsubscribe)
        self._any_type = _given(config.on_message)
        self._by_type: Mapping[str, Callable[..., object]] = {}
        threads.forget_after_fork(self)

    def _renew_lock(self) -> None:
        # guards: changes of what is below. Nothing is taken under it.
        self._lock = Lock()

    def forget(self) -> None:
        """Get a new lock in a forked child; the functions stay."""
        self._renew_lock()

    def of_message(self, type: str) -> Sequence[Callable[..., object]]:
        """Return the functions for messages of a type; the last one's result is the answer."""
        own = self._by_type.get(type)
        return self._any_type if own is None else (*self._any_type, own)

    def configure(self, config: HubConfig) -> None:
        """Replace the functions of the settings; those of the decorators stay."""
        with self._lock:
            before, self._config = self._config, config
            self.connect = _replaced(
                self.connect, _given(before.on_connect), _given(config.on_connect)
            )
            self.disconnect = _replaced(
                self.disconnect, _given(before.on_disconnect), _given(config.on_disconnect)
            )
            self.slow_client = _replaced(
                self.slow_client, _given(before.on_slow_client), _given(config.on_slow_client)
            )
            self._any_type = _given(config.on_message)
            self.first_subscriber = _replaced(
                self.first_subscriber,
                _for_all(before.on_first_subscriber),
                _for_all(config.on_first_subscriber),
            )
            self.last_unsubscribe = _replaced(
                self.last_unsubscribe,
                _for_all(before.on_last_unsubscribe),
                _for_all(config.on_last_unsubscribe),
            )

    # --- registration ----------------------------------------------------------------------

    def add(self, kind: Literal["start", "connect", "disconnect", "slow_client"], function: F) -> F:
        """Add a function, and return it."""
        write = f"@hub.on_{kind}"
        if not callable(function):
            raise _misused(f"on_{kind}", "a function", f"{write}, without parentheses,", function)
        _check_function(write, function, _ARGUMENTS[kind])
        self._append(kind, function)
        return function

    def for_channels(
        self,
        kind: Literal["subscribe", "unsubscribe", "first_subscriber", "last_unsubscribe"],
        pattern: object,
    ) -> Callable[[F], F]:
        """Return a decorator that adds the function for the channels that match a pattern."""
        if not isinstance(pattern, str) or not pattern:
            raise _misused(f"on_{kind}", "a pattern of channels", f'@hub.on_{kind}("a:*")', pattern)
        write, rule = f"@hub.on_{kind}({excerpt(pattern)})", ChannelRule(pattern=pattern)

        def add(function: F) -> F:
            _check_function(write, function, _ARGUMENTS[kind])
            self._append(kind, ChannelHandler(rule, function))
            return function

        return add

    def _append(self, kind: str, handler: object) -> None:
        with self._lock:
            setattr(self, kind, (*getattr(self, kind), handler))

    def for_type(self, type: object) -> Callable[[F], F]:
        """Return a decorator that adds the function for messages of a type."""
        if not isinstance(type, str) or not type:
            raise _misused("on", "the type of the messages", '@hub.on("chat")', type)
        write, instead = f"@hub.on({excerpt(str(type))})", _INSTEAD.get(type)
        if type == MessageType.AUTH and self._config.auth_by_message:
            instead = "HubConfig.authenticator, which gets the token"
        if instead is not None:
            raise ConfigError(f"{write}: the hub handles these messages itself; use {instead}")

        def add(function: F) -> F:
            try:
                _check_function(write, function, "client, message")
            except TypeError as error:
                if type not in _EVENTS:
                    raise
                raise TypeError(
                    f"{error}. That is for messages of this type; for clients that come and leave "
                    f"write @hub.{_EVENTS[type]}"
                ) from None
            with self._lock:
                before = self._by_type.get(type)
                if before is not None:
                    raise ConfigError(
                        f"{write} stands above {excerpt(before)} already, and only one function "
                        f"can return the answer: call {excerpt(function)} from that one"
                    )
                self._by_type = {**self._by_type, type: function}
            return function

        return add


def _given(function: Callable[..., Any] | None) -> Sequence[Callable[..., object]]:
    return () if function is None else (function,)


def _for_all(function: Callable[..., Any] | None) -> Sequence[ChannelHandler]:
    return tuple(ChannelHandler(_ALL, each) for each in _given(function))


def _replaced(handlers: Sequence[H], before: Sequence[H], now: Sequence[H]) -> Sequence[H]:
    """Return handlers with those of other settings, which come first."""
    return (*now, *handlers[len(before) :])


def _misused(name: str, what: str, write: str, given: object) -> ConfigError:
    shown = "nothing" if given is MISSING else excerpt(given)
    return ConfigError(f"hub.{name} takes {what}, not {shown}: write {write} above a function")


def _check_function(write: str, function: object, arguments: str) -> None:
    if not callable(function):
        raise ConfigError(f"{write} must stand above a function, not {excerpt(function)}")
    check_plain(f"what stands under {write}", function)
    check_arguments(f"what stands under {write}", function, arguments)
