"""Real clients: formgrader on the gradebook that `course grade` wrote, and a student's Validate button.

JupyterLab runs as it does after `make course`: nbgrader's extensions are enabled by its installation. All settings,
histories and lists of trusted notebooks are kept in a folder of the test.
"""

import contextlib
import json
import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request

import nbformat
import pytest
from grading.test_sample_class import COURSE, TASKS, TOPIC, command, course_of_its_own

from course_lib.grading.export import grades
from course_lib.grading.gradebook import default_url, load_nbgrader

pytestmark = pytest.mark.xdist_group("clients")

CLASS = {  # points by task, in the order of TASKS
    "ada_reference": [2, 2, 2, 2, 2],
    "eva_first_half": [2, 2, 0, 0, 0],
    "gil_one_slip_at_the_end": [2, 2, 2, 2, 0],
}
FLAGGED = "gil_one_slip_at_the_end"
COMMENT = "Nearly: look at `axis`, très bien"
ATTACKS = ["<script>window.PWNED=2</script><img src=x onerror='window.PWNED=3'>", "[click](JavaScript:window.PWNED=4)"]
MINUTE = 60_000  # milliseconds
CONFIG = """
c = get_config()
c.IdentityProvider.token = ""
c.ServerApp.allow_root = True
c.ServerApp.open_browser = False
c.ServerApp.port_retries = 0
c.LabApp.check_for_updates_class = "jupyterlab.NeverCheckForUpdate"
c.LabApp.extension_manager = "readonly"
c.LabApp.news_url = None
"""


@contextlib.contextmanager
def jupyter_lab(folder, settings):
    """Run JupyterLab in a folder, with settings of its own; yield its address."""
    (settings / "config").mkdir(parents=True)
    (settings / "config" / "jupyter_lab_config.py").write_text(CONFIG)
    own = {f"JUPYTER_{name.upper()}_DIR": str(settings / name) for name in ("config", "data", "runtime")}
    own |= {"IPYTHONDIR": str(settings / "ipython"), "PYTHONPATH": str(COURSE), "OMP_NUM_THREADS": "1"}
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{probe.getsockname()[1]}"
    arguments = [f"--ServerApp.root_dir={folder}", "--ServerApp.ip=127.0.0.1", f"--port={address.partition(':')[2]}"]
    log = settings / "log"
    with log.open("w") as sink:
        program = [sys.executable, "-m", "jupyterlab", *arguments]
        server = subprocess.Popen(program, cwd=folder, env=os.environ | own, stdout=sink, stderr=sink)
    try:
        _wait(server, f"http://{address}/api/status", log)
        yield f"http://{address}"
    finally:
        server.terminate()
        try:
            server.wait(30)
        except subprocess.TimeoutExpired:
            server.kill()
            server.wait()


def _wait(server, url, log):
    deadline = time.monotonic() + 120
    while True:
        with contextlib.suppress(urllib.error.URLError, ConnectionError, TimeoutError):
            urllib.request.urlopen(url, timeout=5).close()
            return
        if server.poll() is not None or time.monotonic() > deadline:
            pytest.fail(f"JupyterLab does not start:\n{log.read_text()[-3000:]}", pytrace=False)
        time.sleep(0.1)


@pytest.fixture
def page(browser):
    """A page that must not have had any trouble when the test is over; it reaches this machine and nothing else."""
    context, problems = browser.new_context(viewport={"width": 1400, "height": 1000}), []
    context.set_default_timeout(2 * MINUTE)
    context.route(lambda url: not url.startswith("http://127.0.0.1:"), lambda route: route.abort())
    page = context.new_page()
    page.on("pageerror", lambda error: problems.append(f"script: {error}"))
    page.on("response", lambda answer: problems.append(f"{answer.status} {answer.url}") if answer.status >= 400 else 0)
    yield page
    context.close()
    # formgrader takes MathJax from the net; without it formulas stay as they are written.
    assert [problem for problem in problems if problem != "script: MathJax is not defined"] == []


def photograph(page, name):
    """Keep a picture where COURSE_SCREENSHOTS says, for a person to look at."""
    if folder := os.environ.get("COURSE_SCREENSHOTS"):
        page.screenshot(path=f"{folder}/{name}.png")


@pytest.fixture(scope="module")
def graded(browser, sandbox, tmp_path_factory):
    """A class of three, one of whom has changed a test; graded by `course grade`."""
    home = course_of_its_own(tmp_path_factory.mktemp("course"))
    for folder in (home / "submitted").iterdir():
        if folder.name not in CLASS:
            shutil.rmtree(folder)
    path = home / "submitted" / FLAGGED / TOPIC / f"{TOPIC}.ipynb"
    notebook = nbformat.read(path, as_version=4)
    find(notebook, "test_l1_penalty").source = "pass"
    notebook.cells += [nbformat.v4.new_markdown_cell(text) for text in ATTACKS]
    nbformat.write(notebook, path)
    (path.parent.parent / "name.txt").write_text("Gil <img src=x onerror=window.PWNED=1> Ñuñez", encoding="utf-8")
    done = command(home, "grade", TOPIC, "--json")
    assert done.returncode == 0, done.stderr
    return home


@pytest.fixture(scope="module")
def instructor(graded, tmp_path_factory):
    with jupyter_lab(graded, tmp_path_factory.mktemp("settings")) as address:
        yield address


def find(notebook, name):
    return next(cell for cell in notebook.cells if cell.metadata.get("nbgrader", {}).get("grade_id") == name)


def ids(home):
    """The number that formgrader gives to each student's notebook."""
    with load_nbgrader().Gradebook(default_url(home)) as gradebook:
        found = gradebook.notebook_submissions(TOPIC, TOPIC)
        return {submission.student.id: submission.id for submission in found}


