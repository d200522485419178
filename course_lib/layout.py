"""Where things stand in the course: the reading order, a topic's five files, and how a file is replaced.

One topic is one name everywhere. The order is written in ``_toc.yml`` and nowhere else: the topics are the chapters
beneath the captions that begin with "Part".
"""

import contextlib
import os
import uuid
from pathlib import Path
from typing import NamedTuple


class TopicFiles(NamedTuple):
    """The places where one topic stands."""

    chapter: Path
    module: Path
    solution: Path
    exercise: Path
    checks: Path
    tests: Path


def course_dir(start: Path | None = None) -> Path:
    """Find the course that a command means: the nearest folder upwards that holds ``_toc.yml``.

    Args:
        start: where to look first; the current folder if None.

    Returns:
        An absolute path.

    Raises:
        FileNotFoundError: no folder on the way up holds ``_toc.yml``.
    """
    start = (start or Path.cwd()).resolve()
    for folder in (start, *start.parents):
        if (folder / "_toc.yml").is_file():
            return folder
    raise FileNotFoundError(
        f"a course is a folder with _toc.yml: found none at or above {start}. Run the command inside your clone."
    )


def topics(course: Path | None = None) -> list[str]:
    """The topics in reading order.

    Args:
        course: the course's folder; found from the current folder if None.

    Returns:
        Names such as ``"norm_penalties"``.
    """
    import yaml  # here, since a student's installation has no need of it

    table = yaml.safe_load(((course or course_dir()) / "_toc.yml").read_text(encoding="utf-8"))
    parts = [part for part in table.get("parts", []) if part["caption"].startswith("Part ")]
    return [Path(chapter["file"]).name for part in parts for chapter in part["chapters"]]


def topic_files(topic: str, course: Path | None = None) -> TopicFiles:
    """Where a topic's files stand, whether or not they exist.

    Args:
        topic: a name such as ``"norm_penalties"``.
        course: the course's folder; found from the current folder if None.

    Returns:
        Absolute paths.
    """
    course = course or course_dir()
    return TopicFiles(
        chapter=course / "book" / f"{topic}.md",
        module=course / "course_lib" / f"{topic}.py",
        solution=course / "solutions" / topic / f"{topic}.ipynb",
        exercise=course / "exercises" / topic / f"{topic}.ipynb",
        checks=course / "tests" / "checks" / f"{topic}.py",
        tests=course / "tests" / f"test_{topic}.py",
    )


def replace_file(path: Path, content: bytes) -> None:
    """Write a file in one step: all of it or nothing, whoever else reads or writes it, also if this process is killed.

    Args:
        path: the file; its folder is made if there is none.
        content: all that it will hold.

    Raises:
        OSError: it cannot be written; the old file is untouched, and no draft is left beside it.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f".{uuid.uuid4().hex}.part")  # tempfile would ignore the umask
    try:
        with draft.open("xb") as stream:
            stream.write(content)
            stream.flush()
            os.fsync(stream.fileno())
        os.replace(draft, path)
    finally:
        with contextlib.suppress(OSError):  # mostly: it has become the file
            draft.unlink()
