"""The parts by themselves: what travels, what is rebuilt, what is believed."""

import base64
import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from grading import tiny
from grading.tiny import CHECKS, NAME, RIGHT, WRONG, find, notebook, own

from course_lib.grading import hidden, sandbox, witness
from course_lib.grading.bundle import Bundle, build, filtered_library
from course_lib.grading.evidence import BadEvidence, decode, judge, load, without_values
from course_lib.grading.forkserver import preloads
from course_lib.grading.grade_one import STATUSES
from course_lib.grading.limits import Limits
from course_lib.grading.probes import ChecksError, hidden_task, probe_source
from course_lib.grading.rebuild import ABSENT, rebuild
from course_lib.grading.submission import EXCHANGE_FILES, Unreadable, exchange_file, pack, read_cells
from course_lib.grading.suspicion import suspicious

# --- probes -----------------------------------------------------------------------------------------------------


def test_a_probe_travels_without_verify_comments_and_docstrings():
    source = probe_source(CHECKS, "centred")
    assert "def probe_centred" in source and "def draw(" in source and "import torch" in source
    for absent in ("verify", "close", "WANTED", "clipped", "#", '"""', "Call it"):
        assert absent not in source
    namespace = {}
    exec(source, namespace)
    assert set(namespace["probe_centred"](lambda x: x, 3)) == {"value"}


def test_a_probe_that_reaches_verify_is_refused():
    checks = "def verify_a(arrays, seed): pass\ndef probe_a(f, seed): return {'x': verify_a}"
    with pytest.raises(ChecksError, match="reaches"):
        probe_source(checks, "a")


def test_half_a_check_is_refused():
    with pytest.raises(ChecksError, match="missing verify_a"):
        probe_source("def probe_a(f, seed): pass", "a")


@pytest.mark.parametrize(
    "block",
    [
        'check("averages", "centred", centred)\nassert secret == 3',
        'check("other", "centred", centred)',
        'check("averages", "centred", mean_square)',
        'check("averages", "centredrows", centred)',
        "assert centred(1) == 2",
    ],
)
def test_a_hidden_block_that_would_not_run_is_refused(block):
    with pytest.raises(ChecksError, match="one call check"):
        hidden_task(f"x = 1\n### BEGIN HIDDEN TESTS\n{block}\n### END HIDDEN TESTS", NAME)


def test_a_hidden_block_names_its_task():
    assert hidden_task(find(notebook(hidden=True), "test_centred")["source"], NAME) == ("centred", "centred")
    block = '### BEGIN HIDDEN TESTS\ncheck("averages", "centred_rows", centred)\n### END HIDDEN TESTS'
    assert hidden_task(block, NAME) == ("centred_rows", "centred")
    assert hidden_task("assert True", NAME) is None


# --- bundle and submission --------------------------------------------------------------------------------------


def test_a_bundle_survives_the_journey_and_is_the_same_every_time(course):
    first, second = build(course, NAME), build(course, NAME)
    assert first.pack() == second.pack() and Bundle.unpack(first.pack()) == first
    assert first.max_score == 6.0 and [test.claim for test in first.tests][1] == "What is centred has mean zero."


def test_without_solutions_the_names_say_what_is_hidden(course, tmp_path):
    import shutil

    root = tmp_path / "public"
    shutil.copytree(course, root, ignore=shutil.ignore_patterns("solutions", "submitted"))
    assert [test.task for test in build(root, NAME).tests] == list(RIGHT)


def test_a_release_whose_cells_the_source_no_longer_has_is_refused(course, tmp_path):
    root = tmp_path / "course"
    shutil.copytree(course, root, ignore=shutil.ignore_patterns("submitted"))
    path = root / "solutions" / NAME / f"{NAME}.ipynb"
    path.write_text(path.read_text().replace("test_centred", "test_centring"))
    with pytest.raises(ChecksError, match="lacks test_centred.*course release"):
        build(root, NAME)


