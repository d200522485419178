"""The instructor's guide: its commands exist, and its lists are those of the code."""

import ast
import re
import shlex

import pytest
import typer
from grading.test_sample_class import COURSE
from typer.testing import CliRunner

from course_lib.cli import app
from course_lib.grading.grade_one import STATUSES
from course_lib.grading.limits import Limits, MiB
from course_lib.layout import topics

GUIDE = (COURSE / "book" / "teaching.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```bash\n(.*?)^```", GUIDE, flags=re.MULTILINE | re.DOTALL)
COMMANDS = [line for block in BLOCKS for line in block.splitlines() if line.startswith("course ")]
GRADING = COURSE / "course_lib" / "grading"


def table_below(heading):
    """The first column of the table below a heading, and the second."""
    section = GUIDE.partition(f"\n### {heading}\n")[2].partition("\n#")[0]
    rows = [line.strip("| ").split(" | ") for line in section.splitlines() if line.startswith("|")]
    return {row[0].strip("`"): row[1] for row in rows[2:]}


def test_the_guide_shows_commands():
    names = {shlex.split(line)[1] for line in COMMANDS}
    assert names >= {"sync", "check-grader", "release", "collect", "grade", "feedback", "export"}


@pytest.mark.parametrize("line", COMMANDS)
def test_every_command_of_the_guide_parses(line):
    _, name, *arguments = shlex.split(line)
    command = typer.main.get_command(app).commands[name]
    command.make_context(name, list(arguments), resilient_parsing=False).close()
    shown = CliRunner().invoke(app, [name, "--help"], env={"COLUMNS": "200", "NO_COLOR": "1", "TERM": "dumb"}).stdout
    options = [word.partition("=")[0] for word in arguments if word.startswith("--")]
    assert [option for option in options if option not in shown] == []
    assert not set(arguments).isdisjoint(topics(COURSE)) or name == "sync"


def test_the_options_of_grade_are_all_there():
    section = GUIDE.partition("\n## Grade\n")[2].partition("\n### ")[0]
    told = set(re.findall(r"^\| `(--[a-z]+)", section, flags=re.MULTILINE))
    grade = typer.main.get_command(app).commands["grade"]
    known = {option for parameter in grade.params for option in parameter.opts if option.startswith("--")}
    assert told == known - {"--help"}


def test_statuses_are_those_of_the_code():
    assert list(table_below("Statuses")) == list(STATUSES)


def flag_kinds():
    """Every kind that the grader's source gives to a flag: the first argument of Flag(...) and of ....flag(...)."""
    for path in sorted(GRADING.glob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and ast.unparse(node.func).rpartition(".")[2] in ("Flag", "flag"):
                first = node.args[0]
                choices = [first.body, first.orelse] if isinstance(first, ast.IfExp) else [first]
                yield from (choice.value for choice in choices if isinstance(choice, ast.Constant))


def test_flags_are_those_of_the_code():
    assert set(table_below("Flags")) == set(flag_kinds())


def test_limits_are_those_of_the_code():
    limits = Limits()
    assert table_below("Limits") == {
        "one cell": f"{limits.cell_seconds:g} s",
        "whole notebook": f"{limits.notebook_seconds:g} s",
        "memory, of one process and of all together": f"{limits.memory_bytes // MiB} MiB",
        "processes and threads": f"{limits.processes}",
        "one file, and each scratch folder": f"{limits.file_bytes // MiB} MiB",
        "open files of one process": f"{limits.open_files}",
        "output of the notebook": f"{limits.output_bytes // MiB} MiB",
        "output of one cell that is kept for the feedback": f"{limits.recorded_bytes} bytes",
        "arrays that one hidden test may bring back": f"{limits.evidence_bytes // MiB} MiB",
        "size of the notebook": f"{limits.notebook_bytes // MiB} MiB",
        "cells": f"{limits.cells}",
    }
