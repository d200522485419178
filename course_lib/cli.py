"""The command ``course``: keep notebooks in step, release, grade, build the book, put the grader on trial."""

import contextlib
import dataclasses
import json
import os
import re
import sqlite3
import statistics
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Annotated

try:
    import typer
    from rich import box
    from rich.console import Console
    from rich.markup import escape
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, track
    from rich.table import Column, Table
except ImportError as missing:  # a student's installation has no extras
    raise SystemExit(
        f"the command `course` needs the extra 'grading' ({missing.name} is not installed): "
        "pip install 'course-lib[grading]', or `make course` in a clone."
    ) from missing

from course_lib.grading.quick_imports import without_iri_grammar
from course_lib.layout import course_dir, topic_files, topics

with without_iri_grammar():
    from course_lib import sync as notebooks

app = typer.Typer(
    help=__doc__.replace("`", ""), no_args_is_help=True, pretty_exceptions_enable=False, add_completion=False
)
console, errors = Console(), Console(stderr=True)
Topic = Annotated[str, typer.Argument(help="A topic, for example norm_penalties.")]
SomeTopics = Annotated[list[str] | None, typer.Argument(help="Topics; all of them if none is given.")]


def _chosen(names: list[str] | None) -> list[str]:
    known = topics()
    unknown = sorted(set(names or []) - set(known))
    if unknown:
        console.print(f"[red]No such topic:[/] {', '.join(unknown)}. _toc.yml has: {', '.join(known)}.")
        raise typer.Exit(2)
    return names or known


def _wanted(chosen: list[str]) -> dict[str, dict[Path, str]]:
    """The notebooks of each topic as they should be."""
    with console.status(
        f"nbgrader derives {', '.join(chosen)}" if len(chosen) < 4 else "nbgrader derives all notebooks"
    ):
        return notebooks.wanted(chosen)


@app.command()
def sync(
    names: SomeTopics = None,
    check: Annotated[
        bool, typer.Option("--check", help="Change nothing; exit 1 if a notebook is out of step.")
    ] = False,
):
    """Copy each exercised function from course_lib into its solution cell, and derive the released notebook.

    Exit status: 0 all in step (now), 1 some notebook was out of step and --check forbade mending it, 2 wrong usage.
    """
    stale = []
    for wanted in _wanted(_chosen(names)).values():
        stale += notebooks.out_of_step(wanted) if check else notebooks.write(wanted)
    for path in stale:
        console.print(f"{'out of step' if check else 'rewritten'}: {path.relative_to(course_dir())}")
    if not stale:
        console.print("All notebooks are in step with course_lib.")
    raise typer.Exit(1 if check and stale else 0)


@app.command()
def release(names: SomeTopics = None):
    """Write exercises/TOPIC/TOPIC.ipynb and enter the assignment in the gradebook.

    Exit status: 0 released, 1 nbgrader refused the source, 2 wrong usage.
    """
    wanted = _wanted(_chosen(names))
    # A topic that is named is entered anew: `course sync` may have changed its points before.
    stale = [topic for topic, texts in wanted.items() if notebooks.write(texts) or names or not _in_gradebook(topic)]
    if stale:
        with console.status("nbgrader enters the assignments in the gradebook"):
            try:
                notebooks.generate(stale, course_dir())
            except RuntimeError as problem:
                for texts in wanted.values():  # nbgrader takes the old notebook away before it refuses the new one
                    notebooks.write(texts)
                errors.print(_why_refused(str(problem), stale), style="red", markup=False)
                raise typer.Exit(1) from problem
    for topic in wanted:
        console.print(f"released: {topic_files(topic).exercise.relative_to(course_dir())}")


def _why_refused(log: str, stale: list[str]) -> str:
    if "Cannot add or remove cells" not in log:
        return log
    named = [topic for topic in stale if f"for notebook '{topic}'" in log]
    return "\n".join(
        f"Graded cells of {topic} were added, removed or renamed after work was graded: the gradebook holds the old "
        "ones. Copy gradebook.db, for marks and comments given by hand to this topic are lost. Then run\n"
        f"  nbgrader db assignment remove {topic} --force\n  course release {topic}\n  course grade {topic}\n"
        "A rehearsal alone goes with: make forget"
        for topic in named
    )


def _in_gradebook(topic: str) -> bool:
    path = course_dir() / "gradebook.db"
    if not path.is_file():
        return False
    with contextlib.closing(sqlite3.connect(path)) as database, contextlib.suppress(sqlite3.OperationalError):
        return database.execute("select 1 from assignment where name = ?", [topic]).fetchone() is not None
    return False


