"""Secrets in what real programs, prints and log records send."""

from __future__ import annotations

import logging
import os
import re
import sys
import threading

import pytest

from tests.recorder import Recorder
from tests.support import TIMEOUT
from ws_hub.errors import ConfigError, HubNotRunning
from ws_hub.mask.masks import MaskEnv
from ws_hub.process.process import Process, ProcessStartError, begin, run_process
from ws_hub.process.spawn import Child
from ws_hub.process.writers import log_handler, writer

pytestmark = pytest.mark.skipif(os.name != "posix", reason="needs POSIX pipes")

SECRET = "s3cr3t-Token"


def run(hub: Recorder, script: str, **options: object) -> list[str]:
    argv = ["sh", "-c", script]
    run_process(hub, argv, "p", **options).wait(20)  # type: ignore[arg-type]
    return hub.lines()


# --- programs ------------------------------------------------------------------------------


def test_the_output_of_a_program_is_masked_for_all(hub: Recorder) -> None:
    heard: list[str] = []
    raw: list[bytes] = []
    lines = run(
        hub,
        f"printf 's3cr3t-'; sleep 0.3; echo Token; echo {SECRET} >&2",
        mask=[SECRET],
        on_line=lambda text, stream: heard.append(text),
        on_output=lambda data, stream: raw.append(data),
    )
    assert sorted(lines) == ["***", "***"]
    assert sorted(heard) == sorted(hub.texts())
    assert b"".join(raw) == b"***\n***\n"


def test_the_streams_of_a_program_are_masked_each_by_itself(hub: Recorder) -> None:
    script = "printf s3cr3t; sleep 0.1; echo '-Token' >&2; sleep 0.1; echo ' s3cr3t'"
    assert sorted(run(hub, script, mask=[SECRET])) == ["-Token", "s3cr3t s3cr3t"]


def test_the_end_of_a_program_releases_what_was_held_back(hub: Recorder) -> None:
    raw: list[bytes] = []
    lines = run(hub, "printf 'x s3cr'", mask=[SECRET], on_output=lambda data, _: raw.append(data))
    assert lines == ["x s3cr"]
    assert b"".join(raw) == b"x s3cr"


def test_a_prompt_that_begins_no_secret_is_shown(hub: Recorder) -> None:
    shown = threading.Event()
    hub.on_publish = lambda message: shown.set() if message.data == "Password: \r" else None
    with run_process(hub, ["sh", "-c", "printf 'Password: '; sleep 60"], "p", mask=[SECRET]):  # type: ignore[arg-type]
        assert shown.wait(TIMEOUT)


def test_a_program_in_a_terminal_is_masked(hub: Recorder) -> None:
    script = f"printf 's3cr3t-T\\033[3Coken\\r'; printf '{SECRET}'; printf '\\033[1G|\\n'"
    lines = run(hub, script, pty=True, mask=[SECRET])
    assert lines == ["|**r3t-T   oken"]


def test_values_are_those_of_the_environment_of_the_program(hub: Recorder) -> None:
    env = {**os.environ, "NPM_TOKEN": SECRET, "KEY": "not-masked"}
    assert run(hub, "echo $NPM_TOKEN $KEY", env=env, mask=[MaskEnv("*_TOKEN")]) == [
        "*** not-masked"
    ]
    with pytest.raises(ConfigError, match="no variable 'NPM_TOKEN'"):
        run(hub, "true", env={"PATH": "/bin"}, mask=[MaskEnv("NPM_TOKEN")])


def test_secrets_of_the_hub_count_for_programs_that_run(hub: Recorder) -> None:
    first = threading.Event()
    hub.on_publish = lambda message: first.set() if message.data == SECRET else None
    script = f"echo {SECRET}; read line <&3; echo {SECRET} {SECRET}2"
    reading, writing = os.pipe()
    try:
        # The program gets no descriptor of ours: it opens ours in /proc.
        script = script.replace("<&3", f"</proc/{os.getpid()}/fd/{reading}")
        with run_process(
            hub, ["sh", "-c", script], "p", mask=[re.compile("T[a-z]{4}2")]
        ) as process:  # type: ignore[arg-type]
            assert first.wait(TIMEOUT)
            undo = hub.mask(SECRET)
            os.write(writing, b"go\n")
            process.wait(TIMEOUT)
        assert hub.lines() == [SECRET, "*** ***"]
    finally:
        os.close(reading)
        os.close(writing)
    undo()
    assert run(hub, f"echo {SECRET}")[-1] == SECRET


def test_a_program_that_cannot_be_started_names_no_secret(hub: Recorder) -> None:
    program = f"/nowhere/{SECRET}"
    with pytest.raises(ProcessStartError) as caught:
        run_process(hub, [program], "p", mask=[SECRET])  # type: ignore[arg-type]
    error = caught.value
    assert isinstance(error.__cause__, FileNotFoundError)
    assert error.__cause__.filename == "/nowhere/***"
    assert SECRET not in f"{error} {error!r} {error.__cause__}"
    (status,) = hub.statuses()
    assert status == {
        "status": "failed",
        "error": "[Errno 2] No such file or directory: '/nowhere/***'",
    }


