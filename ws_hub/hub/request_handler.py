"""The requests of clients, each handled on its client's reader thread.

`protocol.requests` says what a text asks for; the hub does it, by way of `Actions`; the
answer goes back to the client.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol

from ..access.authenticators import said_yes
from ..config import ChannelRule, HubConfig
from ..connection.client import Client
from ..errors import (
    ConnectionClosed,
    HubFull,
    HubNotRunning,
    InvalidName,
    LimitExceeded,
    MessageEncodeError,
)
from ..log import get_logger
from ..protocol.message import Message, MessageType
from ..protocol.requests import (
    Id,
    Other,
    Publish,
    Reply,
    Subscribe,
    Unsubscribe,
    ack,
    error,
    interpret,
    unknown_type,
)

__all__ = ["Actions", "RequestHandler"]

logger = get_logger(__name__)

_COUNTED = {"bad_message": "bad_messages", "bad_channel": "bad_channels"}


class Actions(Protocol):
    """What the hub does for its clients' requests."""

    def subscribe(self, client: Client, request: Subscribe) -> None:
        """Subscribe a client, from the place in the hub's queue that this takes."""

    def unsubscribe(self, client: Client, channel: str) -> None:
        """Unsubscribe a client from a channel."""

    def publish(self, client: Client, channel: str, data: object) -> None:
        """Send data to a channel, as an event, at a client's cost."""

    def subscribers(self, channel: str) -> int:
        """Return how many subscribers a channel has."""

    def notify(self, client: Client, messages: Sequence[Message], *, asked: bool) -> None:
        """Send messages to a client, at their place among the publications."""

    def call(self, function: Callable[..., Any], *args: Any, client: Client, default: Any) -> Any:
        """Call a user's function; what it raises is logged, and is `default`."""

    def count(self, name: str) -> None:
        """Count something, by its name."""


