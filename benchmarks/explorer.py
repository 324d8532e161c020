"""How fast the explorer's page is: loading, the first decomposition, and dragging.

emorl export-web nano --out DIR; python benchmarks/explorer.py DIR [--seconds 5]

Drives Chromium (`chromium` on the path) without a window, so it draws without a GPU too. A frame is a redraw of the
page after a code has changed; the page is held up where it takes nothing from the hand for more than 50 ms. Processor
time is that of all of Chromium's processes: on a busy machine it says what an idle one would do.
"""

from __future__ import annotations

import argparse
import math
import os
import shutil
import time
from pathlib import Path
from threading import Thread

from playwright.sync_api import expect, sync_playwright

from emorl.web.serve import make_server

COUNT = """() => {
    globalThis.frames = 0;
    const counter = new MutationObserver(() => (globalThis.frames += 1));
    counter.observe(document.querySelector(".stage svg"), { childList: true });
    globalThis.held = [];
    const holding = new PerformanceObserver((list) => held.push(...list.getEntries().map((task) => task.duration)));
    holding.observe({ entryTypes: ["longtask"] });
}"""
MARKS = """() => ["loaded", "scene 1"].map((name) => performance.getEntriesByName(name)[0].startTime)"""


def processor_seconds(word: str) -> float:
    """Time that all processes with a word on their command line have computed for (Linux)."""
    ticks = 0
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if word in (process / "cmdline").read_text():
                fields = (process / "stat").read_text().rpartition(")")[2].split()
                ticks += int(fields[11]) + int(fields[12])  # in user and in kernel mode
        except OSError:  # it has ended
            continue
    return ticks / os.sysconf("SC_CLK_TCK")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--seconds", type=float, default=5.0)
    given = parser.parse_args()
    server = make_server(given.folder)
    Thread(target=server.serve_forever, daemon=True).start()
    with sync_playwright() as driver:
        sandbox = [] if os.geteuid() else ["--no-sandbox"]  # root has none
        browser = driver.chromium.launch(executable_path=shutil.which("chromium"), args=sandbox)
        page = browser.new_page(viewport={"width": 1240, "height": 1000})
        page.goto(f"http://127.0.0.1:{server.server_address[1]}/")
        expect(page.locator("#status")).to_contain_text("Click an object", timeout=60_000)
        loaded, decomposed = page.evaluate(MARKS)
        print(f"networks loaded: {loaded / 1000:.2f} s; first decomposition after that: {decomposed - loaded:.0f} ms")

        page.locator(".objects button:not([aria-label*=nothing])").first.click()
        path = page.locator(".stage path.chosen").first.bounding_box()
        box = page.locator(".stage canvas").first.bounding_box()
        assert path is not None and box is not None
        page.mouse.move(path["x"] + path["width"] / 2, path["y"] + path["height"] / 2)
        page.mouse.down()
        page.evaluate(COUNT)
        computed = processor_seconds("chromium")
        began = time.monotonic()
        while (passed := time.monotonic() - began) < given.seconds:  # round and round, a turn in two seconds
            x, y = 0.5 + 0.2 * math.cos(math.pi * passed), 0.5 + 0.2 * math.sin(math.pi * passed)
            page.mouse.move(box["x"] + x * box["width"], box["y"] + y * box["height"])
        frames = page.evaluate("globalThis.frames")
        cost = (processor_seconds("chromium") - computed) / frames
        print(f"dragging: {frames / passed:.0f} frames a second, {1000 * cost:.0f} ms of processor time each")
        held = page.evaluate("globalThis.held")  # milliseconds of tasks of more than 50
        print(
            f"the page held up: {sum(held) / 1000:.2f} s of {passed:.0f}, at most {max(held, default=0):.0f} ms at once"
        )
        browser.close()
    server.shutdown()


if __name__ == "__main__":
    main()
