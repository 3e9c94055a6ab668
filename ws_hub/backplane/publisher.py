"""The methods that publish, independent of where the messages go.

They check and encode; `_publish` of a subclass passes the encoded messages on.
"""

from __future__ import annotations

import abc
import dataclasses
import datetime
import enum
import re
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import repeat
from typing import Any, Never, overload

from ..connection.client import Client
from ..errors import InvalidName, MessageEncodeError, excerpt
from ..lines import MAX_PIECE, REPLACED, Texts, cut
from ..mask.masks import MaskEnv, Masks
from ..protocol.json_text import to_json
from ..protocol.message import (
    FINAL_STATUSES,
    AnyMessage,
    Beside,
    Encoder,
    Message,
    MessageType,
    as_message,
    is_sample,
    microseconds,
    stream_text,
    timestamp,
)
from ..protocol.names import (
    AnyId,
    channel_text,
    check_channel,
    id_text,
    is_process_id,
    key_text,
    process_channel,
)
from ..protocol.publication import USAGE_LINE, Delivery, Key, Output
from ..validation import check_named, posix_time

__all__ = ["ALL_CLIENTS", "NOBODY", "AbstractPublisher", "AllClients", "client_ids"]


class AllClients(enum.Enum):
    """The type of ALL_CLIENTS."""

    ALL_CLIENTS = "all clients"


# The default of a `channel` argument. Neither None nor "": a variable that was left unset
# holds one of these, and must not turn a channel's message into a broadcast (FAULTS 106).
ALL_CLIENTS = AllClients.ALL_CLIENTS
NOBODY: frozenset[int] = frozenset()  # no client is excluded

_OUTPUT, _STATUS = str(MessageType.PROCESS_OUTPUT), str(MessageType.PROCESS_STATUS)
_MAX_TIME = 2**53  # microseconds: every receiver reads it exactly
_EVENT, _ERROR = str(MessageType.EVENT), str(MessageType.ERROR)
_SAMPLE = Output((USAGE_LINE,), (0,))  # what a status is that says what a program uses


