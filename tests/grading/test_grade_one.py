"""One submission, one result: honest work keeps its points however it is written, wrong work gets none."""

import base64
import dataclasses
import json
import re
import shutil
import subprocess
import sys

import pytest
from grading import tiny
from grading.conftest import LIMITS
from grading.tiny import NAME, RIGHT, STUBS, WRONG, find, notebook, own
from nbconvert.filters import markdown2html

from course_lib.grading import grade_one as module
from course_lib.grading.bundle import build
from course_lib.grading.forkserver import ForkServer
from course_lib.grading.grade_one import grade_one
from course_lib.grading.kernel import Start
from course_lib.grading.sandbox import SandboxUnavailable


def test_right_work_earns_everything_and_no_flag(graded):
    result = graded(notebook(RIGHT))
    assert (result["status"], result["score"], result["flags"]) == ("graded", 6.0, [])
    assert result["sandbox"] == "course-zygote"


@pytest.mark.parametrize("solutions", [STUBS, WRONG], ids=["untouched", "wrong"])
def test_wrong_work_earns_nothing_and_no_flag(graded, solutions):
    result = graded(notebook(solutions))
    assert (result["status"], result["score"], result["flags"]) == ("graded", 0.0, [])


def test_each_task_counts_for_itself(graded):
    result = graded(notebook(WRONG | {"centred": RIGHT["centred"]}))
    assert {name: mark["score"] for name, mark in result["tasks"].items()} == {
        "test_mean_square": 0.0,
        "test_centred": 2.0,
        "test_clipped": 0.0,
    }


def test_passing_the_visible_test_alone_earns_nothing(graded):
    memorized = "def mean_square(x):\n    return torch.tensor(14 / 3)"
    mark = graded(notebook(RIGHT | {"mean_square": memorized}))["tasks"]["test_mean_square"]
    assert (mark["visible"], mark["hidden"], mark["score"]) == ("passed", "failed", 0.0)
    assert mark["message"] == "the mean of squares is …, wanted …: is it a mean, not a sum?"


HONEST = {
    "warning": {
        "mean_square": "import warnings\ndef mean_square(x):\n    warnings.warn('old')\n    return (x ** 2).mean()"
    },
    "prints": {"centred": "def centred(x):\n    print('x is', x)\n    return x - x.mean()"},
    "standard error": {
        "centred": "import sys\ndef centred(x):\n    print(x, file=sys.stderr)\n    return x - x.mean()"
    },
    "torch's own warning": {
        "mean_square": "def mean_square(x):\n    x.reshape(1, -1).T; x.T\n    return (x ** 2).mean()"
    },
    "progress bar": {
        "mean_square": "from tqdm import tqdm\ndef mean_square(x):\n    return sum(v ** 2 for v in tqdm(x)) / len(x)"
    },
    "notebook progress bar": {
        "mean_square": "from tqdm.auto import tqdm\n"
        "def mean_square(x):\n    return sum(v ** 2 for v in tqdm(x)) / len(x)"
    },
    "other algorithm": {
        "clipped": "def clipped(x, limit):\n    n = x.norm()\n    return x if n <= limit else limit * x / n"
    },
    "extra imports": {"centred": "import numpy as np, math, os, random\ndef centred(x):\n    return x - x.mean()"},
    "renamed variables": {"centred": "def centred(werte):\n    mitte = werte.mean()\n    return werte - mitte"},
    "decorated": {"centred": "@torch.no_grad()\ndef centred(x):\n    return x - x.mean()"},
    "lambda": {"centred": "centred = lambda x: x - x.mean()"},
    "magic": {"centred": "%matplotlib inline\ndef centred(x):\n    return x - x.mean()"},
    "slow but within budget": {"centred": "import time\ndef centred(x):\n    time.sleep(1)\n    return x - x.mean()"},
    "value as last line": {"mean_square": RIGHT["mean_square"] + "\nmean_square(torch.ones(2) * float('nan'))"},
    "takes gradients": {"mean_square": "def mean_square(x):\n    x = x.requires_grad_()\n    return (x ** 2).mean()"},
    "random numbers": {"centred": "torch.manual_seed(0)\ndef centred(x):\n    torch.rand(3)\n    return x - x.mean()"},
}
CELLS = {
    "plot": "import matplotlib.pyplot as plt\nplt.plot([1, 2]); plt.show()",
    "own error": "1 / 0",
    "other default dtype": "torch.set_default_dtype(torch.float64)",
    "no gradients": "torch.set_grad_enabled(False)",
    "warnings are errors": "import warnings\nwarnings.simplefilter('error')",
    "clumsy name": "sum = 0; max = 3; input = torch.ones(2); id = 7",
    "optimizer": "w = torch.ones(2, requires_grad=True); torch.optim.Adam([w]); torch.optim.SGD([w], lr=1.0)",
    "long output": "for i in range(3000): print('line', i)",
    "many figures": "from IPython.display import display\nfor i in range(300): display(i)",
    "subprocess of torch": "from torch.utils.data import DataLoader\n"
    "print([len(b) for b in DataLoader(torch.arange(8), batch_size=4, num_workers=1)])",
    "top-level await": "import asyncio\nawait asyncio.sleep(0.01)",
    "timing": "%%time\nx = 1",
    "widgets": "import ipywidgets\nipywidgets.IntSlider()",
    "wrong shell line": "!ls /nowhere",
}


