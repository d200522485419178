"""Bring work in: archives from a web form, Moodle or Canvas become ``submitted/<student>/<assignment>/``.

No path in an archive is ever used as a path. A member's name only says whose work it is; its bytes are counted while
they are read; and an archive that is refused does not keep the others from being collected.
"""

import contextlib
import io
import re
import stat
import unicodedata
import zipfile
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from course_lib.grading.limits import Limits
from course_lib.grading.submission import exchange_file
from course_lib.layout import replace_file

MEMBERS = 20_000  # in one archive
RATIO = 200  # unpacked to packed, from 1 MB on; text reaches 30
_MOODLE = re.compile(r"^(?P<name>[^/]+?)_(?P<number>\d+)_assignsubmission_(?:file|onlinetext)_?/?(?P<file>[^/]*)$")
_CANVAS = re.compile(r"^(?P<name>[^/_]+)_(?:LATE_)?(?P<number>\d+)_\d+_(?P<file>[^/]+)$")
# A later copy: Canvas's name-2.ipynb, a browser's name (2).ipynb.
_AGAIN = re.compile(r"(?:-(\d+)| ?\((\d+)\))(?=\.[^.]+$)")
_NAME = "name.txt"  # beside a student's assignments
_IN_NAMES = set("0123456789 .,'’-·")
_LETTERS = str.maketrans({"ł": "l", "ø": "o", "đ": "d", "ð": "d", "ı": "i", "ß": "ss", "æ": "ae", "œ": "oe", "þ": "th"})


# What zipfile raises, beside its own, for archives that are damaged, encrypted or packed in an unknown way.
_DAMAGE = (ValueError, zipfile.BadZipFile, zlib.error, OSError, RuntimeError, EOFError)


class Refused(ValueError):
    """An archive, or one student's part of it, that is not collected; the message says why."""


@dataclass
class Collected:
    """What came of some archives.

    Attributes:
        students: who was collected, with the file that was taken.
        refused: archives or members that were not, with the reason.
        unchanged: students whose work was already there, byte for byte.
    """

    students: dict[str, str] = field(default_factory=dict)
    refused: dict[str, str] = field(default_factory=dict)
    unchanged: list[str] = field(default_factory=list)


def student_id(name: str, number: str = "") -> str:
    """An id from a name as people write it, safe as a folder's name everywhere; letters that are not Latin are lost.

    Args:
        name: for example ``"Ada Lovelace"``.
        number: the learning platform's number, kept so that grades find their way back.

    Returns:
        Lower case letters, digits, ``-`` and ``.``; then ``_`` and the number if there is one.

    Raises:
        Refused: nothing of the name is left.

    >>> student_id("Zoë  O'Neil, Jr.", "4711")
    'zoe-o-neil-jr_4711'
    >>> student_id("Łukasz Sørensen", "12")
    'lukasz-sorensen_12'
    """
    plain = unicodedata.normalize("NFKD", name.lower().translate(_LETTERS)).encode("ascii", "ignore").decode()
    slug = re.sub(r"[^a-z0-9.]+", "-", plain).strip("-.")
    if not slug and not number:
        raise Refused(f"A student's id needs a letter or a digit: got {name!r}. Rename the folder in the archive.")
    return f"{slug or 'student'}_{number}" if number else slug


class Owner(NamedTuple):
    """Whose a member is, as its path says: the student's id, the file's name, and a person's name if it is there.

    Where the id has no number of the platform's, ``spelling`` tells apart those who would share one.
    """

    student: str
    file: str
    name: str = ""
    spelling: str = ""


def person(name: str) -> str:
    """A person's name as it may be shown on any page: letters of every script, digits, and what joins names.

    >>> person("<img src=x> Zoe\u0308  O'Neil, Jr.")
    "img srcx Zoë O'Neil, Jr."
    """
    kept = (c for c in unicodedata.normalize("NFC", name) if unicodedata.category(c)[0] in "LM" or c in _IN_NAMES)
    return " ".join("".join(kept).split())[:100]


def first_and_last(name: str) -> tuple[str, str]:
    """Parts of a name for the gradebook: the last word, and lower-case words just before it, are the last name.

    >>> first_and_last("Ada Lovelace"), first_and_last("Anna van der Berg"), first_and_last("Plato")
    (('Ada', 'Lovelace'), ('Anna', 'van der Berg'), ('', 'Plato'))
    >>> first_and_last("Smith, John")
    ('John', 'Smith')
    """
    last, comma, first = name.partition(", ")
    if comma and first:
        return first, last
    words = name.split()
    start = max(len(words) - 1, 0)
    while start > 1 and words[start - 1][0].islower():
        start -= 1
    return " ".join(words[:start]), " ".join(words[start:])


