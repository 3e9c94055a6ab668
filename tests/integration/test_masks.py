"""Secrets in the output of programs, seen from where output goes: none is there."""

from __future__ import annotations

import contextlib
import os
import pty
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.commands import command, run
from tests.integration.test_process_hub import viewer
from tests.support import TIMEOUT
from ws_hub import ConfigError, Hub, MaskEnv, Publisher, serve
from ws_hub.cli import main

pytestmark = pytest.mark.skipif(os.name != "posix", reason="needs POSIX pipes")

SECRET = "s3cr3t-Token"
# In one piece, in two, drawn over, coloured, and in base64.
SCRIPT = (
    f"echo {SECRET}; printf s3cr; sleep 0.2; echo 3t-Token;"
    "printf 's3XX3t-Token\\033[1G\\033[2Ccr\\n'; printf 's3cr\\033[31m3t-Token\\033[0m\\n';"
    f"printf %s {SECRET} | base64"
)


def test_no_viewer_early_or_late_and_no_history_has_a_secret() -> None:
    with Hub() as hub, serve(hub) as server, contextlib.ExitStack() as stack:
        early = stack.enter_context(viewer(server, "p"))
        process = hub.run_process(["sh", "-c", SCRIPT], "p", mask=[SECRET])
        assert process.wait(TIMEOUT) == 0
        late = stack.enter_context(viewer(server, "p"))
        for each in (early, late):
            texts = each.until_over().texts
            finals = [re.sub("\x1b\\[[0-9;]*m", "", line) for line in each.lines]
            assert finals[-3:] == ["***"] * 3
            assert not [text for text in texts if SECRET in text]
        assert "s3cr3t-Token" not in str(hub.history("process:p"))


def test_a_publisher_masks_what_it_tells(tmp_path: Path) -> None:
    address = f"local://{tmp_path}"
    with Hub(backplane=address) as hub, serve(hub) as server, viewer(server, "p") as it:
        with Publisher(address) as publisher:
            publisher.mask("pri-nted")
            print("a pri-nted b", file=publisher.writer("q"))
            argv = ["sh", "-c", f"echo {SECRET} pri-nted"]
            assert publisher.run_process(argv, "p", mask=[SECRET]).wait(TIMEOUT) == 0
            assert it.until_over().lines == ["*** ***"]
        with viewer(server, "q") as prints:
            prints.until_output()
            assert prints.lines == ["a *** b"]


def test_the_command_masks_for_pipes_and_pages(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NPM_TOKEN", SECRET)
    key = tmp_path / "key.pem"
    key.write_text("-----BEGIN KEY-----\nMIIEvQIB\n-----END KEY-----\n")
    script = f'echo "$NPM_TOKEN ghp_abcd1234 MIIEvQIB x"; cat {key}'
    options = [
        "--mask-env",
        "*_TOKEN",
        "--mask-file",
        str(key),
        "--mask-pattern",
        "ghp_[a-z0-9]{8}",
    ]
    code, out, _ = run("run", "--port", "0", *options, "--", "sh", "-c", script)
    assert code == 0
    assert out == ["*** *** *** x", "***", "***", "***"]
    with command(
        "run", "--port", "0", "--id", "p", "--wait", *options, "--", "sh", "-c", script
    ) as it:
        it.saw("exited", "err")
        page = f"http://127.0.0.1:{it.port}/?channel=process:p"
        with command("tail", page) as tail:
            tail.saw("***")
            tail.saw("exited", "err")
            assert SECRET not in "\n".join(tail.out)


def test_the_command_masks_for_its_terminal() -> None:
    ours, theirs = pty.openpty()
    try:
        argv = [
            sys.executable,
            "-m",
            "ws_hub",
            "run",
            "--port",
            "0",
            "--mask-pattern",
            "s3cr3t-T[a-z]{4}",
        ]
        done = subprocess.Popen(
            [*argv, "--", "sh", "-c", f"echo {SECRET}; printf s3cr3t; sleep 0.2; echo -Token"],
            stdin=subprocess.DEVNULL, stdout=theirs, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        os.close(theirs)
        seen = b""
        with contextlib.suppress(OSError):  # EIO: the command has ended
            while more := os.read(ours, 4096):
                seen += more
        assert done.wait(TIMEOUT) == 0
    finally:
        os.close(ours)
    assert seen.count(b"***") == 2
    assert b"Token" not in seen


@pytest.mark.parametrize(
    ("options", "text"),
    [
        (["--mask-env", "NO_SUCH_VARIABLE"], "the environment has no variable 'NO_SUCH_VARIABLE'"),
        (["--mask-file", "/no/such/file"], "No such file or directory: '/no/such/file'"),
        (["--mask-pattern", "(ab"], "--mask-pattern must be a regular expression, not '(ab'"),
        (["--mask-pattern", "ab+"], "the pattern 'ab+' must be a sequence"),
    ],
)
def test_the_command_refuses_what_it_cannot_mask(
    options: list[str], text: str, capfd: pytest.CaptureFixture[str]
) -> None:
    assert main(["run", *options, "--", "echo", "no"]) == 2  # nothing is started
    out, err = capfd.readouterr()
    assert out == ""
    assert text in err


def test_the_environment_is_read_when_it_is_masked(monkeypatch: pytest.MonkeyPatch) -> None:
    hub = Hub()
    with pytest.raises(ConfigError, match="no variable"):
        hub.mask(MaskEnv("WS_HUB_TEST_TOKEN"))
    monkeypatch.setenv("WS_HUB_TEST_TOKEN", SECRET)
    hub.mask(MaskEnv("WS_HUB_TEST_TOKEN"))
    assert hub.masks.text(SECRET) == "***"
