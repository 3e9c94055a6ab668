"""`ws-hub publish`: what a shell publishes, and what it is told."""

from __future__ import annotations

import contextlib
import io
import logging
import os
import queue
import signal
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest

from tests.integration.apps.launch import START
from tests.integration.apps.places import PLACES, place_of
from ws_hub import ChannelRule, Hub, HubConfig, Message
from ws_hub.cli import main

RULES = [ChannelRule("kept:*", history_messages=100), ChannelRule("state", keyed=True)]
CHANNELS = ("news", "kept:a", "state", "process:build")


class Heard:
    """What the listeners of a hub get."""

    def __init__(self) -> None:
        self._messages: queue.Queue[Message] = queue.Queue()  # guards: itself.

    def __call__(self, message: Message) -> None:
        self._messages.put(message)

    def next(self) -> Message:
        return self._messages.get(timeout=START)

    def rest(self, hub: Hub) -> list[Any]:
        """Return the data of what else has come; another process's may still be on its way."""
        hub.send_event("marker", channel="news")
        found = []
        while (message := self.next()).data != {"event": "marker", "data": None}:
            found.append(message.data)
        return found


@pytest.fixture(params=PLACES)
def address(request: pytest.FixtureRequest) -> Iterator[str]:
    with place_of(request.param) as place:
        yield place.address


@contextlib.contextmanager
def application(address: str) -> Iterator[tuple[Hub, Heard]]:
    heard = Heard()
    with Hub(HubConfig(rules=RULES), backplane=address) as hub:
        for channel in CHANNELS:
            hub.listen(channel, heard)
        yield hub, heard


def publish(*arguments: str, **environment: str) -> tuple[int, str]:
    """Run the command to its end, in this process; return the exit code and what it says.

    It says that here too where it logs, as what an interpreter of its own would log.
    """
    out, err = io.StringIO(), io.StringIO()
    log = logging.StreamHandler(err)
    log.setLevel(logging.WARNING)
    with (
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(err),
        pytest.MonkeyPatch.context() as patch,
    ):
        for name, value in environment.items():
            patch.setenv(name, value)
        logging.getLogger().addHandler(log)
        try:
            code = main(["publish", *arguments])
        finally:
            logging.getLogger().removeHandler(log)
    return code, only_line(out.getvalue(), err.getvalue())


def publish_apart(*arguments: str, given: str = "", **environment: str) -> tuple[int, str]:
    """Run it in a process of its own, which takes longer."""
    command = [sys.executable, "-m", "ws_hub", "publish", *arguments]
    run = subprocess.run(
        command,
        input=given,
        capture_output=True,
        text=True,
        timeout=START,
        env={**os.environ, **environment},
    )
    return run.returncode, only_line(run.stdout, run.stderr)


def only_line(out: str, err: str) -> str:
    """Return what it says, which is one line at most."""
    assert out == ""
    assert len(err.splitlines()) <= 1, err
    return err.removeprefix("ws-hub: ").rstrip()


def test_data_reaches_the_subscribers_as_an_event(address: str) -> None:
    with application(address) as (hub, heard):
        assert publish_apart("--backplane", address, "news", "a text") == (0, "")
        message = heard.next()
        assert (message.type, message.channel, message.data) == ("event", "news", "a text")
        assert publish("--json", "news", '{"id": 7}', WS_HUB_BACKPLANE=address) == (0, "")
        assert heard.next().data == {"id": 7}
        named = ("--event", "saved", "--json", "kept:a", "7")
        assert publish("--backplane", address, *named) == (0, "")
        message = heard.next()
        assert (message.data, message.seq) == ({"event": "saved", "data": 7}, 1)
        assert publish("--backplane", address, "--event", "saved", "news") == (0, "")
        assert heard.next().data == {"event": "saved", "data": None}
        assert heard.rest(hub) == []


def test_a_key_is_set_and_deleted(address: str) -> None:
    with application(address) as (hub, heard):
        assert publish("--backplane", address, "--key", "cpu", "state", "40") == (0, "")
        message = heard.next()
        assert (message.key, message.data) == ("cpu", "40")
        assert publish("--backplane", address, "--key", "cpu", "state") == (0, "")
        message = heard.next()
        assert (message.key, message.data) == ("cpu", None)
        code, text = publish("--backplane", address, "state", "40")
        assert (code, "has no key" in text) == (2, True)