def read_names(course_dir: Path) -> dict[str, str]:
    """The names that came with collected work, by student's id."""
    return {
        path.parent.name: name
        for path in sorted((course_dir / "submitted").glob(f"*/{_NAME}"))
        if path.is_file() and not path.is_symlink() and (name := person(path.read_text("utf-8", errors="replace")))
    }


def _from_moodle(path: PurePosixPath) -> Owner | None:
    found = _MOODLE.match(path.parts[0] if len(path.parts) > 1 else path.name)
    return Owner(student_id(found["name"], found["number"]), path.name, person(found["name"])) if found else None


def _from_canvas(path: PurePosixPath) -> Owner | None:
    found = _CANVAS.match(path.name)
    return Owner(student_id(found["name"], found["number"]), found["file"]) if found else None


def _from_zip(path: PurePosixPath) -> Owner | None:
    """``student/anything.ipynb``, or ``student.ipynb`` at the top."""
    name = path.parts[0] if len(path.parts) > 1 else path.stem
    return Owner(student_id(name), path.name, spelling=unicodedata.normalize("NFC", name).casefold())


SOURCES: dict[str, Callable[[PurePosixPath], Owner | None]] = {
    "zip": _from_zip,
    "moodle": _from_moodle,
    "canvas": _from_canvas,
}


def collect(
    course_dir: Path, assignment: str, archives: list[Path], source: str = "zip", limits: Limits | None = None
) -> Collected:
    """Unpack archives of submissions into ``submitted/``.

    Args:
        course_dir: the course's root.
        assignment: name of the assignment; each student's notebook is filed under it, whatever it was called.
        archives: zip files as the platform gives them out.
        source: ``"zip"`` (``student/x.ipynb`` or ``student.ipynb``), ``"moodle"`` (*Download all submissions*) or
            ``"canvas"`` (*Download submissions*).
        limits: sizes allowed; the grader's own by default.

    Returns:
        Who was collected and what was refused. A student who handed in again gets the newest file.

    Raises:
        ValueError: no such source.
    """
    if source not in SOURCES:
        raise ValueError(f"source must be a platform: wanted one of {', '.join(SOURCES)}, got {source!r}.")
    limits, report = limits or Limits(), Collected()
    for archive in archives:
        try:
            if not archive.is_file():
                raise Refused("No such file. Name the zip that the platform gave out.")
            unpacked = list(_members(archive.read_bytes(), limits))
            _require_no_platform(source, unpacked)
            found = _sorted_by_student(archive.name, unpacked, source, limits, report)
        except _DAMAGE as problem:
            report.refused[archive.name] = str(problem) or type(problem).__name__
            continue
        for student, (person_name, members) in found.items():
            try:
                name, when, content = _choose(members, assignment)
                _file(course_dir / "submitted" / student / assignment, assignment, when, content, student, report)
            except Refused as problem:
                report.refused.setdefault(f"{archive.name}: {student}", str(problem))
                continue
            if person_name:
                replace_file(course_dir / "submitted" / student / _NAME, person_name.encode())
            report.students[student] = f"{archive.name}: {name}"
    return report


Unpacked = tuple[zipfile.ZipInfo, bytes | None]  # None for a file that is too large
Member = tuple[str, str, bytes]  # file name, time, content


def _require_no_platform(source: str, unpacked: list[Unpacked]) -> None:
    """Taken for a plain one, a platform's archive would give each student a second id."""
    names = [PurePosixPath(info.filename) for info, _ in unpacked if not info.is_dir()]
    for platform in ("moodle", "canvas") if source == "zip" and names else ():
        if all(map(SOURCES[platform], names)):
            raise Refused(f"{platform} gives such names: {_shown(str(names[0]))}. Run again with --from {platform}.")


def _sorted_by_student(
    label: str, unpacked: list[Unpacked], source: str, limits: Limits, report: Collected
) -> dict[str, tuple[str, list[Member]]]:
    """Each student's name and files; what is wrong with one student's part is told, and costs nobody else anything."""
    found: dict[str, tuple[str, list[Member]]] = {}
    spellings: dict[str, str] = {}
    for info, content in unpacked:
        path = PurePosixPath(info.filename)
        try:
            owner = SOURCES[source](path / "any" if info.is_dir() else path)
            if owner is None and not info.is_dir():
                raise Refused(f"Not a name that {source} gives to a submission.")
            if owner and spellings.setdefault(owner.student, owner.spelling) != owner.spelling:
                raise Refused(f"Two students would have the id {owner.student}. Rename one in the archive.")
            if content is None:
                raise Refused(f"A file has at most {limits.notebook_bytes} bytes. Ask for it without its outputs.")
        except Refused as problem:
            report.refused[f"{label}: {_shown(info.filename)}"] = str(problem)
            continue
        if owner is None:
            continue
        _, members = found.setdefault(owner.student, (owner.name, []))
        if info.is_dir():  # whoever has only an empty one is named too
            continue
        if not owner.file.lower().endswith(".zip"):
            members.append((owner.file, _when(info), content))
            continue
        try:  # a student who packed the notebook once more
            inner = list(_members(content, limits))
        except _DAMAGE as problem:
            report.refused[f"{label}: {owner.student}"] = f"{_shown(owner.file)}: {problem}"
            continue
        members.extend((PurePosixPath(i.filename).name, _when(info), c) for i, c in inner if c is not None)
    return found


