"""A class of twelve to try the grader on: every topic's own mutants and alternatives, handed in as notebooks.

Each student is a story: who solved what, by which version. The versions are those of ``tests/test_X.py``, so a new
topic has a sample class as soon as it has its tests.
"""

import ast
import copy
from pathlib import Path

import nbformat
from nbformat import NotebookNode

from course_lib.grading.excerpt import excerpt, mentioned
from course_lib.layout import course_dir, topic_files
from course_lib.sync import BEGIN, exercised, grading_metadata, solution_cell

SYNTAX_ERROR = "def this is not python:"
CRASH = "raise RuntimeError('the student forgot a case')"
LOOP = "while True:\n        pass"


def sample_class(topic: str, course: Path | None = None) -> dict[str, NotebookNode]:
    """Twelve submissions to a topic's exercise, by the student's name.

    Args:
        topic: the topic's name.
        course: the course's folder; found from the current folder if None.

    Returns:
        For each student a notebook that was made from the released one, as a student would.
    """
    course = course or course_dir()
    author = _Author(topic, course)
    tasks = author.tasks
    right = {task: author.reference(task) for task in tasks}
    slips = {task: author.version(task, "MUTANTS", 0) for task in tasks}
    third, last = tasks[len(tasks) // 2], tasks[-1]
    stories: dict[str, dict[str, str]] = {
        "ada_reference": right,
        "ben_another_way": {task: author.version(task, "ALTERNATIVES", 0) for task in tasks},
        "cleo_a_third_way": {task: author.version(task, "ALTERNATIVES", 1) for task in tasks},
        "dan_extra_cells": right,
        "eva_first_half": {task: right[task] for task in tasks[: len(tasks) // 2]},
        "finn_slips_in_every_other": {task: (right, slips)[i % 2][task] for i, task in enumerate(tasks)},
        "gil_one_slip_at_the_end": right | {last: author.version(last, "MUTANTS", 1)},
        "hana_all_slips": slips,
        "ivan_blank": {},
        "jo_syntax_error": right | {third: SYNTAX_ERROR},
        "kim_crash": right | {last: author.body(last, CRASH)},
        "lea_infinite_loop": right | {third: author.body(third, LOOP)},
    }
    notebooks = {student: author.hand_in(cells) for student, cells in stories.items()}
    _add_cells(notebooks["dan_extra_cells"])
    return notebooks


def write_sample_class(topic: str, course: Path | None = None) -> list[Path]:
    """Put the sample class where nbgrader looks for submissions: ``submitted/<student>/<topic>/<topic>.ipynb``.

    Args:
        topic: the topic's name.
        course: the course's folder; found from the current folder if None.

    Returns:
        The files; one that already has the right bytes is left untouched.
    """
    course = course or course_dir()
    paths = []
    for student, notebook in sample_class(topic, course).items():
        path = course / "submitted" / student / topic / f"{topic}.ipynb"
        text = nbformat.writes(notebook) + "\n"
        if not path.is_file() or path.read_text("utf-8") != text:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8")
        paths.append(path)
    return paths


class _Author:
    """Writes the cells of submissions to one topic."""

    def __init__(self, topic: str, course: Path):
        files = topic_files(topic, course)
        self.tasks = exercised(topic, course)
        self.library = files.module.read_text(encoding="utf-8")
        self.tests = files.tests.read_text(encoding="utf-8")
        self.released = nbformat.read(files.exercise, as_version=4)

    def reference(self, task: str) -> str:
        lines = solution_cell(self.library, task).splitlines()
        return "\n".join(line for line in lines if not line.strip().startswith("### "))

    def body(self, task: str, body: str) -> str:
        """The given lines of a task, and then a body."""
        given = solution_cell(self.library, task).partition(f"    {BEGIN}")[0]
        return f"{given}    {body}"

    def version(self, task: str, kind: str, index: int) -> str:
        """A mutant or an alternative of the tests as a student would hand it in."""
        expression = self._expressions(task, kind)[index]
        leaning = excerpt(self.tests, mentioned(expression))
        call = f"return ({expression})({', '.join(self._parameters(task))})"
        return "\n\n".join(part for part in (leaning, self.body(task, call)) if part)

    def _expressions(self, task: str, kind: str) -> list[str]:
        """The texts of the versions of a task, read from the dictionary of that name in the tests module."""
        assignments = [node for node in ast.parse(self.tests).body if isinstance(node, ast.Assign)]
        by_task = next(node.value for node in assignments if ast.unparse(node.targets[0]) == kind)
        versions = {ast.literal_eval(key): value for key, value in zip(by_task.keys, by_task.values, strict=True)}
        return [ast.unparse(version) for version in versions[task].values]

    def _parameters(self, task: str) -> list[str]:
        functions = [node for node in ast.parse(self.library).body if isinstance(node, ast.FunctionDef)]
        return [argument.arg for argument in next(f for f in functions if f.name == task).args.args]

    def hand_in(self, cells: dict[str, str]) -> NotebookNode:
        """The released notebook with some solution cells filled in."""
        notebook = copy.deepcopy(self.released)
        for cell in notebook.cells:
            cell.source = cells.get(grading_metadata(cell).get("grade_id", ""), cell.source)
        return notebook


def _add_cells(notebook: NotebookNode) -> None:
    """Scratch work between the tasks, as students leave it."""
    notes = nbformat.v4.new_markdown_cell("My notes: *check the sign again.*", id="notes")
    scratch = nbformat.v4.new_code_cell("x = torch.linspace(-2, 2, 5)\nprint('x is', x)\nx", id="scratch")
    notebook.cells[4:4] = [notes, scratch]