@pytest.mark.parametrize("kind", HONEST)
def test_honest_solution_loses_nothing(graded, kind):
    result = graded(notebook(RIGHT | HONEST[kind]))
    assert (result["status"], result["score"], result["flags"]) == ("graded", 6.0, [])


@pytest.mark.parametrize("kind", CELLS)
def test_honest_cell_costs_nothing(graded, kind):
    book = notebook(RIGHT)
    book["cells"].insert(3, own(CELLS[kind]))
    result = graded(book)
    assert (result["status"], result["score"], result["flags"]) == ("graded", 6.0, [])


def test_all_honest_cells_together(graded):
    book = notebook(RIGHT)
    book["cells"] += [own(source) for source in CELLS.values()]
    book["cells"].insert(0, own("print('before everything')"))
    assert graded(book)["score"] == 6.0


def test_lost_metadata_costs_nothing(graded):
    book = notebook(RIGHT)
    for cell in book["cells"]:
        cell["metadata"] = {}
        del cell["id"]
    assert graded(book)["score"] == 6.0


@pytest.mark.parametrize("kind", ["markdown", "raw"])
def test_a_solution_that_became_text_still_counts(graded, kind):
    """One key, M or R, in JupyterLab's command mode."""
    book = notebook(RIGHT)
    find(book, "centred")["cell_type"] = kind
    result = graded(book)
    assert (result["score"], [flag["kind"] for flag in result["flags"]]) == (6.0, ["changed metadata"])
    assert "not in the submission" not in json.dumps(result["notebook"])


def test_a_result_that_is_a_lazy_view_counts(graded):
    lazy = RIGHT["centred"].replace("x - x.mean()", "torch.complex(x, x.mean() - x).conj().imag")
    assert graded(notebook(RIGHT | {"centred": lazy}))["score"] == 6.0


def test_another_topic_that_the_exercise_does_not_use_is_not_there(sandbox, course, tmp_path):
    root = tmp_path / "course"
    shutil.copytree(course, root, ignore=shutil.ignore_patterns("submitted"))
    chapters = "".join(f"\n  - file: book/{name}" for name in (NAME, "medians", "means"))
    (root / "_toc.yml").write_text(f"parts:\n- caption: Part I\n  chapters:{chapters}\n")
    (root / "course_lib" / "medians.py").write_text("import course_lib.means\n")
    (root / "course_lib" / "means.py").write_text((root / "course_lib" / f"{NAME}.py").read_text())
    borrowed = notebook(RIGHT | {"centred": "from course_lib.means import centred"})
    result = grade_one(build(root, NAME, LIMITS).pack(), tiny.packed(borrowed), "ann")
    assert (result["status"], result["score"]) == ("graded", 4.0)
    assert "course_lib.means is not there while averages is graded" in json.dumps(result["notebook"])
    exercise = root / "exercises" / NAME / f"{NAME}.ipynb"
    exercise.write_text(
        exercise.read_text().replace("import torch", "import torch\\nfrom course_lib import medians", 1)
    )
    there = build(root, NAME, LIMITS).library
    assert all(b"not there" not in there[f"course_lib/{name}.py"] for name in ("medians", "means"))


