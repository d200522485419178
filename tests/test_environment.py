"""One environment, said in four places that agree; and a student's, which needs far less."""

import ast
import hashlib
import os
import re
import shutil
import subprocess
import sys
import tomllib
from importlib.metadata import PackageNotFoundError, distribution, packages_distributions
from pathlib import Path

import pytest
import yaml
from filelock import FileLock
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from course_lib.layout import course_dir

COURSE = course_dir(Path(__file__).parent)
PROJECT = tomllib.loads((COURSE / "pyproject.toml").read_text())["project"]
LOCK = {
    canonicalize_name(requirement.name): requirement
    for line in (COURSE / "requirements.txt").read_text().splitlines()
    if line.strip() and not line.startswith("#")
    for requirement in [Requirement(line)]
}
LEFT_OUT = {"torch", "py3nj", "pip"}  # see the head of requirements.txt
TORCH = "torch==2.13.0"


def version_in_lock(name):
    (pin,) = LOCK[canonicalize_name(name)].specifier
    assert pin.operator == "=="
    return pin.version


def installed(name):
    try:
        return distribution(name).version
    except PackageNotFoundError:
        return None


@pytest.mark.parametrize("extra", [None, *PROJECT["optional-dependencies"]])
def test_the_lock_satisfies_pyproject(extra):
    wanted = PROJECT["dependencies"] if extra is None else PROJECT["optional-dependencies"][extra]
    for requirement in map(Requirement, wanted):
        if requirement.name not in LEFT_OUT:
            assert requirement.specifier.contains(version_in_lock(requirement.name)), requirement


# What may be imported where: the dependencies, and these extras; the first line that fits counts.
EXTRAS_OF = {
    "course_lib/grading/": ["grading"],
    "course_lib/cli.py": ["grading"],
    "course_lib/sync.py": ["grading"],
    "course_lib/new_topic.py": ["grading"],
    "course_lib/layout.py": ["grading"],
    "course_lib/claims.py": ["book"],
    "course_lib/": ["escnn"],
    "book/_ext/": ["book", "dev"],  # `dev` for what drives a browser
    "tests/": list(PROJECT["optional-dependencies"]),
    "benchmarks/": list(PROJECT["optional-dependencies"]),
}
PYTHON_FILES = subprocess.run(
    ["git", "ls-files", "--cached", "--others", "--exclude-standard", "*.py"],
    cwd=COURSE,
    capture_output=True,
    text=True,
).stdout.split()


def imported(path):
    """The packages that a file imports, wherever in it."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name.partition(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and not node.level:
            yield node.module.partition(".")[0]
        elif isinstance(node, ast.Call) and ast.unparse(node.func).endswith(("import_module", "importorskip")):
            yield from (word.value.partition(".")[0] for word in node.args[:1] if isinstance(word, ast.Constant))


@pytest.mark.parametrize("place", EXTRAS_OF)
def test_what_is_imported_is_declared(place):
    """A package that only comes along with another one may go with it."""
    declared = [PROJECT["dependencies"], *(PROJECT["optional-dependencies"][extra] for extra in EXTRAS_OF[place])]
    known = {canonicalize_name(Requirement(text).name) for group in declared for text in group}
    own = {part for name in PYTHON_FILES for part in Path(name).with_suffix("").parts} | {"course_lib"}
    providers, astray = packages_distributions(), set()
    for name in PYTHON_FILES:
        if next((start for start in EXTRAS_OF if name.startswith(start)), None) != place:
            continue
        for package in set(imported(COURSE / name)) - own - sys.stdlib_module_names:
            if known.isdisjoint(canonicalize_name(provider) for provider in providers.get(package, [package])):
                astray.add(f"{name} imports {package}")
    assert astray == set()


def test_torch_is_one_version_everywhere():
    for name in ("Makefile", "requirements.txt", "environment.yml"):
        assert re.findall(r"torch==[\d.]+\d", (COURSE / name).read_text()) == [TORCH], name


@pytest.fixture
def place(tmp_path):
    """A clone's Makefile, in a folder with a space in its name."""
    folder = tmp_path / "my course"
    (folder / "tests").mkdir(parents=True)
    for name in ("one", "two"):
        (folder / "tests" / f"{name}.py").touch()
    for name in (".gitignore", "Makefile", "requirements.txt", "pyproject.toml"):
        shutil.copy(COURSE / name, folder)
    subprocess.run(["git", "init", "-q"], cwd=folder, check=True)
    subprocess.run(["git", "add", "-A"], cwd=folder, check=True)
    return folder


def make(place, *arguments):
    return subprocess.run(["make", *arguments], cwd=place, capture_output=True, text=True, check=True).stdout


def test_a_clone_may_lie_in_a_folder_with_a_space(place):
    commands = [
        line for line in make(place, "-n", ".venv/installed").splitlines() if line.startswith(("test", ".venv"))
    ]
    assert len(commands) == 4 and not [line for line in commands if "my course" in line]


