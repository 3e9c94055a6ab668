"""Clients that control programs which other processes of the application run.

A request is a question to all processes: the one that runs the program carries it out and answers,
the others answer that they do not run it. Rules of this file:

- Whether a client may is decided where it is connected, by the `input_authoriser` there; the
  process that runs the program believes what comes over the backplane, as everywhere.
- Who holds the input is known where the program runs, for all clients alike. A hold ends with its
  client, which its process tells, and with that process. Where notices were lost, one of them may
  have been such an end: then all holds of clients elsewhere end.
- What is done is told once, by the process that does it, in the channel of the program.
- A request is carried out once, also where a backplane brings it twice. Without an answer it is
  unknown whether it was: the client is told so.
"""

from __future__ import annotations

import json
import threading
from collections import OrderedDict
from collections.abc import Callable
from typing import Any

from .. import threads
from ..errors import HubError, HubFull, HubNotRunning
from ..protocol.message import MessageType
from ..protocol.names import PROCESS_PREFIX
from ..protocol.requests import Control, interpret
from .control import Asker, Programs
from .survey import Fields, Survey

__all__ = ["ANSWER_WITHIN", "SharedControl"]

_KIND = "control"
ANSWER_WITHIN = 5.0  # seconds: meanwhile nothing else of that client is read
_LAST_WAIT = 2.0  # seconds until an end does not wait any more for what is carried out
_MOST_DONE = 1000  # requests that are remembered
_LEFT = "left"

Answer = Callable[[Fields], object]


class SharedControl:
    """Asks other processes for what their programs are to do, and does what they ask.

    Args:
        programs: the programs of this process.
        survey: asks the other processes.
        is_over: says whether the hub ends.
    """

    def __init__(self, programs: Programs, survey: Survey, is_over: Callable[[], bool]) -> None:
        self._programs = programs
        self._survey = survey
        self._is_over = is_over
        # Connections that may hold the input of a program elsewhere. Changed by single calls.
        self._holding: dict[int, bool] = {}
        # The backplane's thread's own: requests that were carried out, by their questions.
        self._done: OrderedDict[object, None] = OrderedDict()
        # Threads that carry requests out. Changed by single calls.
        self._working: dict[threading.Thread, None] = {}
        survey.register(_KIND, self._asked)

    # --- reader threads ------------------------------------------------------------------------

    def carry_out(self, asker: Asker, request: Control) -> Any:
        """Have another process do what a client, that may, asks for; return the data of the answer.

        Raises HubError, HubFull and HubNotRunning.

        Threads: the client's reader; waits for the answer, five seconds at most.
        """
        if request.type == MessageType.PROCESS_HOLD and request.data:
            self._holding[asker.connection] = True  # before the other one can know of it
        fields = {
            "kind": _KIND,
            "connection": asker.connection,
            "user": asker.user_id,
            "logged": asker.logged,
            "request": _as_message(request),
        }
        found, missing = self._survey.collect(
            fields, _read, lambda answer: bool(answer["found"]), ANSWER_WITHIN, self._is_over
        )
        for answer in found:
            if answer["found"]:
                return _data_of(answer)
        if missing:
            raise HubError(
                "internal",
                "Control: a process of the server does not answer, and may have done it, or do it "
                "later: look at the program's output before you try again",
            )
        raise self._programs.none_runs()

    def left(self, asker: Asker) -> None:
        """Tell the other processes that a client has left, if it may hold something there.

        Threads: the client's reader; does not wait.
        """
        if self._holding.pop(asker.connection, False):
            fields = {"kind": _KIND, "connection": asker.connection, "what": _LEFT}
            self._survey.tell({"id": "", **fields})

    # --- the backplane's thread ----------------------------------------------------------------

    def _asked(self, source: str, said: Fields, answer: Answer) -> bool:
        connection, user, id = said.get("connection"), said.get("user"), said.get("id")
        if said.get("what") == _LEFT:
            self._programs.release(
                lambda each: each.source == source and each.connection == connection
            )
            return True
        request = _request(said.get("request"))
        if request is None or type(connection) is not int or not isinstance(user, str | None):
            return False
        if not self._programs.runs(request.process_id):
            answer({"found": False})
        elif id not in self._done:
            self._done[id] = None
            if len(self._done) > _MOST_DONE:
                self._done.popitem(last=False)
            asker = Asker(connection, user, source, logged=said.get("logged") is not False)
            self._begin(asker, request, answer)
        return True

    def _begin(self, asker: Asker, request: Control, answer: Answer) -> None:
        """Have a request carried out; a program that reads nothing holds up its writer alone."""
        try:
            name = f"ws-hub:control:{request.process_id}"
            thread = threads.start(name, self._do, asker, request, answer)
        except RuntimeError:  # the system has no thread
            answer(_refusal(HubError("internal", "Control: the server is busy, try again")))
        else:
            self._working[thread] = None
            for each in [each for each in list(self._working) if not each.is_alive()]:
                del self._working[each]

    def gone(self, source: str) -> None:
        """Release what clients of a process hold that has ended."""
        self._programs.release(lambda each: each.source == source)

    def missed(self) -> None:
        """Release what clients of other processes hold: one may have left."""
        self._programs.release(lambda each: each.source != "")

    # --- a thread for each request of another process ------------------------------------------

    def _do(self, asker: Asker, request: Control, answer: Answer) -> None:
        try:
            data = self._programs.do(asker, request)
        except HubError as refused:
            answer(_refusal(refused))
        except (HubFull, HubNotRunning):
            answer(_refusal(HubError("internal", "Control: hub is full, try again")))
        else:
            answer({"found": True, "data": data})

    # --- the hub thread ------------------------------------------------------------------------

    def close(self) -> None:
        """Wait for what is being carried out."""
        for thread in list(self._working):
            threads.join(thread, _LAST_WAIT)


def _as_message(request: Control) -> dict[str, object]:
    """Return a request as the message that it was."""
    data = request.data
    if isinstance(data, tuple):
        columns, rows = data
        data = {"columns": columns, "rows": rows}
    return {"type": str(request.type), "channel": PROCESS_PREFIX + request.process_id, "data": data}


def _request(message: object) -> Control | None:
    """Return the request of a message that another process passes on; None where it is none."""
    if not isinstance(message, dict):
        return None
    request = interpret(json.dumps({**message, "id": 0}), bool)
    return request if isinstance(request, Control) else None


def _refusal(error: HubError) -> Fields:
    return {"found": True, "code": error.code, "error": error.text}


def _read(said: Fields) -> Fields | None:
    return said if isinstance(said.get("found"), bool) else None


def _data_of(answer: Fields) -> Any:
    """Return the data of an answer; raises what it refuses with."""
    if "error" in answer:
        raise HubError(str(answer.get("code")), str(answer["error"]))
    return answer.get("data")
