"""Time builds of the book in a copy of the repository: cold, with nothing changed, and with one chapter edited.

    python benchmarks/build.py

The copy is built from nothing, then again after each edit: a sentence of a chapter, a cell of it, a line of its topic's
module, a line of a shared room that every chapter imports. What is run again is counted, too. Delete
benchmarks/results/build.json to measure anew.
"""

import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from study import Study

from course_lib.layout import topic_files, topics

ROOT = Path(__file__).parents[1]
RAN = re.compile(r"^executed (\S+) in", flags=re.M)


def copied(target: Path):
    """Copy what git would keep."""
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    names = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout.split("\0")
    files = [name for name in names if name and (ROOT / name).exists()]
    subprocess.run(["cp", "--parents", "--no-dereference", "--target-directory", target, *files], cwd=ROOT, check=True)


def built(course: Path) -> dict:
    """Build the book; return the seconds, and which pages were run."""
    start = time.perf_counter()
    command = ["jupyter-book", "build", ".", "-W", "--keep-going", "-n"]
    own = {"PYTHONPATH": str(course), "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
    done = subprocess.run(command, cwd=course, env=os.environ | own, capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"the book does not build:\n{done.stdout[-2000:]}\n{done.stderr[-4000:]}")
    return {
        "build": round(time.perf_counter() - start, 1),
        "executed": sorted(RAN.findall(done.stdout)),
        "busy": round(os.getloadavg()[0] / os.cpu_count(), 1),  # above 1, others wanted the processor, too
    }


def edited(path: Path, change: Callable[[str], str]):
    """Change a file as an editor would."""
    path.write_text(change(path.read_text(encoding="utf-8")), encoding="utf-8")


def main():
    """Measure what is not yet in benchmarks/results/build.json."""
    names = topics(ROOT)
    study = Study("build", "seconds of jupyter-book build, and the pages it ran", "a copy of this repository")
    with tempfile.TemporaryDirectory() as folder:
        course = Path(folder)
        copied(course)
        files = topic_files(names[-1], course)
        edits = {
            "cold": lambda: None,
            "nothing changed": lambda: None,
            "a sentence": lambda: edited(files.chapter, lambda text: text + "\nOne more sentence.\n"),
            "a cell": lambda: edited(files.chapter, lambda text: text.replace("\n```\n", "\n# edited\n```\n", 1)),
            "a topic's module": lambda: edited(files.module, lambda text: text + "\n# edited\n"),
            "a shared room": lambda: edited(course / "course_lib" / "figures.py", lambda text: text + "\n# edited\n"),
        }
        for name, edit in edits.items():
            edit()  # and build even what is known, since the next case starts from there
            values = built(course) | {"chapters": len(names)}
            study.run(name, lambda values=values: values)


if __name__ == "__main__":
    main()