class AbstractPublisher(abc.ABC):
    """Publishes messages to all clients or to the subscribers of a channel.

    Every method encodes the message in the calling thread and raises MessageEncodeError
    there when it has no JSON form: then no client gets any of it. Beyond that it raises
    what `_publish` raises (a Hub: HubNotRunning; HubFull after the timeout). `timeout` is
    in seconds, None for the default.

    A Go client accepts 64 KiB a message, and ends the connection at more. Output is cut
    into smaller pieces (`docs/processes.md`), and the texts of a status are shortened. An
    event, an error or a message of an application's own cannot be cut: beyond 64 KiB it is
    for Python and JavaScript clients only, and a hub refuses what is too large for these.
    """

    def __init__(self) -> None:
        self.masks = Masks()

    # Of all that a hub encodes; set once, by a subclass that has settings for it.
    _encoder = Encoder(is_process=is_process_id)

    @abc.abstractmethod
    def _publish(
        self,
        texts: Sequence[bytes],
        channel: str,
        timeout: float | None,
        *,
        ends_channel: bool = False,
        exclude: frozenset[int] = NOBODY,
        wait: float | None = None,
        of: Key | Output | None = None,
    ) -> Delivery | None:
        """Pass on encoded messages, all or none, for a channel or, with "", for all clients.

        `ends_channel`: the last of them is the last one of its channel for the time being.
        `exclude`: the ids of clients that do not get them live. `wait`: seconds to wait for
        what they did; None waits for nothing and returns None.
        `of`: the key of the one message that they are, or what they are of a program's output.
        """

    @overload
    def broadcast(
        self,
        message: AnyMessage,
        *,
        exclude: Client | Iterable[Client] = (),
        timeout: float | None = None,
        wait: None = None,
    ) -> None: ...

    @overload
    def broadcast(
        self,
        message: AnyMessage,
        *,
        exclude: Client | Iterable[Client] = (),
        timeout: float | None = None,
        wait: float,
    ) -> Delivery: ...

    def broadcast(
        self,
        message: AnyMessage,
        *_unnamed: Never,
        exclude: Client | Iterable[Client] = (),
        timeout: float | None = None,
        wait: float | None = None,
    ) -> Delivery | None:
        """Send a message to every client; `send_event` needs no message for an event.

        A mapping of a message's fields, with a `type`, is a message as well. `exclude` is a
        client that does not get it, or several. Raises InvalidName for a message that names a
        channel; see `send_to_channel`.

        With `wait`, seconds, returns what it did once it is dispatched: a Delivery. Raises
        WaitTimeout when that takes longer.

        Threads: any; waits while the queue is full, at most `timeout` seconds, and `wait`.
        """
        if _unnamed:
            check_named(
                _unnamed,
                'broadcast(message, exclude=client); send_event("saved", data) for an event',
            )
        now, message, left_out = time.time(), as_message(message), client_ids(exclude)
        texts = [self._encoder.encode(each, now) for each in _cut_up(message)]
        if message.channel != "":  # compared, because a subclass of str defines its own truth
            name = excerpt(message.channel)
            raise InvalidName(
                f"a broadcast goes to everybody, and this message names the channel {name}: "
                f"send it with send_to_channel({name}, message), or leave the channel out"
            )
        if message.key:
            raise MessageEncodeError(
                f"a broadcast keeps no keys, and this message has the key {excerpt(message.key)}: "
                "send it with send_to_channel to a keyed channel, or leave key out"
            )
        return self._publish(texts, "", timeout, exclude=left_out, wait=wait)

    @overload
    def send_to_channel(
        self,
        channel: str,
        message: AnyMessage,
        *,
        exclude: Client | Iterable[Client] = (),
        timeout: float | None = None,
        wait: None = None,
    ) -> None: ...

    @overload
    def send_to_channel(
        self,
        channel: str,
        message: AnyMessage,
        *,
        exclude: Client | Iterable[Client] = (),
        timeout: float | None = None,
        wait: float,
    ) -> Delivery: ...

    def send_to_channel(
        self,
        channel: str,
        message: AnyMessage,
        *_unnamed: Never,
        exclude: Client | Iterable[Client] = (),
        timeout: float | None = None,
        wait: float | None = None,
    ) -> Delivery | None:
        """Send a message to the subscribers of a channel; on the wire it names the channel.

        `exclude` is a client that does not get it live, or several: the client that caused
        it, in `on_message`. A history keeps it for all, so that a replay brings it to those
        clients too. A mapping is a message as in `broadcast`. In a keyed channel the message
        has a `key`, and without data it deletes that key. Raises TypeError for a channel
        that is not a str, InvalidName for a bad name, MessageEncodeError for a key that is
        missing, or has no place there.

        With `wait`, seconds, returns what it did once it is dispatched: a Delivery. Raises
        WaitTimeout when that takes longer.

        Threads: any; waits while the queue is full, at most `timeout` seconds, and `wait`.
        """
        if _unnamed:
            check_named(
                _unnamed,
                "send_to_channel(channel, message, exclude=client); for an event "
                'send_event("saved", data, channel="news")',
            )
        given: object = message
        if isinstance(given, str) and not isinstance(channel, str):
            raise TypeError(
                "send_to_channel(channel, message) takes the channel first: "
                f"send_to_channel({excerpt(given)}, message)"
            )
        channel, left_out = channel_text(channel), client_ids(exclude)
        if not channel:
            check_channel(channel)  # raises: further down "" means all clients
        message, now = as_message(message), time.time()
        if message.seq is not None or message.channel != "":  # the hub numbers the messages
            message = dataclasses.replace(message, channel=channel, seq=None)
        ends = _is_final_status(message.type, message.data)
        parts = _cut_up(message)
        texts = [self._encoder.encode(each, now, channel) for each in parts]
        if message.key:
            key = Key(message.key, message.data is None)
            return self._publish(texts, channel, timeout, exclude=left_out, wait=wait, of=key)
        output = None
        if message.type == _OUTPUT:
            line = None if message.line is None else [message.line] * len(parts)
            output = _output([each.data for each in parts], line)
        elif message.type == _STATUS and is_sample(message.data):
            output = _SAMPLE
        return self._publish(
            texts, channel, timeout, ends_channel=ends, exclude=left_out, wait=wait, of=output
        )

    @overload
    def send_process_output(
        self,
        process_id: AnyId,
        data: str,
        *,
        stream: str = "stdout",
        time: datetime.datetime | float | None = None,
        timeout: float | None = None,
        wait: None = None,
    ) -> None: ...

    @overload
    def send_process_output(
        self,
        process_id: AnyId,
        data: str,
        *,
        stream: str = "stdout",
        time: datetime.datetime | float | None = None,
        timeout: float | None = None,
        wait: float,
    ) -> Delivery: ...

    def send_process_output(
        self,
        process_id: AnyId,
        data: str,
        *,
        stream: str = "stdout",
        time: datetime.datetime | float | None = None,
        timeout: float | None = None,
        wait: float | None = None,
    ) -> Delivery | None:
        """Send a piece of a process's output, usually a line, to its subscribers.

        A line of more than 8,192 characters is cut into pieces. The channel,
        `process:<id>`, keeps the last lines for later subscribers. An int or a UUID as
        process id means its text; raises TypeError and InvalidName for one that is none.

        `stream` is "stdout" or "stderr". `time` is when the line was written, where that is
        not now: POSIX seconds, or a datetime with its time zone. Raises MessageEncodeError
        for another stream, TypeError and ValueError for what is no time.

        With `wait`, seconds, returns what it did once it is dispatched: a Delivery. Raises
        WaitTimeout when that takes longer.

        Threads: any; waits while the queue is full, at most `timeout` seconds, and `wait`.
        """
        name, channel = self._process(process_id)
        tail = "" if stream == "stdout" else stream_text(stream)
        if time is not None:
            tail += f',"time":{_microseconds("time", time)}'
        data = self.masks.value(data)
        pieces: Sequence[Any] = [data]
        if data.__class__ is str and len(data) > MAX_PIECE:
            pieces = _pieces(pieces)
        now, encode = _now(), self._encoder.encode_fields
        texts = [encode(_OUTPUT, channel, name, each, now, tail) for each in pieces]
        return self._publish(texts, channel, timeout, wait=wait, of=_output(pieces))

    def send_process_lines(
        self,
        process_id: AnyId,
        lines: Iterable[str],
        *,
        numbers: Sequence[int] | None = None,
        stream: str = "stdout",
        times: Sequence[datetime.datetime | float | None] | None = None,
        timeout: float | None = None,
    ) -> None:
        """Send several pieces of a process's output, all or none of them.

        The same as `send_process_output` for each, at half the cost. Together they are one
        entry of the hub's queue: send hundreds at a time, not millions. `numbers` has the number
        of each piece's line in the output of the process: what comes later with the same
        number replaces it (`docs/processes.md`). `times` has the `time` of each. Raises
        TypeError for a str, whose lines would be its characters, and for numbers or times
        that are not as many.

        Threads: any; waits while the queue is full, at most `timeout` seconds.
        """
        name, channel = self._process(process_id)
        listed, now = _listed(lines), ""
        moments: dict[int, int] = {}
        if isinstance(lines, Texts):
            numbers = lines.numbers
            now = timestamp(lines.time) if lines.time else ""
            moments = {at: microseconds(time) for at, time in lines.times.items()}
        else:  # those were masked
            listed = self.masks.each(listed)
        for what, given in (("numbers", numbers), ("times", times)):
            if given is not None and len(given) != len(listed):
                raise TypeError(
                    f"{what} must have one for each line, {len(listed)}, not {len(given)}"
                )
        if times is not None:
            moments = _moments(times)
        if numbers is None:
            pieces = _pieces(listed)
            if pieces is not listed and moments:
                moments = _of_pieces(listed, moments)
            listed = pieces
        beside = Beside(numbers, stream_text(stream), moments)
        texts = self._encoder.encode_each(_OUTPUT, channel, name, listed, now or _now(), beside)
        if texts:
            self._publish(texts, channel, timeout, of=_output(listed, numbers))

    def send_process_status(
        self,
        process_id: AnyId,
        status: str,
        exit_code: int | None = None,
        *,
        extra: Mapping[str, Any] | None = None,
        timeout: float | None = None,
    ) -> None:
        """Send the status of a process: "running", "exited" with its code, "failed".

        `extra` has further fields of the message's data (`signal`, `error`); their texts
        are shortened to 8,192 characters in all. "exited", "failed" and "lost" are final,
        with or without an exit code: the channel's history is freed some minutes later.
        `extra={"exitCode": None}` tells clients that the code is not known. "running" with a
        `usage` in `extra` says what a program uses that runs: it takes no place in the history,
        replaces the one before, and the next status without one ends it.

        Threads: any; waits while the queue is full, at most `timeout` seconds.
        """
        given: tuple[object, object] = status, extra
        if not isinstance(given[0], str):
            raise TypeError(f'status must be text, such as "running", not {excerpt(status)}')
        if extra is not None and not isinstance(given[1], Mapping):
            raise TypeError(f"extra must map names to values, not {excerpt(extra)}")
        data: dict[str, Any] = {"status": status}
        if exit_code is not None:
            data["exitCode"] = exit_code
        data.update(_shortened(self.masks.value(extra or {})))
        name, channel = self._process(process_id)
        text = self._encoder.encode_fields(_STATUS, channel, name, data, _now())
        of = _SAMPLE if is_sample(data) else None
        self._publish([text], channel, timeout, ends_channel=status in FINAL_STATUSES, of=of)

    @overload
    def send_event(
        self,
        event: str,
        data: Any = None,
        *,
        channel: str | AllClients = ALL_CLIENTS,
        key: AnyId | None = None,
        exclude: Client | Iterable[Client] = (),
        timeout: float | None = None,
        wait: None = None,
    ) -> None: ...

    @overload
    def send_event(
        self,
        event: str,
        data: Any = None,
        *,
        channel: str | AllClients = ALL_CLIENTS,
        key: AnyId | None = None,
        exclude: Client | Iterable[Client] = (),
        timeout: float | None = None,
        wait: float,
    ) -> Delivery: ...

    def send_event(
        self,
        event: str,
        data: Any = None,
        *_unnamed: Never,
        channel: str | AllClients = ALL_CLIENTS,
        key: AnyId | None = None,
        exclude: Client | Iterable[Client] = (),
        timeout: float | None = None,
        wait: float | None = None,
    ) -> Delivery | None:
        """Send a named event to a channel's subscribers; without a channel to every client.

        `key` is for keyed channels: what this event is the newest state of, a text, an int or
        a UUID. With the data None it deletes the key, and has no name on the wire.
        `exclude` is as in `send_to_channel`. Raises TypeError for a name or a channel that is
        not a str, InvalidName for the channel "" and for a bad key, MessageEncodeError for a
        key that is missing, or has no place there.

        With `wait`, seconds, returns what it did once it is dispatched: a Delivery. Raises
        WaitTimeout when that takes longer.

        Threads: any; waits while the queue is full, at most `timeout` seconds, and `wait`.
        """
        if _unnamed:
            check_named(_unnamed, 'send_event("saved", data, channel="news")')
        name: object = event
        if not isinstance(name, str):
            raise TypeError(
                f"event must be the name of an event, a str, not {excerpt(name)}: "
                'send_event("saved", data)'
            )
        left_out = client_ids(exclude)
        named = None if key is None else Key(key_text(key), data is None)
        body = None if named is not None and named.deletes else {"event": event, "data": data}
        return self._send(_EVENT, channel, body, timeout, left_out, wait, named)

    def send_error(
        self,
        text: str,
        *_unnamed: Never,
        channel: str | AllClients = ALL_CLIENTS,
        timeout: float | None = None,
    ) -> None:
        """Send an error text to a channel's subscribers; without a channel to every client.

        Raises TypeError for a channel that is not a str, InvalidName for "".

        Threads: any; waits while the queue is full, at most `timeout` seconds.
        """
        check_named(_unnamed, 'send_error(text, channel="news")')
        self._send(_ERROR, channel, text, timeout, NOBODY)

    def mask(self, *secrets: str | bytes | MaskEnv | re.Pattern[str]) -> Callable[[], None]:
        """Have `***` stand in place of secrets in all output from now on.

        That is the output of `run_process`, also of programs that run already, of `writer` and
        `log_handler`; and what `send_process_output`, `send_process_lines` and the extra fields of
        `send_process_status` have, each text by itself. Events and other messages go out as they
        are.

        Args:
            secrets: texts of 4 bytes and more, of which each line is one; MaskEnv for values of
                the environment; compiled regular expressions of a bounded length
                (`docs/processes.md`).

        Returns a function that takes these secrets away again. Raises ConfigError, which names
        no secret.

        Threads: any; does not wait.
        """
        return self.masks.add(secrets)

    def process_channel(self, process_id: AnyId) -> str:
        """Return the channel of a process; an int or a UUID means its text.

        Raises TypeError and InvalidName for a process id that is none.

        Threads: any.
        """
        return self._process(process_id)[1]

    def _process(self, process_id: AnyId) -> tuple[str, str]:
        """Return a process id as text, and the channel of the process."""
        name = process_id if process_id.__class__ is str else id_text(process_id, "process id")
        assert isinstance(name, str)
        return name, process_channel(name, self._encoder.is_process or is_process_id)

    def _send(
        self,
        kind: str,
        channel: object,
        data: Any,
        timeout: float | None,
        exclude: frozenset[int],
        wait: float | None = None,
        key: Key | None = None,
    ) -> Delivery | None:
        where = _checked(channel)
        tail = "" if key is None else f',"key":{to_json(key.text)}'
        text = self._encoder.encode_fields(kind, where, "", data, _now(), tail)
        return self._publish([text], where, timeout, exclude=exclude, wait=wait, of=key)