def test_the_library_travels_without_answer_grader_and_command(course):
    names = set(filtered_library(course / "course_lib", NAME))
    assert {"course_lib/exercise.py", "course_lib/grading/cage.py", "course_lib/grading/witness.py"} <= names
    assert not names & {f"course_lib/{NAME}.py", "course_lib/cli.py", "course_lib/grading/evidence.py"}
    assert f"course_lib/{NAME}.py" in filtered_library(course / "course_lib", "another")


def test_only_small_data_travels(tmp_path):
    folder = tiny.submit(tmp_path, "ann", notebook(RIGHT))
    (folder / "data.csv").write_text("1")
    (folder / "größe, neu.csv").write_text("2")
    (folder / f"{'long' * 30}.csv").write_text("3")
    (folder / "torch.py").write_text("")
    (folder / ".DS_Store").write_text("")
    (folder / "big.csv").write_bytes(b"1" * (6 << 20))
    (folder / "link.csv").symlink_to("/etc/passwd")
    (folder / "deep").mkdir()
    packed = json.loads(pack(folder, NAME))
    assert set(packed["files"]) == {"data.csv", "größe, neu.csv", f"{'long' * 30}.csv"}
    assert [name.split()[0] for name in packed["dropped"]] == ["deep", "link.csv", "big.csv", "torch.py"]
    assert read_cells(packed, Limits())[3].name == "mean_square"


def test_equal_folders_pack_equally(tmp_path):
    assert pack(tiny.submit(tmp_path, "a", notebook(RIGHT)), NAME) == pack(
        tiny.submit(tmp_path, "b", notebook(RIGHT)), NAME
    )
    assert pack(tmp_path / "nowhere", NAME) != pack(tiny.submit(tmp_path, "a", notebook(WRONG)), NAME)


def test_old_notebooks_are_read():
    old = {"worksheets": [{"cells": [{"cell_type": "code", "input": ["x = ", "1"], "metadata": {}}]}]}
    packed = {"trouble": None, "notebook": base64.b64encode(json.dumps(old).encode()).decode()}
    assert read_cells(packed, Limits())[0].source == "x = 1"


@pytest.mark.parametrize("raw", [b"[" * 100_000, b'{"cells": [], "n": ' + b"1" * 5000 + b"}", b"\xff", b"[]"])
def test_what_is_no_notebook_is_unreadable_and_no_trouble_of_the_grader(raw):
    with pytest.raises(Unreadable):
        read_cells({"trouble": None, "notebook": base64.b64encode(raw).decode()}, Limits())


def test_a_mark_of_the_byte_order_is_skipped():
    raw = b"\xef\xbb\xbf" + json.dumps(notebook(RIGHT)).encode()
    assert read_cells({"trouble": None, "notebook": base64.b64encode(raw).decode()}, Limits())


def test_exchange_files_are_plain_files(tmp_path):
    (tmp_path / "timestamp.txt").mkdir()
    (tmp_path / "submission_secret.txt").symlink_to("/etc/passwd")
    before = len(list(Path("/proc/self/fd").iterdir()))
    assert [exchange_file(tmp_path, name) for name in EXCHANGE_FILES] == [None, None]
    assert len(list(Path("/proc/self/fd").iterdir())) == before


def test_limits_are_positive():
    with pytest.raises(ValueError, match="cell_seconds"):
        Limits(cell_seconds=0)


# --- rebuild ----------------------------------------------------------------------------------------------------


def rebuilt(course, book):
    packed = json.loads(tiny.packed(book))
    return rebuild(build(course, NAME), read_cells(packed, Limits()))


def test_own_cells_stay_where_they_were(course):
    book = notebook(RIGHT)
    book["cells"].insert(4, own("x = 1"))
    book["cells"].insert(0, own("y = 2"))
    steps, flags = rebuilt(course, book)
    order = [step.name or step.source for step in steps]
    assert order[0] == "y = 2" and order[order.index("mean_square") + 1] == "x = 1" and flags == []