STOPPED = """
import os, subprocess
from course_lib.grading.grade_one import main
from course_lib.grading.kernel import Session
run = Session.run
def stopped(self, code, **options):
    if callable(code) and "centre = centred" in code("nonce"):
        me = os.getpid()
        subprocess.Popen(["sh", "-c", f"sleep 0.5; kill -STOP {me}; sleep 6; kill -CONT {me}"])
    return run(self, code, **options)
Session.run = stopped
main()
"""


def test_time_in_which_the_grader_did_not_run_is_nobodys_fault(sandbox, course):
    """Ctrl-Z and fg: the kernels have sessions of their own and go on."""
    slow = RIGHT["centred"].replace("\n", "\n    import time; time.sleep(1)\n")
    brief = build(course, NAME, dataclasses.replace(LIMITS, cell_seconds=5)).pack()
    contents = {"bundle": brief, "submission": tiny.packed(notebook(RIGHT | {"centred": slow}))}
    job = {name: base64.b64encode(content).decode() for name, content in contents.items()}
    job |= {"sandbox": True, "student": "ann"}
    done = subprocess.run([sys.executable, "-c", STOPPED], input=json.dumps(job), stdout=subprocess.PIPE, text=True)
    result = json.loads(done.stdout)
    assert (result["status"], result["score"], result["flags"]) == ("graded", 6.0, [])
    assert result["seconds"] > 6


def test_results_are_json_and_tell_nothing_hidden(graded):
    text = json.dumps(graded(notebook(WRONG)))
    assert "drawn_for_the_hidden_test" not in text and "WANTED_SHARPNESS" not in text


def test_helpers_of_one_name_in_two_tasks(graded):
    centred = "def helper(x):\n    return x.mean()\ndef centred(x):\n    return x - helper(x)"
    clipped = "def helper(x, limit):\n    return (limit / x.norm()).clamp(max=1.0)\n"
    clipped += "def clipped(x, limit):\n    return x * helper(x, limit)"
    assert graded(notebook(RIGHT | {"centred": centred, "clipped": clipped}))["score"] == 6.0


# IPython runs what lies in /etc/ipython when a kernel starts; the other folders are those of bubblewrap's own root.
LEAVES = """import os
for folder in ("/", "/dev", "/run", "/home", "/etc", "/etc/ipython", os.path.dirname(os.sys.prefix)):
    try:
        os.makedirs(folder, exist_ok=True)
        open(folder + "/ipython_config.py", "w").write("import torch; torch.tensor = None")
        if not folder.startswith("/tmp/"):  # where a clone lies in /tmp, this is the kernel's own scratch
            print("left in", folder)
    except OSError:
        pass
"""


def test_a_kernel_leaves_nothing_for_the_next(graded):
    result = graded(notebook(RIGHT) | {"cells": [*notebook(RIGHT)["cells"], tiny.own(LEAVES)]})
    assert result["notebook"]["cells"][-1]["outputs"] == []
    assert graded(notebook(RIGHT))["score"] == 6.0


def test_a_cold_kernel_gives_the_same(sandbox, bundle):
    result = grade_one(bundle, tiny.packed(notebook(RIGHT)), "ann")
    assert (result["score"], result["flags"], result["sandbox"]) == (6.0, [], "course-sandbox")


def test_unsandboxed_gives_the_same_and_says_so(bundle):
    result = grade_one(bundle, tiny.packed(notebook(RIGHT)), "ann", sandbox=False)
    assert (result["score"], result["flags"], result["sandbox"]) == (6.0, [], "none")


def test_without_bubblewrap_nothing_runs(bundle, monkeypatch):
    monkeypatch.setattr("course_lib.grading.sandbox._trouble", lambda: "no program bwrap")
    with pytest.raises(SandboxUnavailable, match="apt install bubblewrap"):
        grade_one(bundle, tiny.packed(notebook(RIGHT)), "ann")


