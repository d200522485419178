"""Build the book, and a sampler of all that chapters can hold, for the tests that look at the pages.

What was built is kept in ``.cache/book-tests`` under a key of all that goes into it, so a second run takes
seconds; a lock lets pytest-xdist's workers share it. The network is off meanwhile, where the system allows that.
"""

import functools
import hashlib
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from filelock import FileLock

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
CACHE = ROOT / ".cache" / "book-tests"
SITES = ("book", "sampler")


def source(site: str) -> Path:
    """Return the folder that Jupyter Book is pointed to, making the sampler's out of links and its own pages."""
    if site == "book":
        return ROOT
    folder = CACHE / "sampler-source"
    (folder / "book").mkdir(parents=True, exist_ok=True)
    pages = HERE / "sampler"
    links = {"_config.yml": ROOT / "_config.yml", "course_lib": ROOT / "course_lib", "_toc.yml": pages / "_toc.yml"}
    links |= {f"book/{name}": ROOT / "book" / name for name in ("_ext", "_static", "references.bib")}
    for page in pages.glob("*.md"):
        shutil.copy2(page, folder / "book")  # a link would be run where it points to
    for name, target in links.items():
        link = folder / name
        if not link.is_symlink():
            link.symlink_to(target)
    return folder


def key(site: str) -> str:
    """Return a hash of everything that the site is made from."""
    patterns = [
        "_config.yml",
        "_toc.yml",
        "book/**/*",
        "course_lib/*.py",
        "benchmarks/**/*.json",
        "exercises/**/*.ipynb",
    ]
    files = [path for pattern in patterns for path in ROOT.glob(pattern)]
    if site == "sampler":
        files += (HERE / "sampler").iterdir()
    state = hashlib.sha256(Path(__file__).read_bytes())
    for path in sorted(set(files)):
        if path.is_file() and "__pycache__" not in path.parts:
            state.update(str(path.relative_to(ROOT)).encode() + b"\0" + path.read_bytes())
    return state.hexdigest()


def offline(command: list[str]) -> list[str]:
    """Return the command in a network namespace with nothing but the loopback, or as it is where none can be had."""
    wrapped = ["unshare", "--map-root-user", "--net", "sh", "-c", 'ip link set lo up && exec "$@"', "sh"]
    try:
        subprocess.run([*wrapped, "true"], check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError):
        return command
    return [*wrapped, *command]


@functools.cache
def built(site: str) -> Path:
    """Return the folder of the site's pages, built now or before."""
    CACHE.mkdir(parents=True, exist_ok=True)
    stamp, output = CACHE / f"{site}.key", CACHE / site
    with FileLock(CACHE / f"{site}.lock"):
        if not stamp.exists() or stamp.read_text() != key(site):
            stamp.unlink(missing_ok=True)
            program = "import sys; from jupyter_book.cli.main import main; sys.exit(main())"
            arguments = ["build", source(site), "--path-output", output, "-W", "--keep-going", "-n"]
            run = subprocess.run(
                offline([sys.executable, "-c", program, *map(str, arguments)]),
                capture_output=True,
                text=True,
                env=os.environ | {"PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"},
            )
            if run.returncode:
                pytest.fail(f"the {site} does not build:\n{run.stdout[-3000:]}\n{run.stderr[-6000:]}", pytrace=False)
            stamp.write_text(key(site))
    return output / "_build" / "html"


def pages(toc: Path) -> list[str]:
    """Return the pages that a table of contents lists, and the search page."""

    def files(entry):
        if isinstance(entry, dict):
            for name, value in entry.items():
                if name in ("root", "file"):
                    yield f"{value}.html"
                else:
                    yield from files(value)
        elif isinstance(entry, list):
            for part in entry:
                yield from files(part)

    return [*files(yaml.safe_load(toc.read_text())), "search.html"]


# Of the sampler the page that holds everything; the others are there to be linked and run beside it.
PAGES = [*(f"book:{page}" for page in pages(ROOT / "_toc.yml")), "sampler:book/sampler.html"]