@app.command()
def new(
    topic: Annotated[str, typer.Argument(help="The topic's name: lower case, underscores, no numbers.")],
    title: Annotated[str, typer.Option(help="The chapter's heading.")] = "A new topic",
):
    """Start a topic: five files from a template that already passes all tests, and its line in _toc.yml.

    Exit status: 0 written, 2 the name will not do.
    """
    from course_lib.new_topic import new_topic

    try:
        written = new_topic(topic, title)
    except ValueError as problem:
        console.print(str(problem), style="red", markup=False)
        raise typer.Exit(2) from problem
    for path in dict.fromkeys([*written, *notebooks.write(notebooks.wanted([topic])[topic])]):
        console.print(f"written: {path.relative_to(course_dir())}")


@app.command("sample-class")
def sample_class(topic: Topic):
    """Hand in twelve submissions under submitted/: right ones, wrong ones, a blank, a crash, an infinite loop.

    Exit status: 0 written, 2 wrong usage.
    """
    from course_lib.grading.sample_class import write_sample_class

    (topic,) = _chosen([topic])
    written = write_sample_class(topic)
    console.print(f"{len(written)} submissions to {topic} are in {course_dir() / 'submitted'}")


Students = Annotated[str, typer.Option("--student", help="Only students whose id matches this pattern.")]
Database = Annotated[str | None, typer.Option("--db", help="The gradebook's URL; sqlite here if not given.")]


@app.command()
def collect(
    topic: Topic,
    archives: Annotated[list[Path], typer.Argument(help="Zip files of submissions.")],
    source: Annotated[str, typer.Option("--from", help="Who made them: zip, moodle or canvas.")] = "zip",
):
    """Unpack archives of submissions into submitted/, safely; each student's newest notebook is taken.

    Exit status: 0 all collected, 1 an archive or a member was refused (the others are collected), 2 wrong usage.
    """
    from course_lib.grading.collect import SOURCES
    from course_lib.grading.collect import collect as unpack

    (topic,) = _chosen([topic])
    if source not in SOURCES:
        console.print(f"[red]--from is one of {', '.join(SOURCES)}[/], got {source}.", markup=True)
        raise typer.Exit(2)
    report = unpack(course_dir(), topic, archives, source)
    for name, reason in report.refused.items():
        console.print(f"refused: {name}: {reason}", markup=False, style="yellow")
    console.print(f"{len(report.students)} collected, {len(report.unchanged)} of them unchanged")
    raise typer.Exit(1 if report.refused else 0)


@app.command()
def grade(
    topic: Topic,
    workers: Annotated[int, typer.Option(min=1, help="Submissions at a time on this machine.")] = os.cpu_count() or 1,
    cluster: Annotated[str | None, typer.Option(help="A dask scheduler instead, tcp://host:port.")] = None,
    db: Database = None,
    student: Students = "*",
    as_json: Annotated[bool, typer.Option("--json", help="Print the results as JSON and nothing else.")] = False,
    again: Annotated[bool, typer.Option("--again", help="Grade anew what is graded already.")] = False,
    unsandboxed: Annotated[
        bool, typer.Option("--unsandboxed", help="Run the code with your own rights: only for work that you wrote.")
    ] = False,
):
    """Grade what is under submitted/, fill the gradebook, write feedback/, print the table.

    Only submissions that are new or changed are run. It may be stopped at any moment and started again.
    Exit status: 0 every submission has a definite status, 1 one has none, 2 wrong usage, 3 no sandbox here.
    """
    from course_lib.grading.feedback import feedback as write_feedback
    from course_lib.grading.run import grade as run
    from course_lib.grading.sandbox import SandboxUnavailable

    (topic,) = _chosen([topic])
    course = course_dir()
    if unsandboxed:
        errors.print("[bold red]WITHOUT A SANDBOX:[/] the submitted code runs with your rights on this machine.")
    columns = (BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TextColumn("{task.description}"))
    with Progress(*columns, console=errors, transient=True) as progress:
        bar = progress.add_task("starting", total=None)

        def report(done: int, total: int, newest) -> None:
            shown = f"{newest.student}: {newest.score:g}" if newest else "starting"
            progress.update(bar, completed=done, total=total, description=escape(shown))

        options = {"workers": workers, "cluster": cluster, "db": db, "students": student, "force": again}
        try:
            results = run(course, topic, sandbox=not unsandboxed, progress=report, **options)
        except SandboxUnavailable as problem:
            errors.print(str(problem), style="red", markup=False)
            raise typer.Exit(3) from problem
        except ValueError as problem:  # a checks file, a gradebook or a folder's name that will not do
            errors.print(str(problem), style="red", markup=False)
            raise typer.Exit(2) from problem
        except OSError as problem:
            if cluster is None or isinstance(problem, FileNotFoundError):
                raise
            told = f"The cluster {cluster} cannot be reached ({problem}). What is graded is kept; run this again."
            errors.print(told, style="red", markup=False)
            raise typer.Exit(1) from problem
    if not results and not as_json:
        matching = "" if student == "*" else f" of a student that matches {student!r}"
        told = f"Nothing to grade: no folder submitted/STUDENT/{topic}{matching}. Run: course collect {topic} ARCHIVE."
        errors.print(told, style="yellow", markup=False)
        raise typer.Exit(0)
    write_feedback(course, topic, students=student, db=db, stale_only=True)
    if as_json:
        print(json.dumps([dataclasses.asdict(result) for result in results], indent=1))
    else:
        _print_grades(topic, results, db)
    raise typer.Exit(0 if all(result.definite for result in results) else 1)


