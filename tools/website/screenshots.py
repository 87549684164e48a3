"""Look at the built site in a headless Chromium. Run: python -m tools.website.screenshots SITE FOLDER [QUESTION ...]

The pages are opened from disk. Five pictures are written into FOLDER, in both colour schemes, and the first result of
the search box for each question is printed. Needs the program chromium.
"""

from __future__ import annotations

import asyncio
import base64
import json
import subprocess  # nosec B404
import sys
import tempfile
from pathlib import Path
from typing import Any
from urllib.parse import quote

PICTURES = (
    ("start-light", "index.html", "light"), ("guide-dark", "guides/lora.html", "dark"),
    ("settings-light", "settings.html#train", "light"), ("api-dark", "api/model.html", "dark"),
    ("search-light", f"index.html?q={quote('how many negatives do I have')}", "light"),
)  # fmt: skip
"""Name of a picture, the page it shows, the colour scheme."""

FIRST = "document.querySelector('.md-search-result__item a')?.href ?? ''"


class Browser:
    """A page of Chromium that is steered by its debugging protocol."""

    def __init__(self, socket: Any) -> None:
        self.socket, self.number = socket, 0

    async def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        """The answer of one command of the protocol."""
        self.number += 1
        await self.socket.send_json({"id": self.number, "method": method, "params": parameters})
        while True:
            answer = json.loads((await self.socket.receive()).data)
            if answer.get("id") == self.number:
                result: dict[str, Any] = answer["result"]
                return result

    async def value(self, script: str) -> Any:
        """What a script gives."""
        return (await self.call("Runtime.evaluate", expression=script))["result"].get("value")

    async def open(self, address: str) -> None:
        """Load a page, and wait until a search that its address asks for has a result."""
        await self.call("Page.navigate", url=address)
        for _ in range(120):
            await asyncio.sleep(0.5)
            if await self.value("document.readyState") == "complete" and (
                "?q=" not in address or await self.value(FIRST)
            ):
                break
        await asyncio.sleep(1.5)


async def look(site: Path, folder: Path, questions: list[str]) -> None:
    """Write the pictures into `folder`, and print the first result for each question."""
    import aiohttp

    with tempfile.TemporaryDirectory() as profile:
        command = ["chromium", "--headless=new", "--no-sandbox", "--disable-gpu", "--allow-file-access-from-files",
                   "--remote-debugging-port=0", f"--user-data-dir={profile}", "about:blank"]  # fmt: skip
        browser = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)  # nosec B603
        try:
            port = Path(profile, "DevToolsActivePort")
            while not (port.is_file() and port.read_text().strip()):
                await asyncio.sleep(0.2)
            async with aiohttp.ClientSession() as session:
                async with session.get(f"http://127.0.0.1:{port.read_text().split()[0]}/json") as answer:
                    (page,) = [one for one in await answer.json() if one["type"] == "page"]
                async with session.ws_connect(page["webSocketDebuggerUrl"], max_msg_size=0) as socket:
                    await _pictures(Browser(socket), site, folder, questions)
        finally:
            browser.terminate()
            browser.wait()


async def _pictures(page: Browser, site: Path, folder: Path, questions: list[str]) -> None:
    start = (site / "index.html").resolve().as_uri()
    for question in questions:
        await page.open(f"{start}?q={quote(question)}")
        first = await page.value(FIRST)
        print(f"{question}: {first.split('/html/')[-1].removeprefix(start.removesuffix('index.html'))}")
    size = {"width": 1280, "height": 760, "deviceScaleFactor": 1, "mobile": False}
    await page.call("Emulation.setDeviceMetricsOverride", **size)
    for name, address, scheme in PICTURES:
        feature = {"name": "prefers-color-scheme", "value": scheme}
        await page.value("localStorage.clear()")  # the scheme of the last picture, which its page would write again
        await page.open("about:blank")
        await page.call("Emulation.setEmulatedMedia", features=[feature])
        await page.open(start.replace("index.html", address))
        picture = await page.call("Page.captureScreenshot", format="png")
        (folder / f"site-{name}.png").write_bytes(base64.b64decode(picture["data"]))


if __name__ == "__main__":
    asyncio.run(look(Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3:]))