def test_only_solutions_are_taken(course):
    book = notebook(RIGHT)
    for cell in book["cells"]:
        cell["metadata"]["tags"] = ["skip-execution"]
        if cell["id"] not in RIGHT:
            cell["source"] = "raise SystemExit"
    steps, flags = rebuilt(course, book)
    assert [step.source for step in steps if not step.own] == [
        cell["source"] for cell in notebook()["cells"] if cell["id"] not in RIGHT
    ]
    assert {flag.kind for flag in flags} == {"changed metadata", "edited cell", "edited test"}


def test_a_missing_solution_is_empty_so_that_a_moved_one_counts(course):
    book = notebook(RIGHT)
    cell = find(book, "centred")
    cell.update(id="moved", metadata={})
    steps, _ = rebuilt(course, book)
    assert [step.source for step in steps if step.name == "centred"] == [ABSENT]
    assert RIGHT["centred"] in [step.source for step in steps if not step.name]


# --- evidence ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("value", [np.arange(6.0).reshape(2, 3), np.array(3), np.array("ValueError"), np.zeros((0, 2))])
def test_arrays_come_out_as_they_went_in(value):
    (found,) = decode(json.loads(json.dumps(witness._encode({"x": value})))).values()
    assert found.dtype == value.dtype and np.array_equal(found, value)


@pytest.mark.parametrize(
    "field",
    [
        {"dtype": "O"},
        {"dtype": "f4,f4"},
        {"dtype": "(2,)f4"},
        {"shape": [-1]},
        {"shape": [10**12]},
        {"shape": "no"},
        {"data": "%%%"},
        {"data": None},
        {"extra": 1},
        {"dtype": ["f4"]},
    ],
)
def test_nothing_but_arrays_comes_out(field):
    good = {"dtype": "<f4", "shape": [1], "data": base64.b64encode(b"1234").decode()}
    assert decode({"x": good})["x"].shape == (1,)
    with pytest.raises(BadEvidence):
        decode({"x": good | field})


@pytest.mark.parametrize("encoded", [None, [], "x", {"x": 3}, {"x": {}}])
def test_other_shapes_of_evidence_are_refused(encoded):
    with pytest.raises(BadEvidence):
        decode(encoded)


def test_judge_wants_every_seed_and_hides_numbers():
    checks = load(CHECKS, NAME)
    right = [{"value": np.float32((tiny_draw(checks, seed) ** 2).mean())} for seed in (1, 2)]
    assert judge(checks, "mean_square", right, [1, 2]) == ""
    assert "…" in judge(checks, "mean_square", right, [1, 3])
    assert "form" in judge(checks, "mean_square", [{}], [1])


def tiny_draw(checks, seed):
    return checks.draw(seed).astype("float64")


def test_messages_lose_arrays_and_decimals():
    numpy_says = ""
    try:
        np.testing.assert_allclose([1.0, 2.0], [1.0, 2.5], err_msg="the gradient is off")
    except AssertionError as error:
        numpy_says = without_values(str(error))
    assert numpy_says == "the gradient is off"
    assert without_values("got tensor([1., 2.]) not [3, 4], shape (3, 4)") == "got … not …, shape (3, 4)"


# --- suspicion --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "source",
    [
        *RIGHT.values(),
        "import torch, numpy as np, math, os, time\ntorch.manual_seed(0)\ntorch.backends.cudnn.benchmark = True",
        "%matplotlib inline\n!pip install tqdm\nimport matplotlib.pyplot as plt\nplt.plot([1])",
        "os.environ['KMP_DUPLICATE_LIB_OK'] = 'TRUE'",
        "this is not python",
        "class Net(torch.nn.Module):\n    def forward(self, x): return x",
    ],
)
def test_ordinary_work_is_not_suspicious(source):
    assert suspicious(source, NAME) == []


