"""A headless Chromium driven over its DevTools protocol: pages, scripts, keys, pictures.

One WebSocket to the browser carries all pages, each by its session.
"""

from __future__ import annotations

import base64
import contextlib
import itertools
import json
import os
import shutil
import signal
import subprocess
import tempfile
from collections import deque
from pathlib import Path
from typing import Any

from websockets.sync.client import connect

from tests.support import wait_until

__all__ = ["Browser", "Page", "find_chromium"]

# Another process, which starts up and lays out on a busy machine: more than TIMEOUT.
PATIENCE = 20.0
UNREACHABLE = (
    "net::ERR_CONNECTION",
    "net::ERR_CONTENT_LENGTH_MISMATCH",  # it ended within an answer
    "net::ERR_EMPTY_RESPONSE",
    "net::ERR_SOCKET_NOT_CONNECTED",
    "WebSocket connection to",
)
NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--disable-dev-shm-usage",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-extensions",
    "--no-default-browser-check",
    "--mute-audio",
    "--remote-debugging-port=0",
)


def find_chromium() -> str | None:
    """Return the path of a Chromium: CHROMIUM, or the first of its names in PATH."""
    named = os.environ.get("CHROMIUM")
    return named or next(filter(None, map(shutil.which, NAMES)), None)


class Browser:
    """One Chromium with a profile of its own, gone after `close()`."""

    def __init__(self, binary: str) -> None:
        self._profile = Path(tempfile.mkdtemp(prefix="ws-hub-chromium-"))
        # Below a shell that waits: some of Chromium's processes are born as its siblings,
        # and no child of ours may come and go in the middle of a test.
        self._process = subprocess.Popen(
            ["/bin/sh", "-c", '"$@" & wait', "sh", binary, *FLAGS]
            + [f"--user-data-dir={self._profile}", "about:blank"],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        self._ids = itertools.count(1)
        self._stack = contextlib.ExitStack()
        self.events: deque[dict[str, Any]] = deque(maxlen=10_000)
        try:
            port, path = wait_until(self._address, PATIENCE, "Chromium's DevToolsActivePort")
            url = f"ws://127.0.0.1:{port}{path}"
            self._socket = self._stack.enter_context(
                connect(
                    url,
                    max_size=None,
                    proxy=None,
                    compression=None,
                    # Pongs wait behind events, which are read when something is called.
                    ping_interval=None,
                )
            )
        except BaseException:
            self._end()
            raise

    def _address(self) -> list[str] | None:
        assert self._process.poll() is None, f"Chromium ended with {self._process.returncode}"
        with contextlib.suppress(FileNotFoundError):
            lines = (self._profile / "DevToolsActivePort").read_text().splitlines()
            return lines if len(lines) == 2 else None
        return None

    def call(self, method: str, session: str = "", **parameters: Any) -> dict[str, Any]:
        """Call a method of the protocol; return its result, keep events for later."""
        number = next(self._ids)
        request: dict[str, Any] = {"id": number, "method": method, "params": parameters}
        if session:
            request["sessionId"] = session
        self._socket.send(json.dumps(request))
        while True:
            message = json.loads(self._socket.recv(timeout=PATIENCE))
            if message.get("id") == number:
                assert "error" not in message, f"{method}: {message.get('error')}"
                result: dict[str, Any] = message["result"]
                return result
            if "method" in message:
                self.events.append(message)

    def close(self) -> None:
        with contextlib.suppress(Exception):
            self.call("Browser.close")
        self._stack.close()
        self._end()

    def _end(self) -> None:
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(PATIENCE)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)  # some of its helpers stay behind
        self._process.wait()
        shutil.rmtree(self._profile, ignore_errors=True)


