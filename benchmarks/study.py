"""What studies share: images on the device that is here, fair timing, runs kept with what is needed to repeat them."""

import json
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import torch

from course_lib.data import ImageData, Split
from course_lib.layout import replace_file

RESULTS = Path(__file__).parent / "results"


def machine() -> str:
    """The kind of machine, not its name: processor count or GPU model, and the versions that matter."""
    device = (
        torch.cuda.get_device_name() if torch.cuda.is_available() else f"{os.cpu_count()} {platform.machine()} cores"
    )
    return f"{device}; Python {platform.python_version()}, torch {torch.__version__}"


def commit() -> str:
    """The commit that ran: COURSE_COMMIT where there is no repository, else git's, "-dirty" if files differ from it."""
    if "COURSE_COMMIT" in os.environ:
        return os.environ["COURSE_COMMIT"]
    command = ["git", "-C", str(RESULTS.parent), "describe", "--always", "--dirty", "--exclude=*"]
    return subprocess.run(command, capture_output=True, text=True).stdout.strip() or "unknown"


def on_device(data: ImageData) -> tuple[Split, Split]:
    """Training and test images, on a GPU where there is one."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    train, test = (Split(part.x.to(device), part.y.to(device)) for part in (data.train, data.test))
    return train, test


def medians_in_turn(
    versions: dict[str, Callable[[], object]], repeats: int, clock: Callable[[], float] = time.perf_counter
) -> dict[str, float]:
    """The median seconds of each version; they take turns, so that a slow moment of the machine meets all of them."""

    def now() -> float:
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        return clock()

    seconds: dict[str, list[float]] = {name: [] for name in versions}
    for turn in range(repeats + 3):
        for name, work in versions.items():
            start = now()
            work()
            if turn >= 3:  # the first turns warm up
                seconds[name].append(now() - start)
    return {name: statistics.median(times) for name, times in seconds.items()}


def relative_to(reference: str, medians: dict[str, float]) -> dict[str, float]:
    """The reference's median in milliseconds, and how many times as long each other version takes."""
    times = {name: round(value / medians[reference], 3) for name, value in medians.items() if name != reference}
    return {f"{reference} (ms)": round(1000 * medians[reference], 3)} | times


class Study:
    """Runs by key, kept in ``benchmarks/results/<name>.json``; it can be stopped at any time.

    A run that is in the file is not run again; delete the file to start over.
    """

    def __init__(self, name: str, about: str, data: str):
        self.path = RESULTS / f"{name}.json"
        self.content = {"about": about, "data": data, "runs": {}}
        if self.path.is_file():
            self.content["runs"] = json.loads(self.path.read_text())["runs"]

    @property
    def runs(self) -> dict[str, dict]:
        """The finished runs: ``{"values": ..., and provenance}`` by key."""
        return self.content["runs"]

    def run(self, key: str, work: Callable[[], dict]) -> dict:
        """Do a piece of work once.

        Args:
            key: names the run and all that sets it apart, the seed included.
            work: returns the values, plain numbers and lists.

        Returns:
            The values, new or from the file.
        """
        if key not in self.runs:
            start = time.perf_counter()
            values = work()
            self.runs[key] = {
                "values": values,
                "seconds": round(time.perf_counter() - start, 2),
                "command": " ".join(["python", *sys.argv]),
                "commit": commit(),
                "machine": machine(),
                "date": datetime.now(UTC).date().isoformat(),
            }
            replace_file(self.path, (json.dumps(self.content, indent=1, sort_keys=True) + "\n").encode())
            print(f"{key}: {values}", flush=True)
        return self.runs[key]["values"]
