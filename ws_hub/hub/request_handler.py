"""The requests of clients, each handled on its client's reader thread.

`protocol.requests` says what a text asks for; the hub does it, by way of `Actions`; the
answer goes back to the client.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, Protocol

from ..access.authenticators import is_permitted
from ..backplane.store import Page
from ..config import ChannelRule, HubConfig
from ..connection.connection import Connection
from ..connection.membership import Stage
from ..errors import (
    ConnectionClosed,
    HistoryError,
    HubError,
    HubFull,
    HubNotRunning,
    InvalidName,
    LimitExceeded,
    MessageEncodeError,
    excerpt,
)
from ..log import get_logger
from ..protocol.message import Message, MessageType
from ..protocol.requests import (
    ACTIONS,
    Control,
    Id,
    Other,
    Publish,
    ReadHistory,
    Reply,
    ShowPresence,
    Subscribe,
    Unsubscribe,
    ack,
    error,
    interpret,
    unknown_type,
)
from .control import Programs
from .handlers import Handlers
from .recent_keys import RecentKeys

__all__ = ["Actions", "RequestHandler"]

logger = get_logger(__name__)

# Messages of a page for a client: by default, at most, and the bytes of their texts.
_PAGE = 100
_MOST_OF_PAGE = 1000
_PAGE_BYTES = 256 * 1024
_REFUSED = "%r may not %s to %s: %s. Later refusals like this one are not logged"
_REPLIES = (MessageType.ACK, MessageType.ERROR, MessageType.PONG)  # may come late, for nobody
_COUNTED = {"bad_message": "bad_messages", "bad_channel": "bad_channels"}


class Actions(Protocol):
    """What the hub does for its clients' requests."""

    def is_channel(self, name: str) -> bool:
        """Return whether something is the name of a channel."""

    def rule_for(self, channel: str) -> ChannelRule:
        """Return the rule of a channel."""

    def subscribe(self, connection: Connection, request: Subscribe) -> None:
        """Subscribe a client, from the place in the hub's queue that this takes."""

    def unsubscribe(self, connection: Connection, channel: str) -> None:
        """Unsubscribe a client from a channel."""

    def publish(self, connection: Connection, request: Publish) -> None:
        """Send data to a channel, as an event, at a client's cost.

        With an idempotency key, unless a store says that a hub before this one has done so.
        """

    def read(self, request: ReadHistory) -> Page:
        """Return a page of kept messages."""

    def answer(self, connection: Connection, channel: str, answer: Message) -> None:
        """Answer a publish, once its message is kept where a store keeps it."""

    def subscribers(self, channel: str) -> int:
        """Return how many subscribers a channel has."""

    def show_presence(self, connection: Connection, request: ShowPresence) -> None:
        """Answer who is present in a channel, from the place in the hub's queue that this takes."""

    def notify(
        self, connection: Connection, messages: Sequence[Message], *, asked: bool, channel: str = ""
    ) -> None:
        """Send messages to a client, at their place among the publications of a channel."""

    def call(
        self,
        function: Callable[..., Any],
        *args: Any,
        connection: Connection,
        default: Any,
        passes: type[Exception] | tuple[()] = (),
    ) -> Any:
        """Call a user's function; what it raises is logged, and is `default`, or `passes`."""

    def count(self, name: str) -> None:
        """Count something, by its name."""