@pytest.mark.parametrize(
    "source",
    [
        "import socket",
        "from course_lib.averages import centred",
        "from course_lib import averages",
        "torch.allclose = print",
        "setattr(torch, 'allclose', print)",
        "os._exit(0)",
        "get_ipython().ast_transformers.append(1)",
        "open('../solutions/averages')",
        "sys.modules.pop('x')",
        "class A:\n    def __eq__(self, other): return True",
        f"torch{'.a' * 1500} = 1",
    ],
)
def test_odd_work_is(source):
    assert suspicious(source, NAME)


# --- hidden tests under plain nbgrader ---------------------------------------------------------------------------


def test_check_runs_the_pair(course, monkeypatch):
    monkeypatch.setenv("COURSE_CHECKS", str(course / "tests" / "checks"))
    hidden.check(NAME, "centred", lambda x: x - x.mean())
    with pytest.raises(AssertionError, match="the centred tensor"):
        hidden.check(NAME, "centred", lambda x: x)
    with pytest.raises(AttributeError, match="lacks probe_nothing, verify_nothing"):
        hidden.check(NAME, "nothing", None)
    with pytest.raises(FileNotFoundError, match="A topic has a checks file"):
        hidden.check("nowhere", "nothing", None)


def test_check_draws_fresh_seeds(course, monkeypatch):
    monkeypatch.setenv("COURSE_CHECKS", str(course / "tests" / "checks"))
    seen = []
    for _ in range(2):
        hidden.check(NAME, "centred", lambda x: seen.append(tuple(x.tolist())) or x - x.mean())
    assert len(set(seen)) == len(seen) == 2 * hidden.SEEDS


def test_check_without_its_folder_says_so(monkeypatch):
    monkeypatch.delenv("COURSE_CHECKS", raising=False)
    with pytest.raises(RuntimeError, match="COURSE_CHECKS"):
        hidden.check(NAME, "centred", None)


# --- the sandbox ------------------------------------------------------------------------------------------------


def test_other_systems_refuse_with_a_hint(monkeypatch):
    monkeypatch.setattr(sys, "platform", "darwin")
    sandbox._trouble.cache_clear()
    try:
        with pytest.raises(sandbox.SandboxUnavailable, match="--unsandboxed"):
            sandbox.require_sandbox()
    finally:
        monkeypatch.undo()
        sandbox._trouble.cache_clear()


def test_answers_are_hidden_where_python_and_the_course_lie_in_usr(monkeypatch):
    package = "/usr/local/lib/python3.11/site-packages/course_lib"
    monkeypatch.setattr(sys, "prefix", "/usr/local")
    monkeypatch.setattr(sandbox, "__file__", f"{package}/grading/sandbox.py")
    wall = sandbox.wall(Limits())
    assert wall.index("/usr/local") < wall.index(package) and wall[wall.index(package) - 1] == "--tmpfs"


def test_a_clone_that_holds_its_environment_shows_nothing_else(monkeypatch, tmp_path):
    clone = tmp_path / "clone"
    (clone / ".venv").mkdir(parents=True)
    (clone / "_toc.yml").touch()
    monkeypatch.setattr(sys, "base_prefix", str(tmp_path))
    monkeypatch.setattr(sys, "prefix", str(clone / ".venv"))
    monkeypatch.setattr(sandbox, "__file__", str(clone / "course_lib" / "grading" / "sandbox.py"))
    wall = sandbox.wall(Limits())
    places = [wall.index(str(path)) for path in (tmp_path, clone, clone / ".venv")]
    assert places == sorted(places) and [wall[place - 1] for place in places] == ["--ro-bind", "--tmpfs", "--ro-bind"]


def test_importing_needs_nothing_that_windows_lacks():
    modules = ("run", "cage", "zygote", "provisioner", "feedback", "engines", "dask_worker")
    code = "import asyncio, subprocess, sys, tempfile, distributed; sys.modules |= {'fcntl': None, 'resource': None}\n"
    code += "".join(f"import course_lib.grading.{module}\n" for module in modules)
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


def test_what_to_preload_is_read_from_the_release(course):
    assert preloads(build(course, NAME))[0] == "torch"


def test_statuses_are_few():
    assert len(STATUSES) == len(set(STATUSES)) == 11