def test_another_provisioner_is_refused(bundle):
    local = Start("local-provisioner", {}, module.cold(module.Bundle.unpack(bundle).limits, "").wanted)
    with pytest.raises(SandboxUnavailable, match="only in a sandbox"):
        grade_one(bundle, tiny.packed(notebook(RIGHT)), "ann", start=local)
    disguised = Start("course-sandbox", {}, int)
    with pytest.raises(SandboxUnavailable, match="wanted int, got SandboxProvisioner"):
        grade_one(bundle, tiny.packed(notebook(RIGHT)), "ann", start=disguised)


def test_the_bundle_holds_no_answer(bundle):
    plan = module.Bundle.unpack(bundle)
    assert f"course_lib/{NAME}.py" not in plan.library and "course_lib/exercise.py" in plan.library
    assert "def mean_square(x):\n    return" not in bundle.decode()


PROGRAMS = [
    "<script>alert(1)</script>",
    "[x](javascript:alert(1))",
    "[x](JavaScript:alert(1))",
    "[x](javajavascript:script:alert(1))",
    "[x](java&#115;cript&colon;alert(1))",
    "[x]( \tjavascript:alert(1))",
    "[x](dadata:ta:text/html,x)",
    "[x][y]\n\n[y]:\njavascript:alert(1)",
    "[![a](https://example.org)](javascript:alert(1))",
    "![pasted](attachment:image.png)",
    "![counted](https://example.org/pixel.png)",
    '![a" onerror="alert(1)](x)',
]


def test_markdown_of_a_student_is_defused(graded):
    book, links = notebook(RIGHT), "[x](https://example.org/a) [y]\n\n[y]: http://example.org/b"
    book["cells"] += [own(text, kind="markdown") for text in (*PROGRAMS, links, "[" * 50_000)]
    *shown, linked, long = graded(book)["notebook"]["cells"][-len(PROGRAMS) - 2 :]
    pages = [markdown2html(cell["source"]) for cell in shown]
    addresses = [address for page in pages for address in re.findall(r"<[^>]*(?:href|src)=\"([^\"]*)", page)]
    assert [address for address in addresses if not address.startswith("https://example.org")] == []
    assert [page for page in pages if re.search(r"<(script|img)|<[^>]*\son\w+=", page)] == []
    kept = re.findall(r"href=\"(.*?)\"", markdown2html(linked["source"]))
    assert kept == ["https://example.org/a", "http://example.org/b"]
    assert len(long["source"]) < 20_000 and long["source"].endswith("[shortened]")


def test_long_code_is_run_whole_and_shown_cut(graded):
    solutions = RIGHT | {"mean_square": f"# {'a.' * 20_000}\n{RIGHT['mean_square']}"}
    result = graded(notebook(solutions))
    shown = find(result["notebook"], "mean_square")["source"]
    assert result["score"] == 6.0 and len(shown) < 11_000 and shown.endswith("# [shortened]")


def test_a_verify_cannot_be_made_to_take_all_memory(sandbox, tmp_path):
    course = tiny.write_course(tmp_path)
    checks = course / "tests" / "checks" / f"{NAME}.py"
    pairs = 'np.subtract.outer(arrays["value"], arrays["value"])\n    close(arrays["value"], (draw'
    checks.write_text(checks.read_text().replace('close(arrays["value"], (draw', pairs, 1))
    long = "def mean_square(x):\n    return (x ** 2).mean() if len(x) == 3 and x[0] == 1 else torch.zeros(28_000)"
    with ForkServer(build(course, NAME, LIMITS).pack()) as server:
        right = server.grade(tiny.packed(notebook(RIGHT)), "ann")
        mark = server.grade(tiny.packed(notebook(RIGHT | {"mean_square": long})), "bob")["tasks"]["test_mean_square"]
    assert right["score"] == 6.0
    assert (mark["hidden"], mark["message"]) == ("failed", "The result does not have the form that the text asks for.")


def test_find_is_by_name():
    assert find(notebook(), "centred")["source"] == STUBS["centred"]