def table(page):
    """The rows of formgrader's table: what the first cell links to, and all cells' texts."""
    page.locator("tbody tr a").first.wait_for()
    rows = page.locator("tbody tr").all()
    return [(row.locator("a").first.get_attribute("href"), row.locator("td").all_inner_texts()) for row in rows]


def test_formgrader_shows_the_scores_of_course_grade(graded, instructor, page):
    wanted = {grade.student: f"{grade.score:g} / {grade.most:g}" for grade in grades(graded, TOPIC)}
    assert wanted == {student: f"{sum(points)} / 10" for student, points in CLASS.items()}
    page.goto(f"{instructor}/formgrader")
    page.get_by_role("link", name="Manual Grading").click()
    page.get_by_role("link", name=TOPIC).click()  # the assignment
    page.wait_for_url(f"**/gradebook/{TOPIC}")
    page.get_by_role("link", name=TOPIC).last.click()  # its notebook
    page.wait_for_url(f"**/gradebook/{TOPIC}/{TOPIC}")
    rows = table(page)
    photograph(page, "formgrader_submissions")
    numbers = {number: student for student, number in ids(graded).items()}
    students = {numbers[link.rpartition("/")[2].partition("?")[0]]: cells for link, cells in rows}
    assert {student: cells[2] for student, cells in students.items()} == wanted
    page.goto(f"{instructor}/formgrader/manage_submissions/{TOPIC}")
    shown = {cells[1]: (cells[3], cells[4]) for _, cells in table(page)}
    photograph(page, "formgrader_students")
    status = {student: "needs manual grading" if student == FLAGGED else "graded" for student in CLASS}
    assert shown == {student: (status[student], score) for student, score in wanted.items()}


def test_a_mark_changed_in_formgrader_stays(graded, instructor, page):
    page.goto(f"{instructor}/formgrader/submissions/{ids(graded)[FLAGGED]}")
    boxes = page.locator("input.score")
    boxes.last.wait_for()
    page.wait_for_function(  # formgrader draws the boxes first and asks for the marks then
        "[...document.querySelectorAll('input.score')].every(box => box.value || box.placeholder)"
    )
    marks = [float(box.input_value() or box.get_attribute("placeholder")) for box in boxes.all()]
    assert marks == CLASS[FLAGGED]
    box = boxes.nth(TASKS.index("l1_penalty"))
    box.fill("0.5")
    with page.expect_response(lambda answer: answer.request.method == "PUT" and answer.ok):
        box.press("Tab")
    comment = page.locator("textarea.comment").nth(TASKS.index("l1_penalty"))
    comment.fill(COMMENT)
    with page.expect_response(lambda answer: answer.request.method == "PUT" and answer.ok):
        comment.blur()
    photograph(page, "formgrader_mark")
    assert page.evaluate("window.PWNED") is None and page.locator("a[href^='javascript:' i]").count() == 0
    assert page.locator("a.name-shown").inner_text().strip() == "img srcx onerrorwindow.PWNED1 Ñuñez, Gil"
    again = json.loads(command(graded, "grade", TOPIC, "--json").stdout)
    (grade,) = (grade for grade in grades(graded, TOPIC) if grade.student == FLAGGED)
    assert all(result["cached"] for result in again)
    assert (grade.tasks["l1_penalty"], grade.score, grade.by_hand) == (0.5, 6.5, False)
    (row,) = (line for line in command(graded, "grade", TOPIC).stdout.splitlines() if FLAGGED in line)
    assert "0.5" in row and "6.5" in row
    assert command(graded, "feedback", TOPIC).returncode == 0
    feedback = (graded / "feedback" / FLAGGED / TOPIC / f"{TOPIC}.html").read_text(encoding="utf-8")
    assert "look at <code>axis</code>, très bien" in feedback and "Score: 6.5 / 10" in feedback
    (exported,) = (line for line in command(graded, "export", TOPIC).stdout.splitlines() if FLAGGED in line)
    assert exported.endswith(",2,0.5,2,2,0,6.5,10,False")


def validate(page, name):
    page.get_by_role("button", name="Validate").click()
    dialog = page.locator(".jp-Dialog", has_text="Validation Results")
    dialog.wait_for()
    photograph(page, name)
    said = dialog.inner_text()
    dialog.get_by_role("button", name="Ok").click()
    dialog.wait_for(state="detached")
    return said


def test_a_student_fills_a_task_and_validates(browser, page, tmp_path):
    folder = tmp_path / "student"
    folder.mkdir()
    released = COURSE / "exercises" / TOPIC / f"{TOPIC}.ipynb"
    shutil.copy(released, folder)
    claims = [find(nbformat.read(released, as_version=4), f"test_{task}").source.split("\n")[0] for task in TASKS]
    with jupyter_lab(folder, tmp_path / "settings") as address:
        page.goto(f"{address}/lab/tree/{TOPIC}.ipynb")
        cell = page.locator(".jp-Notebook .jp-CodeCell", has_text="def l2_penalty(")
        cell.wait_for()
        before = validate(page, "validate_untouched")
        cell.locator(".cm-line", has_text="raise NotImplementedError()").click()
        page.keyboard.press("End")
        page.keyboard.press("Shift+Home")
        page.keyboard.insert_text("return strength / 2 * sum((p**2).sum() for p in parameters)")
        after = validate(page, "validate_one_task")
    saved = find(nbformat.read(folder / f"{TOPIC}.ipynb", as_version=4), "l2_penalty").source
    assert saved.endswith("    # YOUR CODE HERE\n    return strength / 2 * sum((p**2).sum() for p in parameters)")
    assert [claim in before for claim in claims] == [True] * 5
    assert [claim in after for claim in claims] == [False, True, True, True, True]
    assert after.count("The following cell failed") == 4
