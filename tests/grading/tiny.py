"""A course of one small exercise in the contract's form: three tasks, two points each."""

import base64
import copy
import json
import shutil
from pathlib import Path

import course_lib

NAME = "averages"

LIBRARY = '''"""The answers of the exercise, which a sandbox must not show."""


def mean_square(x):
    """Mean of the squares."""
    return (x**2).mean()


def centred(x):
    """Without the mean."""
    return x - x.mean()


def clipped(x, limit):
    """At most as long as the limit."""
    return x * (limit / x.norm()).clamp(max=1.0)
'''

CHECKS = '''"""What must be true of the tasks in averages."""

import numpy as np
import torch

WANTED_SHARPNESS = 1e-6  # a tolerance of verify: must never travel


def draw(seed):
    """An array that only the seed knows."""
    return np.random.default_rng(seed).normal(size=3 + seed % 5).astype("float32")


def close(got, wanted, what):
    """Compare."""
    assert got.shape == np.shape(wanted), f"{what} has the wrong shape"
    assert np.allclose(got, wanted, atol=1e-5), f"{what} is {got}, wanted {wanted}: is it a mean, not a sum?"


def probe_mean_square(implementation, seed):
    """Call it."""
    drawn_for_the_hidden_test = torch.tensor(draw(seed))
    return {"value": implementation(drawn_for_the_hidden_test).detach().numpy()}


def verify_mean_square(arrays, seed):
    """Decide."""
    close(arrays["value"], (draw(seed).astype("float64") ** 2).mean(), "the mean of squares")


def probe_centred(implementation, seed):
    """Call it."""
    drawn_for_the_hidden_test = torch.tensor(draw(seed))
    return {"value": implementation(drawn_for_the_hidden_test).detach().numpy()}


def verify_centred(arrays, seed):
    """Decide."""
    close(arrays["value"], draw(seed) - draw(seed).mean(), "the centred tensor")


def probe_clipped(implementation, seed):
    """Call it."""
    drawn_for_the_hidden_test = torch.tensor(draw(seed))
    return {str(limit): implementation(drawn_for_the_hidden_test, limit).numpy() for limit in (0.5, 100.0)}


def verify_clipped(arrays, seed):
    """Decide."""
    x = draw(seed)
    close(arrays["0.5"], x * min(0.5 / np.linalg.norm(x), 1.0), "a long vector, clipped,")
    close(arrays["100.0"], x, "a short vector")
'''

SETUP = f"""from course_lib.exercise import begin
begin("{NAME}")
import torch"""

STUBS = {
    "mean_square": "def mean_square(x):\n    # YOUR CODE HERE\n    raise NotImplementedError()",
    "centred": "def centred(x):\n    # YOUR CODE HERE\n    raise NotImplementedError()",
    "clipped": "def clipped(x, limit):\n    # YOUR CODE HERE\n    raise NotImplementedError()",
}
RIGHT = {
    "mean_square": "def mean_square(x):\n    return (x ** 2).mean()",
    "centred": "def centred(x):\n    return x - x.mean()",
    "clipped": "def clipped(x, limit):\n    return x * (limit / x.norm()).clamp(max=1.0)",
}
WRONG = {
    "mean_square": "def mean_square(x):\n    return (x ** 2).sum()",
    "centred": "def centred(x):\n    return x",
    "clipped": "def clipped(x, limit):\n    return x * limit",
}
VISIBLE = {
    "mean_square": """# The mean of squares of (1, 2, 3) is 14/3.
value = mean_square(torch.tensor([1.0, 2.0, 3.0]))
assert abs(value.item() - 14 / 3) < 1e-6, "mean, not sum\"""",
    "centred": """# What is centred has mean zero.
centre = centred(torch.tensor([1.0, 2.0, 6.0]))
assert torch.allclose(centre, torch.tensor([-2.0, -1.0, 3.0])), "subtract the mean\"""",
    "clipped": """# A vector of length 5 is clipped to length 1.
short = clipped(torch.tensor([3.0, 4.0]), 1.0)
assert torch.allclose(short, torch.tensor([0.6, 0.8])), "scale by limit / norm\"""",
}


def _cell(kind, name, source, **marks):
    nbgrader = {"grade": False, "solution": False, "locked": True, "task": False, "schema_version": 3, **marks}
    cell = {"cell_type": kind, "id": name, "source": source, "metadata": {"nbgrader": {"grade_id": name, **nbgrader}}}
    return cell | ({"outputs": [], "execution_count": None} if kind == "code" else {})


def _hidden(task):
    call = f'from course_lib.grading.hidden import check\ncheck("{NAME}", "{task}", {task})'
    return f"\n### BEGIN HIDDEN TESTS\n{call}\n### END HIDDEN TESTS"


def notebook(solutions=STUBS, hidden=False):
    """The exercise with some solutions filled in."""
    cells = [_cell("markdown", "title", "# Averages"), _cell("code", "setup", SETUP)]
    for task in STUBS:
        cells.append(_cell("markdown", f"task_{task}", f"## Write {task}"))
        cells.append(_cell("code", task, solutions[task], solution=True, locked=False))
        source = VISIBLE[task] + (_hidden(task) if hidden else "")
        cells.append(_cell("code", f"test_{task}", source, grade=True, points=2))
    kernel = {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}}
    return {"cells": copy.deepcopy(cells), "metadata": kernel, "nbformat": 4, "nbformat_minor": 5}


def fenced(solution):
    """A right solution as the source notebook has it."""
    head, _, body = solution.partition("\n")
    return f"{head}\n    ### BEGIN SOLUTION\n{body}\n    ### END SOLUTION"


def own(source, kind="code"):
    """A student's own cell."""
    cell = {"cell_type": kind, "id": "mine", "metadata": {}, "source": source}
    return cell | ({"outputs": [], "execution_count": None} if kind == "code" else {})


def find(book, name):
    """A cell by its name."""
    return next(cell for cell in book["cells"] if cell["id"] == name)


def write_course(root):
    """Lay out the course; nothing is submitted yet."""
    root = Path(root)
    ignored = shutil.ignore_patterns("__pycache__")
    shutil.copytree(Path(course_lib.__file__).parent, root / "course_lib", ignore=ignored)
    (root / "course_lib" / f"{NAME}.py").write_text(LIBRARY)
    write_json(root / "exercises" / NAME / f"{NAME}.ipynb", notebook())
    source = notebook({task: fenced(RIGHT[task]) for task in RIGHT}, hidden=True)
    write_json(root / "solutions" / NAME / f"{NAME}.ipynb", source)
    (root / "tests" / "checks").mkdir(parents=True)
    (root / "tests" / "checks" / f"{NAME}.py").write_text(CHECKS)
    return root


def write_json(path, content):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))


def submit(root, student, book):
    """Hand in a notebook; returns the folder."""
    folder = Path(root) / "submitted" / student / NAME
    write_json(folder / f"{NAME}.ipynb", book)
    return folder


def packed(book):
    """A submission of one notebook, packed."""
    raw = base64.b64encode(json.dumps(book).encode()).decode()
    return json.dumps({"notebook": raw, "trouble": None, "files": {}, "dropped": [], "renamed": None}).encode()