def _print_grades(topic: str, results: list, db: str | None) -> None:
    """The class as it stands in the gradebook, with what was corrected by hand; flags and seconds from the run."""
    from course_lib.grading.export import grades
    from course_lib.grading.probes import graded_cells

    standing = {grade.student: grade for grade in grades(course_dir(), topic, db)}
    tasks = notebooks.exercised(topic)
    numbers = [str(number) for number, _ in enumerate(tasks, start=1)]
    fresh = sum(not result.cached for result in results)
    title = f"{topic}: {fresh} graded now, {len(results)} handed in"
    caption = "tasks: " + ", ".join(f"{number} {task}" for number, task in zip(numbers, tasks, strict=True))
    most = max((result.max_score for result in results), default=0)
    columns = [*numbers, f"of {most:g}", Column("flags", overflow="fold", min_width=10), "seconds"]
    layout = {"box": box.SIMPLE, "collapse_padding": True, "pad_edge": False}  # long ids and flags on 80 columns
    table = Table(Column("student", overflow="fold", min_width=20), *columns, title=title, caption=caption, **layout)
    shown = []
    for result in results:
        known = standing.get(result.student)
        marks = (
            {f"test_{name}": score for name, score in known.tasks.items()}
            if known
            else {name: mark["score"] for name, mark in result.tasks.items()}
        )
        flags = ", ".join(dict.fromkeys(flag["kind"] for flag in result.flags))
        status = "" if result.status == "graded" else result.status
        parts = [[marks[cell] for cell in graded_cells(task, marks)] for task in tasks]
        points = [*(sum(part) if part else None for part in parts), known.score if known else result.score]
        shown.append(points)
        table.add_row(
            escape(result.student),
            *("-" if mark is None else f"{mark:g}" for mark in points),
            ", ".join(filter(None, [status, flags])),
            f"{result.seconds:.1f}",
        )
    if shown:
        table.add_section()
        table.add_row(
            "mean", *(f"{statistics.fmean(mark or 0 for mark in marks):.1f}" for marks in zip(*shown, strict=True))
        )
    console.print(table)
    for result in results:
        if result.message:
            console.print(f"{result.student}: {result.message}", markup=False)
    console.print(f"feedback: {course_dir() / 'feedback'}/STUDENT/{topic}/{topic}.html", soft_wrap=True)


@app.command()
def feedback(
    topic: Topic,
    student: Students = "*",
    db: Database = None,
    packed: Annotated[Path | None, typer.Option("--zip", help="Also pack the pages as Moodle takes them back.")] = None,
):
    """Write feedback/ anew, for example after grading by hand in formgrader.

    Exit status: 0 written, 2 wrong usage.
    """
    from course_lib.grading.feedback import feedback as write_feedback

    (topic,) = _chosen([topic])
    pages = write_feedback(course_dir(), topic, students=student, db=db)
    console.print(f"{len(pages)} pages: {course_dir() / 'feedback'}/STUDENT/{topic}/{topic}.html", soft_wrap=True)
    if packed:
        with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
            for page, student in ((page, page.parents[1].name) for page in pages):
                if re.search(r"_\d+$", student):  # Moodle's number: all that it reads of the names in its own archive
                    archive.write(page, f"{student}_assignsubmission_file_/{page.name}")
        console.print(f"{len(archive.namelist())} of them for Moodle: {packed}", soft_wrap=True)


@app.command()
def export(
    topic: Topic,
    kind: Annotated[str, typer.Option("--format", help="csv, moodle or canvas.")] = "csv",
    template: Annotated[Path | None, typer.Option(help="The file that Moodle or Canvas gave out.")] = None,
    column: Annotated[str | None, typer.Option(help="The column to fill in, if it cannot be guessed.")] = None,
    to: Annotated[Path | None, typer.Option(help="Where to write; the terminal if not given.")] = None,
    db: Database = None,
):
    """Take the grades out of the gradebook, corrections by hand included, as a file to upload.

    Exit status: 0 written, 1 a graded student is not in the template or its maximum is another, 2 wrong usage.
    """
    from course_lib.grading.export import export as grades_as

    (topic,) = _chosen([topic])
    try:
        text, remarks = grades_as(course_dir(), topic, kind, template=template, column=column, db=db)
    except ValueError as problem:
        errors.print(str(problem), style="red", markup=False)
        raise typer.Exit(2) from problem
    if to:
        to.write_text(text, encoding="utf-8", newline="")
    else:
        print(text, end="")
    for remark in remarks:
        errors.print(remark, style="yellow", markup=False)
    raise typer.Exit(1 if remarks else 0)


