"""Weigh every page of the built book, and load it on a slow phone.

    python benchmarks/pages.py [--site _build/html] [--runs 5]

The phone is Chromium at 390 by 844 with a processor slowed four times and a line of 1.6 Mbit/s with 150 ms to go and
come back, its cache empty. Files are compressed by gzip, as GitHub Pages does. Build first, then measure; delete
benchmarks/results/pages.json to measure anew.
"""

import argparse
import functools
import gzip
import os
import statistics
import sys
from pathlib import Path

from study import Study

ROOT = Path(__file__).parents[1]
sys.path.append(str(ROOT / "book" / "_ext"))
from reading_room import chromium, paper, serve  # noqa: E402

LINE = {"offline": False, "latency": 150, "downloadThroughput": 200_000, "uploadThroughput": 93_750}
OBSERVE = """window.shift = 0; new PerformanceObserver(list => { for (const entry of list.getEntries())
  if (!entry.hadRecentInput) window.shift += entry.value; }).observe({type: 'layout-shift', buffered: true});"""
SEEN = """() => { const [page] = performance.getEntriesByType('navigation');
  const paint = performance.getEntriesByName('first-contentful-paint')[0];
  return {load: page.loadEventEnd / 1000, paint: paint ? paint.startTime / 1000 : 0, shift: window.shift,
    files: performance.getEntriesByType('resource').length + 1}; }"""


@functools.cache
def compressed(path: Path) -> bytes:
    """The file as a server would send it."""
    return gzip.compress(path.read_bytes(), 6)


class Compressing(serve.Handler):
    """Text is sent compressed; pictures and fonts as they are."""

    protocol_version = "HTTP/1.1"

    def do_GET(self):
        """Send one file."""
        path = Path(self.translate_path(self.path))
        if path.suffix not in {".html", ".css", ".js", ".svg"} or not path.is_file():
            return super().do_GET()
        body = compressed(path)
        self.send_response(200)
        self.send_header("Content-Type", self.guess_type(str(path)))
        self.send_header("Content-Encoding", "gzip")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


def visit(browser, address: str) -> dict[str, float]:
    """Load a page once with an empty cache."""
    context = browser.new_context(viewport={"width": 390, "height": 844}, device_scale_factor=2, has_touch=True)
    page = context.new_page()
    page.add_init_script(OBSERVE)
    line = context.new_cdp_session(page)
    line.send("Network.enable")
    weight = []
    line.on("Network.loadingFinished", lambda event: weight.append(event["encodedDataLength"]))
    line.send("Network.emulateNetworkConditions", LINE)
    line.send("Emulation.setCPUThrottlingRate", {"rate": 4})
    page.goto(address, wait_until="load")
    page.evaluate("document.fonts.ready.then(() => true)")
    page.wait_for_timeout(300)
    seen = page.evaluate(SEEN) | {"KiB": sum(weight) / 1024}
    context.close()
    return seen


def measure(browser, address: str, runs: int) -> dict:
    """The middle of several loads; of layout shift, which must not happen, the largest."""
    seen = [visit(browser, address) for _ in range(runs)]
    values = {name: round(statistics.median(s[name] for s in seen), 2) for name in ("KiB", "load", "paint", "files")}
    loads = [round(s["load"], 2) for s in seen]
    busy = round(os.getloadavg()[0] / os.cpu_count(), 1)  # above 1, others wanted the processor, too
    return values | {"loads": loads, "layout shift": round(max(s["shift"] for s in seen), 4), "busy": busy}


def main():
    """Measure what is not yet in benchmarks/results/pages.json."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--site", type=Path, default=ROOT / "_build" / "html")
    parser.add_argument("--runs", type=int, default=5)
    chosen = parser.parse_args()
    about = "gzip, 390x844, CPU slowed 4 times, 1.6 Mbit/s, 150 ms; medians of loads with an empty cache; seconds"
    study = Study("pages", about, "the built book")
    with chromium.launched() as browser, chromium.served(chosen.site, Compressing) as address:
        visit(browser, f"{address}{paper.pages(ROOT)[0]}.html")  # the first page pays for the browser's start
        for name in paper.pages(ROOT):
            study.run(name, lambda name=name: measure(browser, f"{address}{name}.html", chosen.runs))


if __name__ == "__main__":
    main()
