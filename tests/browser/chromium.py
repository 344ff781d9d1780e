"""A headless Chromium, driven through its DevTools protocol."""

import asyncio
import base64
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Self

import aiohttp

EXECUTABLE = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
_LONGEST_WAIT_S = 60


class CommandError(RuntimeError):
    """An error with which the browser answers a command."""


class Page:
    """One tab of the browser.

    Args:
        loop: Event loop of the connection.
        socket: The tab's DevTools connection.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, socket: aiohttp.ClientWebSocketResponse) -> None:
        self._loop, self._socket, self._number = loop, socket, 0

    @classmethod
    async def connect(cls, session: aiohttp.ClientSession, folder: Path) -> Self:
        """Connect to the first tab of the browser that writes its port into this folder."""
        port_file, until = folder / "DevToolsActivePort", time.monotonic() + _LONGEST_WAIT_S
        while not (port_file.exists() and port_file.read_text().count("\n")):
            assert time.monotonic() < until, "Chromium did not start"
            await asyncio.sleep(0.05)
        port = port_file.read_text().split()[0]
        async with session.get(f"http://127.0.0.1:{port}/json") as answer:
            (tab,) = [each for each in await answer.json() if each["type"] == "page"]
        return cls(asyncio.get_running_loop(), await session.ws_connect(tab["webSocketDebuggerUrl"], max_msg_size=0))

    def command(self, method: str, **params: Any) -> dict[str, Any]:
        """Send a command of the protocol, and return its result."""
        return self._loop.run_until_complete(asyncio.wait_for(self._command(method, params), _LONGEST_WAIT_S))

    async def _command(self, method: str, params: dict[str, Any]) -> dict[str, Any]:
        self._number += 1
        await self._socket.send_json({"id": self._number, "method": method, "params": params})
        while (message := await self._socket.receive_json()).get("id") != self._number:
            pass  # An event of the page.
        if "error" in message:
            raise CommandError(message["error"])
        result: dict[str, Any] = message["result"]
        return result

    def evaluate(self, expression: str, *, in_frame: bool = False) -> Any:
        """Return the value of a JavaScript expression in the page, or in its first frame; None without a frame."""
        try:
            context = self._frame() if in_frame else {}
            answer = self.command("Runtime.evaluate", expression=expression, returnByValue=True, **context)
        except CommandError:
            if in_frame:  # There is none yet, or the page has replaced it meanwhile.
                return None
            raise
        assert "exceptionDetails" not in answer, answer["exceptionDetails"]
        return answer["result"].get("value")

    def _frame(self) -> dict[str, Any]:
        frames = self.command("Page.getFrameTree")["frameTree"].get("childFrames", [])
        if not frames:
            raise CommandError("the page has no frame")
        world = self.command("Page.createIsolatedWorld", frameId=frames[0]["frame"]["id"])
        return {"contextId": world["executionContextId"]}

    def open(self, address: str, *, width: int = 1280, height: int = 900) -> None:
        """Open an address in a window of this size in pixels."""
        self.command(
            "Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=False
        )
        self.command("Page.navigate", url=address)

    def text(self) -> str:
        """Return the visible text of the page."""
        return str(self.evaluate("document.body ? document.body.innerText : ''"))

    def wait_for(self, *texts: str) -> str:
        """Wait until the page shows all texts, and return its text."""
        until = time.monotonic() + _LONGEST_WAIT_S
        while missing := [text for text in texts if text not in (shown := self.text())]:
            assert time.monotonic() < until, f"the page does not show {missing}, but:\n{shown}"
            time.sleep(0.1)
        return shown

    def wait_until(self, expression: str, *, in_frame: bool = False) -> Any:
        """Wait until a JavaScript expression is true, and return its value."""
        until = time.monotonic() + _LONGEST_WAIT_S
        while not (value := self.evaluate(expression, in_frame=in_frame)):
            assert time.monotonic() < until, f"{expression} stays {value} in:\n{self.text()}"
            time.sleep(0.1)
        return value

    def screenshot(self, path: Path) -> None:
        """Write a picture of the window as a PNG file."""
        path.write_bytes(base64.b64decode(self.command("Page.captureScreenshot", format="png")["data"]))


@contextmanager
def chromium() -> Iterator[Page]:
    """Start a browser with one tab, and end it with the context."""
    assert EXECUTABLE is not None
    loop = asyncio.new_event_loop()
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        process = subprocess.Popen(
            [EXECUTABLE, "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage",
             "--disable-features=IsolateSandboxedIframes", "--disable-site-isolation-trials",
             "--remote-debugging-port=0", "--remote-allow-origins=*", f"--user-data-dir={folder}", "about:blank"],
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        session = None
        try:
            session = loop.run_until_complete(_session())
            yield loop.run_until_complete(Page.connect(session, Path(folder)))
        finally:
            process.kill()
            process.wait()
            if session is not None:
                loop.run_until_complete(session.close())
            loop.close()


async def _session() -> aiohttp.ClientSession:
    return aiohttp.ClientSession()