def client_ids(exclude: object) -> frozenset[int]:
    """Return the ids of clients to exclude: of one, or of several.

    Raises TypeError for anything else, and so for None: a client that was not set would get
    what it is meant to be left out of.
    """
    if exclude.__class__ is tuple and not exclude:  # the default
        return NOBODY
    if isinstance(exclude, Client):
        return frozenset((exclude.id,))
    if isinstance(exclude, Iterable) and not isinstance(exclude, (str, bytes, Mapping)):
        clients = list(exclude)
        if all(isinstance(each, Client) for each in clients):
            return frozenset([each.id for each in clients])
    raise TypeError(
        f"exclude must be a Client, or a list of some, not {excerpt(exclude)}: callbacks get "
        "one, and user_clients(user_id) returns those of a user"
    )


def _checked(channel: object) -> str:
    """Return a channel's name; "", for all clients, only when the channel was left out."""
    if channel is ALL_CLIENTS:
        return ""
    if not isinstance(channel, str):
        raise TypeError(
            f"channel must be the name of a channel, not {excerpt(channel)}: leave it out to "
            "send to everybody"
        )
    name = channel_text(channel)
    if not name:
        raise InvalidName("channel must not be empty: leave it out to send to everybody")
    return name


def _now() -> str:
    return timestamp(time.time())