@pytest.mark.parametrize(
    ("argv", "env"),
    [
        (f"curl {SECRET}", None),
        (["curl", SECRET, 7], None),
        (iter(["curl", SECRET, 7]), None),
        (["true"], {"A": SECRET, "B": 7}),
        (["true"], {"A": SECRET.encode()}),
        (["true"], {SECRET: 7}),
    ],
)
def test_wrong_arguments_are_refused_without_a_secret(
    hub: Recorder, argv: object, env: object
) -> None:
    with pytest.raises(ConfigError) as caught:
        run_process(hub, argv, "p", env=env, mask=[SECRET])  # type: ignore[arg-type]
    assert SECRET not in str(caught.value)
    assert caught.value.__context__ is None


def test_the_id_that_is_made_of_a_program_has_no_secret(hub: Recorder) -> None:
    hub.mask(SECRET)
    with pytest.raises(ProcessStartError):
        run_process(hub, [f"./{SECRET}-tool"])  # type: ignore[arg-type]
    assert re.fullmatch("process:tool-[0-9a-f]{8}", hub.messages[-1].channel)
    hub.running = False
    with pytest.raises(HubNotRunning, match=r"so '\./\*\*\*-tool' was not started"):
        run_process(hub, [f"./{SECRET}-tool"], "p")  # type: ignore[arg-type]


def test_a_program_that_is_made_by_hand_has_the_secrets_of_its_hub(hub: Recorder) -> None:
    hub.mask(SECRET)
    process = Process(hub, "p")  # type: ignore[arg-type]
    begin(process, lambda: Child(["echo", SECRET])).wait(TIMEOUT)
    assert hub.lines() == ["***"]


# --- output that the application sends -----------------------------------------------------


def test_what_is_sent_as_output_of_a_process_is_masked(hub: Recorder) -> None:
    hub.send_process_output("p", f"a {SECRET}")
    undo = hub.mask(SECRET)
    hub.send_process_output("p", f"b {SECRET}")
    hub.send_process_output("p", "x" * 8191 + SECRET)
    hub.send_process_lines("p", ["c", f"d {SECRET}", "s3cr\x1b[31m3t-Token", "e"])
    hub.send_process_lines("p", ["f", {"g": [SECRET, 7]}])  # type: ignore[list-item]
    hub.send_process_status("p", "failed", extra={"error": f"no {SECRET}", "size": 7})
    undo()
    hub.send_process_output("p", SECRET)
    texts = hub.texts()
    assert texts[:2] == [f"a {SECRET}", "b ***"]
    assert "".join(texts[2:4]).replace("\x17", "") == "x" * 8191 + "***"
    assert texts[4:] == ["c", "d ***", "***\x1b[31m", "e", "f", {"g": ["***", 7]}, SECRET]
    assert list(hub.statuses()) == [{"status": "failed", "error": "no ***", "size": 7}]


# --- prints --------------------------------------------------------------------------------


def test_prints_are_masked_across_writes(hub: Recorder) -> None:
    hub.mask(SECRET)
    file = writer(hub, "p")
    print("a s3cr", end="", file=file, flush=True)
    assert hub.texts() == ["a \r"]
    print("3t-Token b", file=file)
    print(f"50% {SECRET}\r", end="", file=file, flush=True)
    print(f"{SECRET} 100%", file=file)
    file.write("s3cr3t-Tok")
    file.close()
    assert hub.lines() == ["a *** b", "*** 100%", "s3cr3t-Tok"]
    assert not [text for text in hub.texts() if SECRET in text]


def test_prints_of_threads_that_end_release_what_was_held_back(hub: Recorder) -> None:
    hub.mask(SECRET)
    file = writer(hub, "p")
    thread = threading.Thread(target=lambda: file.write("s3cr3t"))
    thread.start()
    thread.join()
    print("-Token", file=file)
    assert hub.lines() == ["s3cr3t", "-Token"]


def test_a_long_print_is_masked(hub: Recorder) -> None:
    hub.mask(SECRET)
    file = writer(hub, "p")
    for at in range(40):
        file.write("x" * (200 + at) + SECRET)
    print(file=file)
    assert hub.lines() == ["".join("x" * (200 + at) + "***" for at in range(40))]
    assert not [text for text in hub.texts() if "s3cr3t" in text]


# --- logs ----------------------------------------------------------------------------------


def test_all_texts_of_a_record_are_masked_before_they_are_cut(hub: Recorder) -> None:
    hub.mask(SECRET)
    handler = log_handler(hub, "logs")
    try:
        raise ValueError(SECRET)
    except ValueError:
        record = logging.LogRecord(
            f"shop.{SECRET}", logging.ERROR, __file__, 1, "x" * 4990 + "%s", (SECRET,),
            sys.exc_info(), sinfo=f"Stack of {SECRET}",
        )  # fmt: skip
    record.threadName = SECRET
    handler.handle(record)
    handler.close()
    (message,) = hub.messages
    fields = message.data["data"]
    assert "s3cr3t" not in str(message)
    assert fields["message"] == "x" * 4990 + "***"
    assert (fields["name"], fields["thread"]) == ("shop.***", "***")
    assert fields["exception"].endswith("ValueError: ***")
    assert fields["stack"] == "Stack of ***"