def test_a_deleted_file_is_a_change(place):
    programs = place / ".venv" / "bin"
    programs.mkdir(parents=True)
    for name in ("ruff", "pytest", "chromium"):
        (programs / name).write_text(f"#!/bin/sh\necho {name} was run\n")
        (programs / name).chmod(0o755)
    (programs.parent / "installed").touch()
    assert "pytest was run" in make(place, "test")
    assert "pytest was run" not in make(place, "test")
    (place / "tests" / "two.py").unlink()
    assert "pytest was run" in make(place, "test")


def test_environment_yml_takes_the_lock():
    environment = yaml.safe_load((COURSE / "environment.yml").read_text())
    (pip,) = [entry["pip"] for entry in environment["dependencies"] if isinstance(entry, dict)]
    assert pip == ["-c requirements.txt", TORCH, "-r requirements.txt", "--editable ."]
    conda = {name for name in environment["dependencies"] if isinstance(name, str)}
    assert conda == {"python=3.11", "pip", "py3nj"}


def test_the_lock_is_complete():
    """Everything that a locked package asks for is locked: `pip install --no-deps` leaves nothing out."""
    missing = set()
    platforms = [
        {"extra": ""},
        {"extra": "", "sys_platform": "darwin", "platform_system": "Darwin", "os_name": "posix"},
    ]
    for name in LOCK:
        try:
            wanted = distribution(name).requires or []
        except PackageNotFoundError:
            continue  # for another platform
        for requirement in map(Requirement, wanted):
            applies = requirement.marker is None or any(map(requirement.marker.evaluate, platforms))
            if applies and canonicalize_name(requirement.name) not in LOCK.keys() | LEFT_OUT:
                missing.add(f"{name} needs {requirement.name}")
    assert missing == set()


def test_the_lock_leaves_out_what_it_says():
    assert LOCK.keys() & (LEFT_OUT | {"course-lib"}) == set()


def test_this_environment_is_the_lock():
    here = {name: installed(name) for name, requirement in LOCK.items() if requirement.marker is None}
    assert here == {name: version_in_lock(name) for name in here}


STUDENT = """
import importlib.util, sys
import numpy, torch
assert int(numpy.__version__.split(".")[0]) >= 2, numpy.__version__
for absent in ("escnn", "nbgrader", "jupyter_book", "typer", "yaml"):
    assert importlib.util.find_spec(absent) is None, absent
from course_lib import data, exercise, figures, norm_penalties, preconditions, training, widgets
model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 10))
penalty = lambda model, x, y: norm_penalties.l2_penalty(model.parameters(), 1e-3)
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
task = data.digits()
training.fit(model, training.batches(task.train, 64), optimizer, epochs=5, penalties=[penalty])
assert training.accuracy(model, task.test) > 0.8
widgets.explore(lambda size: figures.plt.figure(figsize=(size, 2)), size=[2, 3], alt="{size}")
print("a student can work, with numpy", numpy.__version__)
"""


@pytest.fixture(scope="session")
def student_python():
    """An environment with the package and no extras, as Colab would have it; kept while pyproject.toml stays."""
    key = hashlib.sha256((COURSE / "pyproject.toml").read_bytes()).hexdigest()[:12]
    home = Path(sys.prefix) / f"student-{key}"  # environments stand together, outside the course's own rooms
    python = home / "bin" / "python"
    with FileLock(f"{home}.lock"):
        if not (home / "ready").is_file():
            subprocess.run([sys.executable, "-m", "venv", "--clear", str(home)], check=True)
            install = [str(python), "-m", "pip", "install", "--quiet"]
            subprocess.run([*install, TORCH, "numpy>=2"], check=True)
            subprocess.run([*install, str(COURSE)], check=True, stdin=subprocess.DEVNULL)
            (home / "ready").touch()
    return python


def run_as_student(python, *arguments):
    environment = {key: value for key, value in os.environ.items() if not key.startswith(("PYTHON", "COURSE"))}
    return subprocess.run([str(python), *arguments], cwd="/", env=environment, capture_output=True, text=True)


@pytest.mark.xdist_group("student")
def test_a_student_needs_no_extras_and_may_have_numpy_2(student_python):
    library = COURSE / "course_lib"
    run = subprocess.run(
        [str(student_python), "-m", "pip", "install", "-q", "--no-deps", "--force-reinstall", str(COURSE)]
    )
    assert run.returncode == 0 and library.is_dir()
    done = run_as_student(student_python, "-c", STUDENT)
    assert done.returncode == 0, done.stderr


@pytest.mark.xdist_group("student")
def test_the_command_says_what_it_needs(student_python):
    done = run_as_student(student_python, "-m", "course_lib.cli")
    assert done.returncode == 1 and "course-lib[grading]" in done.stderr