class RequestHandler:
    """Takes the messages of all clients.

    Args:
        config: the hub's settings.
        is_channel: the rule for channel names.
        rule_for: what holds for a channel.
        actions: what the hub does.
    """

    def __init__(
        self,
        config: HubConfig,
        is_channel: Callable[[str], bool],
        rule_for: Callable[[str], ChannelRule],
        actions: Actions,
    ) -> None:
        self._config = config
        self._is_channel = is_channel
        self._rule_for = rule_for
        self._actions = actions
        self._recheck = object()  # of the newest recheck; replaced whole

    # --- reader threads --------------------------------------------------------------------

    def receive(self, client: Client, data: str | bytes) -> None:
        """Carry out what one message from a client asks for.

        Threads: the client's reader; waits while the hub's queue or the outbox is full.
        """
        if isinstance(data, bytes):
            self._actions.count("bad_messages")
            client.reply(error("binary messages are not understood", "bad_message"))
            return
        effect = interpret(data, self._is_channel, any_case=self._config.lenient)
        if isinstance(effect, Reply):
            if effect.message.code:
                self._actions.count(_COUNTED[effect.message.code])
            client.reply(effect.message)
        elif isinstance(effect, Subscribe):
            client.owe(len(data))  # its ack says about as much
            self._subscribe(client, effect)
        elif isinstance(effect, Unsubscribe):
            client.owe(len(data))
            self._unsubscribe(client, effect)
        elif isinstance(effect, Publish):
            self._publish(client, effect, len(data))
        else:
            self._application(client, effect)

    def _publish(self, client: Client, request: Publish, size: int) -> None:
        """Pass on what a client publishes, if its channel allows that.

        While the hub's queue is full the client is not read further: it is slowed,
        and nobody else.
        """
        channel, answer = request.channel, ack(request.id, {"channel": request.channel})
        authoriser = self._config.publish_authoriser
        if not self._rule_for(channel).publish or not self._may(authoriser, client, channel):
            text, code = "Publish: not allowed", "forbidden"
            answer = error(text, code, id=request.id, channel=channel)
        else:
            try:
                self._actions.publish(client, channel, request.data)
                # It is sent once a subscriber, and may be kept.
                client.owe(size * max(self._actions.subscribers(channel), 1))
            except (HubFull, HubNotRunning):
                text, code = "Publish: hub is full, try again", "internal"
                answer = error(text, code, id=request.id, channel=channel)
            except InvalidName:  # by a rule of the application's that has changed its mind
                text, code = "Publish: invalid channel name", "bad_channel"
                answer = error(text, code, id=request.id, channel=channel)
            except MessageEncodeError:  # nested so deeply that it could just be read
                text, code = "Publish: data is nested too deeply", "bad_message"
                answer = error(text, code, id=request.id, channel=channel)
        if answer.type == MessageType.ERROR or request.id is not None:
            client.reply(answer)

    def _subscribe(self, client: Client, request: Subscribe) -> None:
        recheck = self._recheck  # before the authoriser is asked
        if not self._may(self._config.channel_authoriser, client, request.channel):
            client.reply(_unauthorised(request.channel, request.id))
            return
        try:
            self._actions.subscribe(client, request)
            if recheck is not self._recheck:
                # What it was asked about then was without this channel.
                self._end_unauthorised(client, [request.channel])
            return
        except LimitExceeded:
            text, code = "subscription limit exceeded", "limit"
        except HubNotRunning:
            text, code = "Subscribe: hub is not running", "internal"
        except HubFull:
            text, code = "Subscribe: hub is full, try again", "internal"
        except ConnectionClosed:  # nobody is there to be answered
            return
        client.reply(error(text, code, id=request.id, channel=request.channel))

    def _unsubscribe(self, client: Client, request: Unsubscribe) -> None:
        channel = request.channel
        self._actions.unsubscribe(client, channel)
        if request.id is None:
            return
        try:
            # By way of the queue: after the ack no message of the channel follows.
            answer = ack(request.id, {"channel": channel})
            self._actions.notify(client, [answer], asked=True)
            return
        except HubNotRunning:
            text = "Unsubscribe: hub is not running"
        except HubFull:
            text = "Unsubscribe: hub is full, try again"
        client.reply(error(text, "internal", id=request.id, channel=channel))

    def _application(self, client: Client, effect: Other) -> None:
        """Hand a message to `on_message`; what that returns answers a request."""
        message = effect.message
        if self._config.on_message is None:
            client.reply(unknown_type(message))
            return
        failed = object()
        result = self._actions.call(
            self._config.on_message, client, message, client=client, default=failed
        )
        if message.id is None:
            return
        answer = error("internal error", "internal", id=message.id)
        if result is not failed:
            answer = ack(message.id, result)
        try:
            client.reply(answer)
        except MessageEncodeError:
            logger.exception("on_message returned what has no JSON form")
            client.reply(error("internal error", "internal", id=message.id))

    # --- any thread ------------------------------------------------------------------------

    def recheck(self, client: Client) -> list[str]:
        """End the subscriptions of a client that it may not have any more; return them.

        Threads: any; waits while the hub's queue is full.
        """
        self._recheck = object()
        return self._end_unauthorised(client, client.subscriptions())

    def _end_unauthorised(self, client: Client, channels: Sequence[str]) -> list[str]:
        authoriser = self._config.channel_authoriser
        refused = [each for each in channels if not self._may(authoriser, client, each)]
        for channel in refused:
            self._actions.unsubscribe(client, channel)
        if refused:
            # By way of the queue: after this no message of the channels follows.
            told = [_unauthorised(channel) for channel in refused]
            self._actions.notify(client, told, asked=False)
        return refused

    def _may(self, authoriser: Callable[..., Any] | None, client: Client, channel: str) -> bool:
        if authoriser is None:
            return True
        call = self._actions.call
        return said_yes(
            "an authoriser", lambda: call(authoriser, client, channel, client=client, default=False)
        )


def _unauthorised(channel: str, id: Id = None) -> Message:
    return error("Subscribe: subscription unauthorised", "forbidden", id=id, channel=channel)
