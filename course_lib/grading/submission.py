"""Pack what a student handed in, taking only what may travel, and read it again without trusting any of it."""

from __future__ import annotations

import base64
import json
import stat
from dataclasses import dataclass, field
from pathlib import Path

from course_lib.grading.bundle import grade_id
from course_lib.grading.limits import Limits

KINDS = ("code", "markdown", "raw")
DATA_SUFFIXES = {".csv", ".txt", ".png", ".jpg", ".jpeg"}
DATA_BYTES = 5 * 2**20
DATA_FILES = 50
_SYSTEM = {".DS_Store", "Thumbs.db", "desktop.ini", "__pycache__", ".ipynb_checkpoints"}
EXCHANGE_FILES = ("timestamp.txt", "submission_secret.txt")  # the exchange's own: new at every hand-in
_IGNORED = _SYSTEM | set(EXCHANGE_FILES)


class Unreadable(ValueError):
    """A submission has no notebook that can be read; `status` says which way."""

    def __init__(self, status: str, message: str) -> None:
        """Keep a status of `course_lib.grading.grade_one` and a sentence for the student."""
        super().__init__(message)
        self.status = status


@dataclass(frozen=True)
class Cell:
    """A submitted cell: its kind, its text, the name it claims, and the metadata it carries."""

    kind: str
    source: str
    name: str
    metadata: dict = field(default_factory=dict)


def exchange_file(folder: Path, name: str) -> str | None:
    """Read one of the small files that nbgrader's exchange puts beside a submission; never through a link.

    Args:
        folder: `submitted/<student>/<assignment>`.
        name: one of `EXCHANGE_FILES`.

    Returns:
        Its text, at most 1000 characters; None if it is missing or no plain text file.
    """
    path = folder / name
    if path.is_symlink() or not path.is_file():
        return None
    try:
        with path.open(encoding="utf-8") as file:
            return file.read(1000)
    except (OSError, UnicodeDecodeError):
        return None


def pack(folder: str | Path, assignment: str, limits: Limits | None = None) -> bytes:
    """Pack a submission's folder: its notebook and small data files, no links, no code beside the notebook.

    Args:
        folder: `submitted/<student>/<assignment>`.
        assignment: name of the assignment.
        limits: sizes.

    Returns:
        JSON bytes, equal for equal folders; never fails on what the folder holds.
    """
    limits = limits or Limits()
    packed: dict = {"notebook": None, "trouble": None, "files": {}, "dropped": [], "renamed": None}
    try:
        files = _regular_files(Path(folder), packed["dropped"])
        notebook = _choose_notebook(files, assignment, packed)
        if notebook is not None:
            _pack_notebook(notebook, limits, packed)
        _pack_data([path for path in files if path.suffix != ".ipynb"], packed)
    except OSError as error:
        packed["trouble"] = ["unreadable", f"A file cannot be read: {error.strerror}."]
    return json.dumps(packed, sort_keys=True).encode()


def _regular_files(folder: Path, dropped: list[str]) -> list[Path]:
    found = []
    for path in sorted(folder.iterdir()) if folder.is_dir() and not folder.is_symlink() else []:
        mode = path.lstat().st_mode
        if path.name in _IGNORED:
            continue
        if stat.S_ISREG(mode):
            found.append(path)
        else:
            dropped.append(f"{_printable(path.name)} ({_kind(mode)})")
    return found


def _kind(mode: int) -> str:
    return "link" if stat.S_ISLNK(mode) else "folder" if stat.S_ISDIR(mode) else "special file"


def _printable(name: str) -> str:
    return name.encode("ascii", "backslashreplace").decode()[:100]


def _choose_notebook(files: list[Path], assignment: str, packed: dict) -> Path | None:
    notebooks = [path for path in files if path.suffix == ".ipynb"]
    exact = [path for path in notebooks if path.name == f"{assignment}.ipynb"]
    if exact or len(notebooks) == 1:
        chosen = (exact or notebooks)[0]
        packed["renamed"] = None if exact else _printable(chosen.name)
        return chosen
    found = ", ".join(_printable(path.name) for path in notebooks) or "none"
    packed["trouble"] = ["missing", f"Wanted the notebook {assignment}.ipynb, found {found}."]
    return None


def _pack_notebook(path: Path, limits: Limits, packed: dict) -> None:
    size = path.lstat().st_size
    if size > limits.notebook_bytes:
        allowed = limits.notebook_bytes // 2**20
        packed["trouble"] = ["too large", f"The notebook has {size / 2**20:.0f} MB, at most {allowed} are read."]
        return
    packed["notebook"] = base64.b64encode(path.read_bytes()).decode()


def _pack_data(files: list[Path], packed: dict) -> None:
    room = DATA_BYTES
    for path in files:
        size = path.lstat().st_size
        small = path.suffix.lower() in DATA_SUFFIXES and size <= room and len(packed["files"]) < DATA_FILES
        if small and path.name.isprintable():  # under the name by which the notebook opens it
            packed["files"][path.name] = base64.b64encode(path.read_bytes()).decode()
            room -= size
        else:
            packed["dropped"].append(f"{_printable(path.name)} (not a small data file)")


def read_cells(packed: dict, limits: Limits) -> list[Cell]:
    """Read the submitted notebook's cells.

    Args:
        packed: the JSON of `pack`.
        limits: the number of cells.

    Returns:
        Its cells.

    Raises:
        Unreadable: if there is no notebook, or it is not one.
    """
    if packed["trouble"]:
        raise Unreadable(*packed["trouble"])
    raw = base64.b64decode(packed["notebook"])
    try:
        content = json.loads(raw.decode("utf-8-sig"))
    except UnicodeDecodeError:
        raise Unreadable("unreadable", "The notebook is not UTF-8 text.") from None
    except (ValueError, RecursionError) as error:  # the first also for a number of more digits than Python reads
        raise Unreadable("unreadable", f"The notebook is not valid JSON: {type(error).__name__}.") from None
    cells = _cells(content)
    if len(cells) > limits.cells:
        raise Unreadable("too large", f"The notebook has {len(cells)} cells, at most {limits.cells} are run.")
    return cells


def _cells(content: object) -> list[Cell]:
    if isinstance(content, dict) and isinstance(content.get("worksheets"), list) and content["worksheets"]:
        content = content["worksheets"][0]  # notebooks of before 2015
    listed = content.get("cells") if isinstance(content, dict) else None
    if not isinstance(listed, list):
        raise Unreadable("unreadable", "The file is JSON but not a notebook: it has no list of cells.")
    return [_cell(raw) for raw in listed if isinstance(raw, dict) and raw.get("cell_type") in KINDS]


def _cell(raw: dict) -> Cell:
    source = raw.get("source", raw.get("input", ""))
    if isinstance(source, list):
        source = "".join(part for part in source if isinstance(part, str))
    source = source if isinstance(source, str) else ""
    metadata = raw.get("metadata") if isinstance(raw.get("metadata"), dict) else {}
    # Some front ends drop nbgrader's metadata; the released cells' ids are their grade_ids.
    candidates = (grade_id(raw), raw.get("id"), metadata.get("id"))
    name = next((name for name in candidates if isinstance(name, str) and name), "")
    kind = "code" if raw["cell_type"] == "code" else "markdown"  # raw text is text
    return Cell(kind, source.encode("utf-8", "replace").decode("utf-8"), name, metadata)