def _when(info: zipfile.ZipInfo) -> str:
    try:
        return datetime(*info.date_time).isoformat(" ")
    except ValueError:  # no date, or one that no calendar has
        return ""


def _members(packed: bytes, limits: Limits) -> Iterator[Unpacked]:
    """The files and folders of an archive, or a refusal of all before the first is used; None is a large file."""
    with zipfile.ZipFile(io.BytesIO(packed)) as archive:
        infos = archive.infolist()
        if len(infos) > MEMBERS:
            raise Refused(f"An archive holds at most {MEMBERS} members: got {len(infos)}.")
        for info in infos:
            _mend_name(info)
            _require_plain(info)
        budget = max(2**20, RATIO * len(packed))
        contents = []
        for info in infos:
            if any(part.startswith((".", "__MACOSX")) for part in PurePosixPath(info.filename).parts):
                continue
            most = min(limits.notebook_bytes, budget)
            with archive.open(info) as file:
                content = file.read(most + 1)  # what the header says of its size is only a promise
            if len(content) > budget:
                raise Refused(f"An archive unpacks to at most {RATIO} times its size: {_shown(info.filename)} is more.")
            budget -= len(content)
            contents.append((info, content if len(content) <= limits.notebook_bytes else None))
        yield from contents


def _mend_name(info: zipfile.ZipInfo) -> None:
    """A name in UTF-8 that the archive does not declare as such, as a Mac packs it; Windows' backslashes."""
    if not info.flag_bits & 0x800:
        with contextlib.suppress(UnicodeError):
            info.filename = info.filename.encode("cp437").decode("utf-8")
    info.filename = info.filename.replace("\\", "/")


def _require_plain(info: zipfile.ZipInfo) -> None:
    path, kind = PurePosixPath(info.filename), stat.S_IFMT(info.external_attr >> 16)
    if path.is_absolute() or ".." in path.parts or (path.parts and ":" in path.parts[0]):
        raise Refused(f"A member stays inside the archive: got {_shown(info.filename)}. Ask for a new archive.")
    if kind and not (stat.S_ISREG(info.external_attr >> 16) or stat.S_ISDIR(info.external_attr >> 16)):
        raise Refused(f"A member is a file or a folder: {_shown(info.filename)} is a link or a device.")
    if info.flag_bits & 1:
        raise Refused(f"An archive is not encrypted: {_shown(info.filename)} is. Unpack it and pack it anew.")


def _choose(members: list[Member], assignment: str) -> Member:
    """The newest file of the right name, or else the only notebook there is."""
    notebooks = [member for member in members if member[0].lower().endswith(".ipynb")]
    if not notebooks:
        names = ", ".join(sorted({_shown(name) for name, _, _ in members})) or "an empty folder"
        raise Refused(f"No notebook: wanted {assignment}.ipynb, got {names}. Ask for the notebook.")
    named = [member for member in notebooks if _AGAIN.sub("", member[0]).lower() == f"{assignment}.ipynb".lower()]
    candidates = named or notebooks
    if not named and len({name for name, _, _ in candidates}) > 1:
        names = ", ".join(sorted(_shown(name) for name, _, _ in candidates))
        raise Refused(f"One notebook a student: wanted {assignment}.ipynb, got {names}. Ask which one counts.")

    def age(member: Member) -> tuple[int, str]:
        again = _AGAIN.search(member[0])
        return (int(again[1] or again[2]) if again else 0, member[1])

    return max(candidates, key=age)


def _file(folder: Path, assignment: str, when: str, content: bytes, student: str, report: Collected) -> None:
    path = folder / f"{assignment}.ipynb"
    if path.is_file() and path.read_bytes() == content:
        report.unchanged.append(student)
        return
    stamp = folder / "timestamp.txt"
    before = (exchange_file(folder, stamp.name) or "").strip() if path.is_file() else ""
    if when and before > when:
        raise Refused(f"A newer one is there: wanted one of after {before}, got {when}. Delete {folder} to take it.")
    if when:  # first: a run that is killed here is made good by the next, which finds other bytes
        replace_file(stamp, when.encode())
    else:
        stamp.unlink(missing_ok=True)
    replace_file(path, content)


def _shown(name: str) -> str:
    """A name as it may be printed: nothing that moves a cursor, and not too long."""
    return "".join(letter if letter.isprintable() else "?" for letter in name)[:120]