class Page:
    """One tab, in a profile of its own, or of another tab: no storage of another test."""

    def __init__(
        self,
        browser: Browser,
        *,
        beside: Page | None = None,
        width: int = 1280,
        height: int = 800,
        dark: bool = False,
    ) -> None:
        self._browser = browser
        self._owns_context = beside is None
        self._context = (
            browser.call("Target.createBrowserContext")["browserContextId"]
            if beside is None
            else beside._context
        )
        self._target = browser.call(
            "Target.createTarget", url="about:blank", browserContextId=self._context
        )["targetId"]
        self._session = browser.call("Target.attachToTarget", targetId=self._target, flatten=True)[
            "sessionId"
        ]
        for domain in ("Page", "Runtime", "Log"):
            self.call(f"{domain}.enable")
        self.resize(width, height)
        self.theme(dark)

    def __enter__(self) -> Page:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        return self._browser.call(method, self._session, **parameters)

    def close(self) -> None:
        self._browser.call("Target.closeTarget", targetId=self._target)
        if self._owns_context:
            self._browser.call("Target.disposeBrowserContext", browserContextId=self._context)

    def close_workers(self) -> int:
        """End the shared workers of all tabs, as when a browser's process dies."""
        targets = self._browser.call("Target.getTargets")["targetInfos"]
        workers = [each for each in targets if each["type"] == "shared_worker"]
        for worker in workers:
            self._browser.call("Target.closeTarget", targetId=worker["targetId"])
        return len(workers)

    def resize(self, width: int, height: int, scale: float = 1, mobile: bool = False) -> None:
        self.call(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=height,
            deviceScaleFactor=scale,
            mobile=mobile,
        )

    def theme(self, dark: bool) -> None:
        value = "dark" if dark else "light"
        features = [{"name": "prefers-color-scheme", "value": value}]
        self.call("Emulation.setEmulatedMedia", features=features)

    def open(self, url: str) -> None:
        """Go to a page; return when its scripts have run."""
        self.call("Page.navigate", url=url)
        self.wait_for(f"location.href === {json.dumps(url)} && document.readyState === 'complete'")

    def eval(self, script: str) -> Any:
        """Return the value of an expression, awaited if it is a promise."""
        result = self.call(
            "Runtime.evaluate",
            expression=script,
            returnByValue=True,
            awaitPromise=True,
            userGesture=True,
        )
        assert "exceptionDetails" not in result, (script, result["exceptionDetails"])
        return result["result"].get("value")

    def wait_for(self, script: str, timeout: float = PATIENCE) -> Any:
        """Return the first true value of an expression."""

        def found() -> Any:
            try:
                return self.eval(script)
            except AssertionError as error:
                if "context" in str(error):  # between two documents
                    return None
                raise

        try:
            return wait_until(found, timeout, script)
        except AssertionError as error:
            shown = self.eval("document.body?.innerText.slice(0, 2000)")
            raise AssertionError(
                f"{error}\nthe page shows:\n{shown}\n{self.complaints()}"
            ) from None

    def key(self, key: str, shift: bool = False, control: bool = False) -> None:
        text = "\r" if key == "Enter" else key if len(key) == 1 and not control else ""
        codes = {
            "Enter": 13,
            "Escape": 27,
            "PageUp": 33,
            "End": 35,
            "Home": 36,
            "Tab": 9,
            "ArrowRight": 39,
        }
        for kind in ("keyDown", "keyUp"):
            self.call(
                "Input.dispatchKeyEvent",
                type=kind if text or kind == "keyUp" else "rawKeyDown",
                key=key,
                text=text if kind == "keyDown" else "",
                modifiers=(8 if shift else 0) | (2 if control else 0),
                windowsVirtualKeyCode=codes.get(key, ord(key.upper()[0])),
            )

    def type(self, text: str) -> None:
        self.call("Input.insertText", text=text)

    def wheel(self, x: int, y: int, delta: int) -> None:
        # What was laid out only now has to reach the compositor, which scrolls it.
        frame = "new Promise((done) => requestAnimationFrame(done))"
        self.eval(f"{frame}.then(() => {frame})")
        self.call("Input.dispatchMouseEvent", type="mouseWheel", x=x, y=y, deltaX=0, deltaY=delta)

    def screenshot(self, path: Path) -> None:
        data = self.call("Page.captureScreenshot", format="png")["data"]
        path.write_bytes(base64.b64decode(data))

    def forget(self) -> None:
        """Let what the console has said by now count for nothing."""
        self.eval("1")
        self._browser.events.clear()

    def warnings(self) -> list[str]:
        """The texts that the page's console has as warnings."""
        self.eval("1")
        return [
            " ".join(str(each.get("value", each["type"])) for each in event["params"]["args"])
            for event in self._browser.events
            if event.get("sessionId") == self._session
            and event["method"] == "Runtime.consoleAPICalled"
            and event["params"]["type"] == "warning"
        ]

    def complaints(self) -> list[str]:
        """What the page's console says is wrong: exceptions, errors, violated policies.

        Not that a server cannot be reached: tests end them.
        """
        self.eval("1")  # what has happened by now has been said by now
        found = []
        for event in self._browser.events:
            if event.get("sessionId") != self._session:
                continue
            details = event["params"]
            if event["method"] == "Runtime.exceptionThrown":
                found.append(str(details["exceptionDetails"]))
            elif event["method"] == "Log.entryAdded" and details["entry"]["level"] == "error":
                text = details["entry"]["text"]
                if not any(each in text for each in UNREACHABLE):
                    found.append(text)
            elif event["method"] == "Runtime.consoleAPICalled" and details["type"] == "error":
                found.append(str(details["args"]))
        return found
