"""Numbers in prose come from runs: name a value in a code cell, write the name in the text."""

import json
from pathlib import Path

from course_lib.figures import in_book

# Where stored studies are: with an installed package, and in a clone.
RESULTS = (Path(__file__).parent / "results", Path(__file__).resolve().parents[1] / "benchmarks" / "results")


def claim(**values: object) -> None:
    """Give results names that the chapter's text can quote, as ``{glue:text}`name:.2f```.

    In the book the values are handed to the text; elsewhere they are printed, so that whoever runs the cell sees what
    the text says.

    Args:
        **values: numbers or short strings, by a name that is unique in the chapter. The page sets 3e-07 as a power.

    >>> claim(error=12.5, rounding="3e-07")
    error = 12.5
    rounding = 3e-07
    """
    for name, value in values.items():
        if in_book():
            from myst_nb import glue  # only the book's environment has it

            glue(name, value, display=False)
        else:
            print(f"{name} = {value}")


def study(name: str) -> dict:
    """Read a study that ``benchmarks/<name>.py`` ran and stored.

    The published page lists the runs of every study that a chapter reads, with seeds, commit, machine and date.

    Args:
        name: the study's name, for example ``"ledger"``.

    Returns:
        ``{"about": the setting, "data": what was used, "runs": {key: {"values": ..., and where it came from}}}``.

    Raises:
        FileNotFoundError: no such study is stored.

    >>> sorted(study("ledger"))
    ['about', 'data', 'runs']
    """
    for folder in RESULTS:
        if (path := folder / f"{name}.json").is_file():
            return json.loads(path.read_text(encoding="utf-8"))
    known = sorted({path.stem for folder in RESULTS for path in folder.glob("*.json")})
    raise FileNotFoundError(
        f"a study must have been run: wanted one of {', '.join(known) or 'none yet'}, got {name!r}. "
        f"Run benchmarks/{name}.py, or install the course's package anew."
    )
