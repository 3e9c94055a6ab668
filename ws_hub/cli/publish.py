"""`ws-hub publish`: publishes to a channel of an application.

The thread that reads standard input and publishes is not the main one, which waits for a signal
or for its end: a handler could not end a read that it interrupts.
"""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Iterator
from typing import Any

from .. import threads
from ..backplane.addresses import VARIABLE, without_password
from ..errors import WsHubError
from ..hub.publisher import Publisher
from ..protocol.message import Message, MessageType
from ..protocol.names import PROCESS_PREFIX
from ..signals import Signals
from .common import FAILED, USAGE, add_command, fail, say

__all__ = ["add_publish"]

_INPUT = "-"
_STDIN = 0
_TIMEOUT = 10.0

_EXAMPLES = f"""\
examples:
  ws-hub publish --backplane local:///run/app/hub news 'a text'
  ws-hub publish --backplane local:///run/app/hub --json jobs '{{"id": 7, "state": "done"}}'
  ws-hub publish --backplane redis://localhost/0?prefix=app --event saved --json jobs 7
  ./build.sh 2>&1 | ws-hub publish --backplane local:///run/app/hub process:build -

  {VARIABLE} in the environment stands in for --backplane. A password belongs there: others on
  this machine see the options of a command.

  DATA reaches the subscribers as the data of an event, as what a client publishes does; in a
  channel of a program (process:ID) as a line of its output. With --key and no DATA the key is
  deleted.

exit codes:
  1 when no process of the application is reached, unless the channel keeps history, or when
  something was lost on the way; 2 for a wrong option, address or directory, and where the server
  of the address is not reached; 130 after Ctrl-C
"""


def add_publish(commands: Any) -> None:
    """Add the command to the parser."""
    text = "publish to a channel of an application"
    command = add_command(commands, "publish", text, _EXAMPLES, _publish)
    command.add_argument(
        "--backplane",
        metavar="ADDRESS",
        help="of the application's backplane, such as local:///run/app/hub",
    )
    command.add_argument("--event", metavar="NAME", help="send an event of this name, with DATA")
    command.add_argument("--key", help="of the message, for a keyed channel")
    command.add_argument("--json", action="store_true", help="DATA is JSON, or each line is")
    command.add_argument(
        "--stream", choices=("stdout", "stderr"), help="of the lines of a program (stdout)"
    )
    command.add_argument("channel", metavar="CHANNEL")
    command.add_argument(
        "data", metavar="DATA", nargs="?", help="a text; - for each line of standard input"
    )


def _publish(arguments: argparse.Namespace, signals: Signals) -> int:
    if arguments.data is None and arguments.key is None and arguments.event is None:
        return fail("publish: DATA is required, or - for standard input", USAGE)
    if arguments.stream is not None and not _is_output(arguments):
        text = f"publish: --stream is for lines of a program, of a channel {PROCESS_PREFIX}ID"
        return fail(text, USAGE)
    publisher = Publisher(arguments.backplane, timeout=_TIMEOUT)
    job = _Job(publisher, arguments, signals)
    thread = threads.start("ws-hub:publish", job.run)
    number = signals.wait()
    passed_on = publisher.close()
    if number is not None:
        return 128 + number
    threads.join(thread, _TIMEOUT)
    if job.error is not None:
        raise job.error
    if job.refusal:
        return fail(job.refusal, job.code)
    if not passed_on:
        return fail("not everything that was published has arrived, see above", FAILED)
    return 0


def _is_output(arguments: argparse.Namespace) -> bool:
    """Whether what is published is lines of a program."""
    is_event = arguments.event is not None or arguments.json or arguments.data is None
    return arguments.channel.startswith(PROCESS_PREFIX) and not is_event


class _Job:
    """What is to be published.

    Args:
        publisher: publishes it.
        arguments: of the command.
        signals: gets None at the end.

    Attributes:
        error: what has ended it.
        refusal: why the rest was not published, with the exit code `code`.
    """

    def __init__(
        self, publisher: Publisher, arguments: argparse.Namespace, signals: Signals
    ) -> None:
        self._publisher = publisher
        self._arguments = arguments
        self._signals = signals
        self._has_said = False
        self.error: WsHubError | OSError | None = None
        self.refusal, self.code = "", FAILED

    def run(self) -> None:
        """Publish all of it, on a thread of its own."""
        try:
            for count, text in enumerate(self._texts()):
                self.refusal = self._refusal(count) or self._send(text)
                if self.refusal:
                    return
        except (WsHubError, OSError) as error:
            self.error = error
        finally:
            self._signals.put(None)

    def _texts(self) -> Iterator[str | None]:
        if self._arguments.data != _INPUT:
            yield self._arguments.data
            return
        # A file of its own: at the end of the interpreter a thread may not hold that of `sys`.
        with open(_STDIN, "rb", closefd=False) as lines:
            for line in lines:
                yield line.decode(errors="replace").removesuffix("\n").removesuffix("\r")

    def _refusal(self, count: int) -> str:
        """Return why nobody would ever get a message, after so many others."""
        channel = self._arguments.channel
        kept, reached = self._publisher.keeps(channel), self._publisher.peers()
        address = without_password(self._arguments.backplane or os.environ.get(VARIABLE))
        nobody = f"no process of the application is reached at {address}"
        if not reached and kept and not self._has_said:
            self._has_said = True
            say(f"{nobody}: {channel} keeps history, and what is published is there for later")
        if reached or kept:
            return ""
        done = f"; {count} messages were published before" if count else ""
        return f"{nobody}, and {channel} keeps no history: nothing was published{done}"

    def _send(self, text: str | None) -> str:
        """Publish one message; return why that cannot be."""
        given, publisher = self._arguments, self._publisher
        data: Any = text
        if given.json and text is not None:
            try:
                data = json.loads(text)
            except (ValueError, RecursionError) as error:
                self.code = USAGE
                return f"publish: {text[:100]!r} is not JSON: {error}"
        if given.event is not None:
            event, channel, key = given.event, given.channel, given.key
            publisher.send_event(event, data, channel=channel, key=key, wait=_TIMEOUT)
        elif text is not None and _is_output(given):
            process_id = given.channel.removeprefix(PROCESS_PREFIX)
            stream = given.stream or "stdout"
            publisher.send_process_output(process_id, text, stream=stream, wait=_TIMEOUT)
        else:
            message = Message(MessageType.EVENT, data=data, key=given.key or "")
            publisher.send_to_channel(given.channel, message, wait=_TIMEOUT)
        return ""