def _microseconds(name: str, moment: object) -> int:
    """Return an argument that is a time as microseconds since 1970."""
    seconds = posix_time(name, moment)
    if seconds is None or abs(found := microseconds(seconds)) > _MAX_TIME:
        raise ValueError(
            f"{name} must be POSIX seconds, not {excerpt(moment)}: divide milliseconds by 1000"
        )
    return found


def _moments(times: Sequence[object]) -> dict[int, int]:
    """Return times in microseconds, by their places."""
    return {at: _microseconds("times", each) for at, each in enumerate(times) if each is not None}


def _of_pieces(lines: Sequence[Any], times: Mapping[int, int]) -> dict[int, int]:
    """Return the times of the pieces that lines are cut into, by their places."""
    found: dict[int, int] = {}
    place = 0
    for at, line in enumerate(lines):
        for _ in _pieces([line]):
            if at in times:
                found[place] = times[at]
            place += 1
    return found


def _output(pieces: Sequence[Any], numbers: Sequence[int] | None = None) -> Output:
    """Return what texts of a program's output are: of which lines, and which are states."""
    try:
        if not any(map(str.endswith, pieces, repeat(REPLACED))):  # nearly always
            return Output(numbers, ())
    except TypeError:  # one is not a str: it is sent as the JSON value that it is
        pass
    each = enumerate(pieces)
    states = [at for at, text in each if isinstance(text, str) and text[-1:] == REPLACED]
    return Output(numbers, states)