@app.command("check-grader")
def check_grader(names: SomeTopics = None):
    """Put the grader on trial: wrong versions must lose points, right ones keep them, the stub scores none.

    Exit status: 0 all as wanted, 1 a wrong version passed or a right one was refused, 2 wrong usage.
    """
    from course_lib.grading.kill_table import kill_tables

    astray, chosen = 0, _chosen(names)
    for topic, verdicts in track(kill_tables(chosen), "on trial", len(chosen), console=errors, transient=True):
        columns = ("task", "kind", "version", "verdict", "by", "reason")
        table = Table(*(Column(name, overflow="fold") for name in columns), title=topic)
        for v in verdicts:
            colour = "green" if v.as_wanted else "red"
            table.add_row(
                v.task,
                v.kind,
                escape(v.version),
                f"[{colour}]{'passed' if v.passed else 'refused'}",
                v.killer,
                escape(v.reason),
            )
        console.print(table)
        for kind, verb in (("mutant", "killed"), ("alternative", "accepted")):
            versions = [v for v in verdicts if v.kind == kind]
            console.print(f"{topic}: {sum(v.as_wanted for v in versions)} of {len(versions)} {kind}s {verb}")
        astray += sum(not v.as_wanted for v in verdicts)
    raise typer.Exit(1 if astray else 0)


@app.command()
def build(
    page: Annotated[str | None, typer.Argument(help="One page alone, for example norm_penalties.")] = None,
    everything: Annotated[bool, typer.Option("--all", help="Build every page anew.")] = False,
):
    """Build the book into _build/html, where a warning is an error; or one page, to see it soon.

    One page is built beside the book, in _build/page, and runs no other chapter. Links to other pages lead nowhere
    there, and warn.

    Exit status: 0 built (the book: without a warning), 1 otherwise, 2 no such page.
    """
    course = course_dir()
    if page:
        options, address = _one_page(course, page.removeprefix("book/").removesuffix(".md"))
    else:
        options, address = ["-W", "--keep-going", "-n"], course / "_build" / "html" / "index.html"
    done = subprocess.run(["jupyter-book", "build", ".", *options, *["--all"] * everything], cwd=course)
    if done.returncode == 0:
        console.print(f"the {'page' if page else 'book'}: {address.as_uri()}")
    raise typer.Exit(1 if done.returncode else 0)


def _one_page(course: Path, page: str) -> tuple[list[str], Path]:
    """Write a table of contents with the landing page and one other: jupyter-book's options, and where it will be."""
    pages = sorted(path.stem for path in (course / "book").glob("*.md"))
    if page not in pages:
        console.print(f"[red]No such page:[/] {escape(page)}. book/ has: {', '.join(pages)}.")
        raise typer.Exit(2)
    place = course / "_build" / "page"
    place.mkdir(parents=True, exist_ok=True)
    contents: dict = {"format": "jb-book", "root": "book/index"}
    if page != "index":
        contents["chapters"] = [{"file": f"book/{page}"}]
    (place / "_toc.yml").write_text(json.dumps(contents), encoding="utf-8")  # JSON is YAML
    options = ["--toc", str(place / "_toc.yml"), "--path-output", str(place)]
    return options, place / "_build" / "html" / "book" / f"{page}.html"


def main():
    """Run the command; the environment's own programs come first on PATH, since nbgrader calls some by name."""
    os.environ["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
    try:
        app()
    except OSError as problem:  # our own say what to do; the system's have a number and a file's name
        if problem.filename is None and not isinstance(problem, FileNotFoundError):
            raise
        said = f"{problem.strerror}: {problem.filename}. Check the path." if problem.filename else str(problem)
        errors.print(said, style="red", markup=False)
        raise SystemExit(2) from problem
    except Exception as problem:
        # A gradebook's URL that is none, or a server that does not answer; sqlalchemy is slow to import for a name.
        if type(problem).__name__ not in ("ArgumentError", "NoSuchModuleError", "OperationalError"):
            raise
        errors.print(
            f"The gradebook could not be opened: {str(problem).splitlines()[0]}. Wanted for --db a URL such as "
            "sqlite:////folder/gradebook.db or postgresql+psycopg2://user@host/name, and a server that runs.",
            style="red",
            markup=False,
            soft_wrap=True,
        )
        raise SystemExit(2) from problem
