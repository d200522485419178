"""How fast grading is: `course grade` beside `nbgrader autograde`, and what the sandbox costs.

Everything is paired: both graders take the same submissions, one after the other, on the same machine, and each
is a process of its own from its start to a filled gradebook. Run from the repository's root:

    python benchmarks/grading.py [--pairs 2] [--submissions 20] [--large 300]
"""

import argparse
import json
import os
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from study import Study

from course_lib.grading.bundle import build, is_solution, text
from course_lib.grading.engines import Job, on_server
from course_lib.grading.forkserver import ForkServer
from course_lib.grading.grade_one import grade_one
from course_lib.grading.submission import pack

ROOT = Path(__file__).resolve().parent.parent
TOPIC = "norm_penalties"
OURS = f"from course_lib.grading.run import grade; grade('.', {TOPIC!r}, workers=2)"
HOSTILE = (
    "import os\nos._exit(0)",
    "get_ipython().input_transformers_cleanup.append(lambda lines: ['pass\\n'])",
    "import os\nfor _ in range(300): os.fork() or __import__('time').sleep(600)",
    "hoard = []\nwhile True: hoard.append(bytearray(1 << 24))",
    "while True: print('x' * 100_000, flush=True)",
)


def solved() -> dict:
    """The released notebook with the source notebook's solutions."""
    book, source = (
        json.loads((ROOT / place / TOPIC / f"{TOPIC}.ipynb").read_text(encoding="utf-8"))
        for place in ("exercises", "solutions")
    )
    answers = {cell["id"]: text(cell) for cell in source["cells"]}
    for cell in book["cells"]:
        if is_solution(cell):
            cell["source"] = answers[cell["id"]]
    return book


def write_course(folder: Path, submissions: int, hostile: int = 0) -> Path:
    """A course with a class of honest submissions, the last few hostile."""
    for name in ("exercises", "solutions", "tests/checks", "course_lib"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "nbgrader_config.py", folder)
    for number in range(submissions):
        book = solved()
        if number < hostile:
            attack = {"cell_type": "code", "id": "own", "metadata": {}, "outputs": [], "execution_count": None}
            book["cells"].append(attack | {"source": HOSTILE[number % len(HOSTILE)]})
        place = folder / "submitted" / f"s{number:03}" / TOPIC
        place.mkdir(parents=True)
        (place / f"{TOPIC}.ipynb").write_text(json.dumps(book), encoding="utf-8")
    return folder


def seconds(command: list[str], course: Path) -> float:
    """Wall clock of a grader from its start to its end, on a course not graded yet."""
    for name in ("gradebook.db", "autograded", ".cache"):
        place = course / name
        shutil.rmtree(place) if place.is_dir() else place.unlink(missing_ok=True)
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    # Both find an assignment that was released before; that time is not counted.
    release = [sys.executable, "-m", "nbgrader", "generate_assignment", TOPIC, "--force"]
    subprocess.run(release, cwd=course, env=os.environ | {"PATH": path}, check=True, capture_output=True)
    start = time.perf_counter()
    subprocess.run(command, cwd=course, env=os.environ | {"PATH": path}, check=True, capture_output=True)
    return time.perf_counter() - start


def throughput(course: Path, submissions: int) -> dict:
    """Grade the same class with both."""
    ours = seconds([sys.executable, "-c", OURS], course)
    plain = seconds([sys.executable, "-m", "nbgrader", "autograde", TOPIC], course)
    return {
        "submissions": submissions,
        "course grade, seconds": round(ours, 2),
        "nbgrader autograde, seconds": round(plain, 2),
        "course grade, submissions/min": round(60 * submissions / ours, 1),
        "nbgrader autograde, submissions/min": round(60 * submissions / plain, 1),
        "ratio": round(plain / ours, 2),
    }


def overhead(course: Path, repeats: int = 9) -> dict:
    """Seconds of one submission in a plain kernel, in bubblewrap, and forked from the zygote, by turns."""
    bundle = build(course, TOPIC).pack()
    submission = pack(course / "submitted" / "s000" / TOPIC, TOPIC)
    taken: dict[str, list[float]] = {"plain": [], "bubblewrap": [], "zygote": []}
    with ForkServer(bundle) as server:
        ways = {
            "plain": lambda: grade_one(bundle, submission, "ann", sandbox=False),
            "bubblewrap": lambda: grade_one(bundle, submission, "ann"),
            "zygote": lambda: server.grade(submission, "ann"),
        }
        for way in ways.values():
            way()
        for _ in range(repeats):
            for name, way in ways.items():
                start = time.perf_counter()
                assert way()["score"] == 10.0
                taken[name].append(time.perf_counter() - start)
    extra = [caged - plain for caged, plain in zip(taken["bubblewrap"], taken["plain"], strict=True)]
    medians = {f"{name}, median seconds": round(statistics.median(values), 3) for name, values in taken.items()}
    return {**medians, "bubblewrap minus plain, paired median seconds": round(statistics.median(extra), 3)}


def large(folder: Path, submissions: int, hostile: int) -> dict:
    """A big class with attackers: wall clock, memory of the parent, and whether everybody came home."""
    course = write_course(folder, submissions, hostile)
    bundle = build(course, TOPIC)
    names = sorted(path.name for path in (course / "submitted").iterdir())
    jobs = [Job(name, lambda name=name: pack(course / "submitted" / name / TOPIC, TOPIC)) for name in names]
    start, memory, scores = time.perf_counter(), [], {}
    with ForkServer(bundle.pack()) as server:
        for result in on_server(server, jobs):
            scores[result["student"]] = result["score"]
            memory.append(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)
    return {
        "submissions": submissions,
        "hostile": hostile,
        "seconds": round(time.perf_counter() - start, 1),
        "graded": len(scores),
        "full marks": sum(score == 10.0 for score in scores.values()),
        "parent's peak memory after 20, MB": round(memory[19]),
        "parent's peak memory at the end, MB": round(memory[-1]),
    }


def main() -> None:
    """Run what is not in the results file yet."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--pairs", type=int, default=2)
    parser.add_argument("--submissions", type=int, default=20)
    parser.add_argument("--large", type=int, default=300)
    options = parser.parse_args()
    study = Study("grading", "course grade beside nbgrader autograde, two workers, sandbox on", f"topic {TOPIC}")
    with tempfile.TemporaryDirectory() as folder:
        course = write_course(Path(folder, "class"), options.submissions)
        for pair in range(options.pairs):
            study.run(f"throughput, pair {pair}", lambda: throughput(course, options.submissions))
        study.run("overhead of the sandbox", lambda: overhead(course))
        study.run("large class", lambda: large(Path(folder, "large"), options.large, options.large // 20))


if __name__ == "__main__":
    main()