def _is_final_status(kind: str, data: Any) -> bool:
    """Return whether a message has a final status of a process."""
    if kind != _STATUS or not isinstance(data, dict):
        return False
    status = data.get("status")
    return isinstance(status, str) and status in FINAL_STATUSES


def _listed(lines: object) -> Sequence[Any]:
    """Return lines as a sequence, which can be looked at twice; raises TypeError for one text."""
    if isinstance(lines, (list, tuple)):
        return lines
    if isinstance(lines, (str, bytes)) or not isinstance(lines, Iterable):
        raise TypeError(
            f"lines must be a list of str, not {excerpt(lines)}: send_process_output sends one"
        )
    return list(lines)


def _pieces(lines: Sequence[Any]) -> Sequence[Any]:
    """Return the lines, those over MAX_PIECE characters in pieces."""
    try:
        if max(map(len, lines), default=0) <= MAX_PIECE:
            return lines
    except TypeError:  # one is not a str: it is sent as the JSON value that it is
        pass
    return [piece for line in lines for piece in (cut(line) if isinstance(line, str) else [line])]


def _cut_up(message: Message) -> list[Message]:
    if message.type != _OUTPUT or message.key:
        return [message]
    return [dataclasses.replace(message, data=piece) for piece in _pieces([message.data])]


def _shortened(extra: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the fields, their texts cut evenly to MAX_PIECE characters in all."""
    texts = [value for value in extra.values() if isinstance(value, str)]
    if sum(map(len, texts)) <= MAX_PIECE:
        return extra
    share = MAX_PIECE // len(texts)
    return {
        name: f"{value[: share - 3]}..." if isinstance(value, str) and len(value) > share else value
        for name, value in extra.items()
    }
