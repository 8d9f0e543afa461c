"""A headless Chromium that opens a file and reports what a person would see, through the pipe of its DevTools."""

import base64
import contextlib
import json
import os
import select
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from types import TracebackType
from typing import Any

PROGRAMS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
HOW_TO_GET_IT = "no browser: apt-get install chromium (or put any Chromium or Chrome on the PATH)"
PATIENCE = 60.0
"""Seconds for an answer."""
PROBLEMS = ("Runtime.exceptionThrown", "Log.entryAdded", "Runtime.consoleAPICalled")


def program() -> str | None:
    """None: there is no browser."""
    return next((found for name in PROGRAMS if (found := shutil.which(name))), None)


class Browser:
    """One page. Its commands are JSON with a zero byte at the end, on the descriptors 3 and 4 of the process."""

    def __init__(self, path: str) -> None:
        self._profile = TemporaryDirectory(ignore_cleanup_errors=True)
        theirs_in, self._to = os.pipe()
        self._from, theirs_out = os.pipe()
        options = (
            *("--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run"),
            *("--disable-background-networking", "--remote-debugging-pipe", "--hide-scrollbars"),
            *(f"--user-data-dir={self._profile.name}", "about:blank"),
        )
        # a shell moves the pipes to where the browser looks for them
        script = f'exec "$0" "$@" 3<&{theirs_in} 4>&{theirs_out}'
        self._process = subprocess.Popen(
            ["bash", "-c", script, path, *options],
            pass_fds=(theirs_in, theirs_out),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        os.close(theirs_in)
        os.close(theirs_out)
        self._rest, self._number, self._session = b"", 0, ""
        self.events: list[dict[str, Any]] = []
        """All events of the page since it was opened."""
        target = self.send("Target.createTarget", url="about:blank")["targetId"]
        self._session = self.send("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.send(f"{domain}.enable")

    def __enter__(self) -> "Browser":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with contextlib.suppress(OSError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        os.close(self._to)
        os.close(self._from)
        self._profile.cleanup()

    def send(self, method: str, **parameters: Any) -> dict[str, Any]:
        """The answer. RuntimeError: the browser refuses, or has ended."""
        self._number += 1
        message: dict[str, Any] = {"id": self._number, "method": method, "params": parameters}
        if self._session:
            message["sessionId"] = self._session
        content = json.dumps(message).encode() + b"\0"
        while content:
            content = content[os.write(self._to, content) :]
        for answer in self._messages():
            if answer.get("id") == self._number:
                if "error" in answer:
                    raise RuntimeError(f"{method}: {answer['error']['message']}")
                return answer["result"]
            self.events.append(answer)
        raise RuntimeError(f"{method}: the browser has ended")

    def _messages(self) -> Iterator[dict[str, Any]]:
        while True:
            message, zero, rest = self._rest.partition(b"\0")
            if zero:
                self._rest = rest
                yield json.loads(message)
            elif not select.select([self._from], [], [], PATIENCE)[0]:
                raise RuntimeError(f"the browser has not answered in {PATIENCE:g} s")
            elif chunk := os.read(self._from, 2**16):
                self._rest += chunk
            else:
                return

    def open(self, file: Path) -> None:
        """Returns when the page has loaded."""
        self.events.clear()
        self.send("Page.navigate", url=file.resolve().as_uri())
        end = time.monotonic() + PATIENCE
        while not any(event.get("method") == "Page.loadEventFired" for event in self.events):
            if time.monotonic() > end:
                raise RuntimeError(f"{file} has not loaded in {PATIENCE:g} s")
            self.evaluate("0")
            time.sleep(0.02)

    def evaluate(self, expression: str) -> Any:
        """The value of JavaScript, of a promise when it is kept. RuntimeError: it throws."""
        answer = self.send("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        if "exceptionDetails" in answer:
            raise RuntimeError(json.dumps(answer["exceptionDetails"]))
        return answer["result"].get("value")

    def view(self, width: int, height: int, dark: bool = False, media: str = "") -> None:
        """Set the size of the window, and the preferences of the reader."""
        narrow = width < 600
        self.send(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=height,
            deviceScaleFactor=1,
            mobile=narrow,
        )
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.send("Emulation.setEmulatedMedia", media=media, features=[scheme])

    def press(self, key: str) -> None:
        code = {"Tab": 9, "Enter": 13, " ": 32}[key]
        keys = {"key": key, "code": key, "windowsVirtualKeyCode": code}
        text = {"text": "\r"} if key == "Enter" else {}
        self.send("Input.dispatchKeyEvent", type="keyDown", **keys, **text)
        self.send("Input.dispatchKeyEvent", type="keyUp", **keys)

    def mouse(self, kind: str, x: float, y: float) -> None:
        """kind: mouseMoved, mousePressed or mouseReleased."""
        button = "none" if kind == "mouseMoved" else "left"
        self.send("Input.dispatchMouseEvent", type=kind, x=x, y=y, button=button, clickCount=1, buttons=1)

    def screenshot(self, file: Path, whole: bool = False) -> None:
        answer = self.send("Page.captureScreenshot", format="png", captureBeyondViewport=whole)
        file.write_bytes(base64.b64decode(answer["data"]))

    def problems(self) -> list[str]:
        """Exceptions, and the errors in the console, with what the policy of the page has forbidden."""
        self.evaluate("new Promise(resolve => setTimeout(resolve, 50))")
        return [json.dumps(event["params"]) for event in self.events if event.get("method") in PROBLEMS]

    def requests(self) -> list[str]:
        """Addresses that were asked for; data: is none."""
        sent = [event for event in self.events if event.get("method") == "Network.requestWillBeSent"]
        return [url for event in sent if not (url := event["params"]["request"]["url"]).startswith("data:")]