def test_each_line_of_the_input_is_a_message(address: str) -> None:
    lines = "one\ntwo\r\n\n\udcfffour"
    with application(address) as (hub, heard):
        command = [sys.executable, "-m", "ws_hub", "publish", "--backplane", address]
        given = lines.encode(errors="surrogateescape")
        for channel, kind in (("kept:a", "event"), ("process:build", "process_output")):
            subprocess.run([*command, channel, "-"], input=given, check=True, timeout=START)
            found = [heard.next() for _ in range(4)]
            assert [each.data for each in found] == ["one", "two", "", "\ufffdfour"]
            assert [(each.seq, each.type) for each in found] == [(n, kind) for n in (1, 2, 3, 4)]
        assert publish("--backplane", address, "--stream", "stderr", "process:build", "bad")[0] == 0
        assert [(each.data, each.stream) for each in (*found, heard.next())][-2:] == [
            ("\ufffdfour", ""),
            ("bad", "stderr"),
        ]
        code, text = publish_apart("--backplane", address, "--json", "news", "-", given="1\n{\n3\n")
        assert (code, "'{' is not JSON" in text) == (2, True)
        assert heard.next().data == 1
        assert heard.rest(hub) == []


def test_nobody_there_is_told(address: str) -> None:
    with application(address):
        pass
    code, text = publish("--backplane", address, "news", "lost")
    assert code == 1
    assert text == (
        f"no process of the application is reached at {address}, and news keeps no history: "
        "nothing was published"
    )
    code, text = publish_apart("kept:a", "-", given="kept\nas well\n", WS_HUB_BACKPLANE=address)
    assert (code, "kept:a keeps history" in text) == (0, True)
    with application(address) as (hub, _):
        assert [each.data for each in hub.history("kept:a").messages] == ["kept", "as well"]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--backplane", "redis", "news", "a"), "no address of a backplane"),
        (("news", "a"), "needs the address"),
        (("--backplane", "local:///tmp", "news", "a"), "can be accessed by other users"),
        (("--backplane", "local:///tmp/wsh-nowhere", "news", "a"), "no hub of the application"),
        (("--backplane", "local:///dev/null/x", "news", "a"), "Not a directory"),
        (("--backplane", "local:///tmp/wsh-nowhere", "news"), "DATA is required"),
        (("--stream", "stderr", "news", "a"), "--stream is for lines of a program"),
        (("--stream", "stderr", "--json", "process:b", "1"), "--stream is for lines of a program"),
        (("--backplane", "redis://app:secret@127.0.0.1:1/0", "news", "a"), "is not reached"),
    ],
)
def test_what_cannot_be_is_one_line_and_an_exit_code(arguments: tuple[str, ...], said: str) -> None:
    code, text = publish(*arguments, WS_HUB_BACKPLANE="")
    assert (code, said in text, "secret" in text) == (2, True, False), text


@pytest.mark.parametrize("address", ["local"], indirect=True)
def test_a_directory_of_another_user_is_refused(address: str) -> None:
    if os.geteuid() != 0:
        pytest.skip("only root gives a directory to another user")
    with application(address):
        pass
    os.chown(address.removeprefix("local://"), 12345, 12345)
    code, text = publish("--backplane", address, "news", "a")
    assert (code, "belongs to user 12345, and this process is of user 0" in text) == (2, True)


def test_ctrl_c_ends_the_wait_for_a_line(address: str) -> None:
    with application(address) as (hub, heard):
        command = [sys.executable, "-m", "ws_hub", "publish", "--backplane", address, "news", "-"]
        pipe = subprocess.PIPE
        with subprocess.Popen(command, stdin=pipe, stderr=pipe, text=True) as process:
            assert process.stdin is not None and process.stderr is not None
            process.stdin.write("a line\n")
            process.stdin.flush()
            assert heard.next().data == "a line"  # before the end of the input
            process.send_signal(signal.SIGINT)
            assert process.wait(START) == 130
            assert process.stderr.read() == ""