class RequestHandler:
    """Takes the messages of all clients.

    Args:
        config: the hub's settings.
        handlers: the functions for messages of the application's own types.
        actions: what the hub does.
        introduce: takes the first message of a client that has yet to authenticate.
        guard: calls something of ours; what it raises is logged and counted, and is `default`.
        answered: takes a message that answers what the client was asked; False for others.
        programs: the programs that clients may control.
    """

    def __init__(
        self,
        config: HubConfig,
        handlers: Handlers,
        actions: Actions,
        introduce: Callable[[Connection, str | bytes], None],
        guard: Callable[..., Any],
        answered: Callable[[Connection, Message], bool],
        programs: Programs,
    ) -> None:
        self._programs = programs
        self._answered = answered
        self._config = config
        self._handlers = handlers
        self._actions = actions
        self._introduce = introduce
        self._guard = guard
        self._recheck = object()  # of the newest recheck; replaced whole
        self._keys = RecentKeys()
        # What has refused something and was logged: patterns of rules, and what stands for the
        # rest. No names of peers are kept; added to by single calls.
        self._told: dict[str, object] = {}

    # --- reader threads --------------------------------------------------------------------

    def receive(self, connection: Connection, data: str | bytes) -> None:
        """Take one whole message from a client.

        Threads: the client's reader; waits while the hub's queue or the outbox is full.
        """
        connection.busy = True
        if self._config.lenient and isinstance(data, bytes):
            with contextlib.suppress(UnicodeDecodeError):
                data = data.decode()
        admitted = connection.membership.stage is Stage.ADMITTED
        take = self._carry_out if admitted else self._introduce
        # An error of ours in one message must not end a connection.
        failed = object()
        if self._guard(take, connection, data, default=failed) is failed:
            self._guard(connection.reply, error("internal error", "internal"))
        connection.rest()

    def _carry_out(self, connection: Connection, data: str | bytes) -> None:
        """Carry out what a message asks for."""
        if isinstance(data, bytes):
            self._actions.count("bad_messages")
            connection.reply(error("binary messages are not understood", "bad_message"))
            return
        effect = interpret(data, self._actions.is_channel, any_case=self._config.lenient)
        if isinstance(effect, Reply):
            if effect.message.code:
                self._actions.count(_COUNTED[effect.message.code])
            connection.reply(effect.message)
        elif isinstance(effect, Subscribe):
            connection.charge_later(len(data))  # its ack says about as much
            self._subscribe(connection, effect)
        elif isinstance(effect, Unsubscribe):
            connection.charge_later(len(data))
            self._unsubscribe(connection, effect)
        elif isinstance(effect, Publish):
            self._publish(connection, effect, len(data))
        elif isinstance(effect, ReadHistory):
            self._history(connection, effect)
        elif isinstance(effect, ShowPresence):
            self._show_presence(connection, effect)
        elif isinstance(effect, Control):
            self._control(connection, effect, len(data))
        else:
            self._application(connection, effect)

    def _publish(self, connection: Connection, request: Publish, size: int) -> None:
        """Pass on what a client publishes, if its channel allows that.

        While the hub's queue is full the client is not read further: it is slowed,
        and nobody else.
        """
        channel, answer = request.channel, ack(request.id, {"channel": request.channel})
        rule = self._actions.rule_for(channel)
        if not self._may_publish(connection, channel, rule):
            what = "" if rule.publish else ": no rule of the server lets clients publish there"
            text, code = f"Publish: not allowed{what}", "forbidden"
            answer = error(text, code, id=request.id, channel=channel)
        elif rule.keyed is not bool(request.key):
            what = "keeps no keys" if request.key else "needs a key"
            text, code = f"Publish: the channel {what}", "bad_message"
            answer = error(text, code, id=request.id, channel=channel)
        else:
            try:
                self._publish_once(connection, request)
                # It is sent once a subscriber, and may be kept.
                connection.charge_later(size * max(self._actions.subscribers(channel), 1))
            except (HubFull, HubNotRunning, TimeoutError):
                text, code = "Publish: hub is full, try again", "internal"
                answer = error(text, code, id=request.id, channel=channel)
            except InvalidName:  # by a rule of the application's that has changed its mind
                text, code = "Publish: invalid channel name", "bad_channel"
                answer = error(text, code, id=request.id, channel=channel)
            except MessageEncodeError:  # nested so deeply that it could just be read
                text, code = "Publish: data is nested too deeply", "bad_message"
                answer = error(text, code, id=request.id, channel=channel)
        if answer.type == MessageType.ERROR:
            connection.reply(answer)
        elif request.id is not None:
            self._actions.answer(connection, channel, answer)

    def _may_publish(self, connection: Connection, channel: str, rule: ChannelRule) -> bool:
        if not rule.publish:
            if self._is_first(f"rule {rule.pattern}"):
                why = self._missing_rule(channel, rule)
                logger.warning(_REFUSED, connection, "publish", excerpt(channel), why)
            return False
        if self._may(self._config.publish_authoriser, connection, channel):
            return True
        self._tell_of("publish_authoriser", "publish", connection, channel)
        return False

    def _missing_rule(self, channel: str, rule: ChannelRule) -> str:
        """Say what would let clients publish to a channel."""
        if rule in self._config.rules:
            lacks = "its rule is without publish=True: set"
            write = f"ChannelRule({excerpt(rule.pattern)}, ..., publish=True)"
        else:
            lacks = "no rule of the settings is for that channel: add"
            write = f"ChannelRule({excerpt(channel)}, publish=True), with a pattern for many"
        return f"{lacks} {write}, or have clients send messages to a function under @hub.on(type)"

    def _tell_of(self, authoriser: str, what: str, connection: Connection, channel: str) -> None:
        """Log that an authoriser, a setting, has refused something, if it is the first time."""
        if self._is_first(authoriser):
            if getattr(self._config, authoriser) is None:
                why = f"there is no HubConfig.{authoriser}, without which nobody may"
                logger.warning(_REFUSED, connection, what, excerpt(channel), why)
                return
            why = f"so says {excerpt(getattr(self._config, authoriser), 200)}, the {authoriser}"
            logger.warning(_REFUSED, connection, what, excerpt(channel), why)

    def _is_first(self, refusal: str) -> bool:
        """Return whether that refusal was not logged before: peers repeat it at will."""
        mark = object()
        return self._told.setdefault(refusal, mark) is mark

    def _publish_once(self, connection: Connection, request: Publish) -> None:
        """Publish, unless that was done for the same idempotency key; raises TimeoutError."""
        if not request.idempotency_key:
            self._actions.publish(connection, request)
            return
        payer = connection.payer or f"connection {connection.id}"
        key = connection.user_id or "", request.channel, request.idempotency_key
        claim = self._keys.begin(payer, key, self._config.publish_timeout)
        if claim is None:
            return
        published = False
        try:
            self._actions.publish(connection, request)
            published = True
        finally:
            self._keys.end(claim, published)

    def _subscribe(self, connection: Connection, request: Subscribe) -> None:
        recheck = self._recheck  # before the authoriser is asked
        if not self._may(self._config.channel_authoriser, connection, request.channel):
            self._tell_of("channel_authoriser", "subscribe", connection, request.channel)
            connection.reply(_unauthorised(request.channel, request.id))
            return
        try:
            self._actions.subscribe(connection, request)
            if recheck is not self._recheck:
                # What it was asked about then was without this channel.
                self._end_unauthorised(connection, [request.channel])
            return
        except LimitExceeded:
            text, code = "subscription limit exceeded", "limit"
        except HubNotRunning:
            text, code = "Subscribe: hub is not running", "internal"
        except HubFull:
            text, code = "Subscribe: hub is full, try again", "internal"
        except ConnectionClosed:  # nobody is there to be answered
            return
        connection.reply(error(text, code, id=request.id, channel=request.channel))

    def _history(self, connection: Connection, request: ReadHistory) -> None:
        """Send a page of what is kept to a client that may subscribe to its channel."""
        channel, id = request.channel, request.id
        if not self._may(self._config.channel_authoriser, connection, channel):
            connection.reply(error("History: not allowed", "forbidden", id=id, channel=channel))
            return
        limit = _PAGE if request.limit is None else min(request.limit, _MOST_OF_PAGE)
        connection.will_call()  # a history store may have to wait
        try:
            page = self._actions.read(replace(request, limit=limit))
        except (HistoryError, HubNotRunning):
            text = "History: cannot be read, try again"
            connection.reply(error(text, "internal", id=id, channel=channel))
            return
        backwards = request.before is not None or request.last is not None
        texts = _that_fit([each.text for each in page.messages], backwards)
        span = page.kept
        data = {"channel": channel, "epoch": span.epoch, "first": span.first, "seq": span.last}
        if span.middle is not None:
            data["middle"] = span.middle.fields()
        connection.reply_with(ack(id, data), "messages", texts)

    def _unsubscribe(self, connection: Connection, request: Unsubscribe) -> None:
        channel = request.channel
        self._actions.unsubscribe(connection, channel)
        if request.id is None:
            return
        try:
            # By way of the queue: after the ack no message of the channel follows.
            answer = ack(request.id, {"channel": channel})
            self._actions.notify(connection, [answer], asked=True, channel=channel)
            return
        except HubNotRunning:
            text = "Unsubscribe: hub is not running"
        except HubFull:
            text = "Unsubscribe: hub is full, try again"
        connection.reply(error(text, "internal", id=request.id, channel=channel))

    def _show_presence(self, connection: Connection, request: ShowPresence) -> None:
        """Have a client told who is present, if it may subscribe to the channel."""
        channel = request.channel
        if not self._may(self._config.channel_authoriser, connection, channel):
            text, code = "Presence: not allowed", "forbidden"
        elif not self._actions.rule_for(channel).presence:
            text, code = "Presence: the channel has none", "not_found"
        else:
            try:
                self._actions.show_presence(connection, request)
                return
            except HubNotRunning:
                text, code = "Presence: hub is not running", "internal"
            except HubFull:
                text, code = "Presence: hub is full, try again", "internal"
        connection.reply(error(text, code, id=request.id, channel=channel))

    def _control(self, connection: Connection, request: Control, size: int) -> None:
        """Do something to a program, if the client may; see `Programs`."""
        channel, id = request.channel, request.id
        # What it does is told to the viewers of the program, and kept.
        connection.charge_later(size * max(self._actions.subscribers(channel), 1))
        try:
            if request.type == MessageType.PROCESS_CONTROL:
                actions = [each for each in ACTIONS if self._may_do(connection, request, each)]
                result = self._programs.describe(connection, request, actions)
            elif self._may_do(connection, request, request.action):
                result = self._programs.carry_out(connection, request)
            else:
                self._tell_of("input_authoriser", request.action, connection, channel)
                text = "Control: not allowed"
                connection.reply(error(text, "forbidden", id=id, channel=channel))
                return
        except HubError as refusal:
            connection.reply(error(refusal.text, refusal.code, id=id, channel=channel))
        except (HubFull, HubNotRunning):
            text = "Control: hub is full, try again"
            connection.reply(error(text, "internal", id=id, channel=channel))
        else:
            if id is not None:
                connection.reply(ack(id, result))

    def _may_do(self, connection: Connection, request: Control, action: str) -> bool:
        authoriser = self._config.input_authoriser
        if authoriser is None:
            return False
        arguments = authoriser, request.process_id, action
        ask = functools.partial(self._call, connection, *arguments, default=False)
        return is_permitted("an authoriser", ask)

    def _application(self, connection: Connection, effect: Other) -> None:
        """Hand a message to the functions for its type; what the last returns is the answer."""
        message = effect.message
        if self._answered(connection, message):
            return
        functions = self._handlers.of_message(message.type)
        if not functions:
            if message.type not in _REPLIES and self._is_first("type"):
                logger.warning(
                    "%r sent a message of the type %s, which no function takes: write "
                    "@hub.on(%s) above one. Later messages of such types are not logged",
                    connection,
                    excerpt(message.type),
                    excerpt(message.type),
                )
            connection.reply(unknown_type(message))
            return
        result = failed = object()
        answer = error("internal error", "internal", id=message.id)
        try:
            for function in functions:
                result = self._call(connection, function, message, default=failed, passes=HubError)
        except HubError as refusal:  # the functions after that one are not called
            answer = error(refusal.text, refusal.code, id=message.id)
        else:
            if result is not failed:
                if message.id is None:
                    return
                answer = ack(message.id, result)
        try:
            connection.reply(answer)
        except MessageEncodeError:
            logger.exception("%s answered what has no JSON form", excerpt(functions[-1]))
            connection.reply(error("internal error", "internal", id=message.id))

    # --- any thread ------------------------------------------------------------------------

    def recheck(self, connection: Connection) -> list[str]:
        """End the subscriptions of a client that it may not have any more; return them.

        Threads: any; waits while the hub's queue is full.
        """
        self._recheck = object()
        return self._end_unauthorised(connection, connection.channels())

    def _end_unauthorised(self, connection: Connection, channels: Sequence[str]) -> list[str]:
        authoriser = self._config.channel_authoriser
        refused = [each for each in channels if not self._may(authoriser, connection, each)]
        for channel in refused:
            self._actions.unsubscribe(connection, channel)
        if refused:
            # By way of the queue: after this no message of the channels follows.
            told = [_unauthorised(channel) for channel in refused]
            self._actions.notify(connection, told, asked=False)
        return refused

    def _may(
        self, authoriser: Callable[..., Any] | None, connection: Connection, channel: str
    ) -> bool:
        if authoriser is None:
            return True
        ask = functools.partial(self._call, connection, authoriser, channel, default=False)
        return is_permitted("an authoriser", ask)

    def _call(
        self,
        connection: Connection,
        function: Callable[..., Any],
        *arguments: Any,
        default: Any,
        passes: type[Exception] | tuple[()] = (),
    ) -> Any:
        client = connection.client
        return self._actions.call(
            function, client, *arguments, connection=connection, default=default, passes=passes
        )


def _that_fit(texts: Sequence[bytes], backwards: bool) -> list[bytes]:
    """Return the texts that fit a page, at least one, from the end that the next page is not at."""
    size, found = 0, list[bytes]()
    for text in reversed(texts) if backwards else texts:
        size += len(text)
        if found and size > _PAGE_BYTES:
            break
        found.append(text)
    return found[::-1] if backwards else found


def _unauthorised(channel: str, id: Id = None) -> Message:
    return error("Subscribe: subscription unauthorised", "forbidden", id=id, channel=channel)
