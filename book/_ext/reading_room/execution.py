"""Execute stale chapters side by side before Sphinx reads them one by one.

MyST-NB takes results from jupyter-cache, which looks at a chapter's cells alone. A chapter also depends on the modules
that it imports and on the studies that it plots. Their state is kept with each result; where it has changed, the
chapter, and no other, is read and run again. What fails here is left out of the cache: MyST-NB then runs it again in
its turn, and stops the build with the chapter's own traceback.

Kernels are reached by sockets in a folder of their own: a free port found for one of several kernels that start at the
same time may be taken by another before it listens.
"""

import hashlib
import io
import os
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from importlib.metadata import version
from modulefinder import ModuleFinder
from pathlib import Path
from typing import NamedTuple

from jupyter_cache import get_cache
from jupyter_cache.base import CacheBundleIn
from myst_nb.core.read import create_nb_reader
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError, CellTimeoutError
from sphinx.util import logging
from traitlets.config import Config

logger = logging.getLogger(__name__)
ROOT = Path(__file__).parents[3]
PY_SOURCE = 1  # as ModuleFinder calls it
# What a page depends on whose modules import others by a name that they compute, as the trial of the grader does.
EVERYTHING = ("_toc.yml", "course_lib/**/*.py", "tests/**/*.py", "solutions/**/*.ipynb", "exercises/**/*.ipynb")


def state(code: str) -> str:
    """Return a hash of all that a chapter's code computes with, itself left out.

    The project's modules that it imports, directly or not; the stored studies and the table of contents where it or
    they name them; Python and the packages that it computes and draws with.

    Args:
        code: the text of its cells.
    """
    found = hashlib.sha256(sys.version.encode())
    for package in ("torch", "numpy", "scipy", "scikit-learn", "matplotlib"):
        found.update(version(package).encode())
    files = modules(code)
    texts = [code, *(path.read_text(encoding="utf-8") for path in files)]
    named = [(path, path.stem) for path in sorted(ROOT.glob("benchmarks/**/*.json"))] + [
        (ROOT / "_toc.yml", "_toc.yml")
    ]
    files += [path for path, name in named if path.is_file() and any(f'"{name}"' in text for text in texts)]
    for path in files:
        found.update(path.relative_to(ROOT).as_posix().encode() + b"\0" + path.read_bytes())
    return found.hexdigest()[:16]


def modules(code: str) -> list[Path]:
    """Return the project's files that a chapter's code imports, directly or not, those within functions too."""
    finder = ModuleFinder(path=[str(ROOT)])
    try:
        finder.load_module("__main__", io.StringIO(code), "cells", ("", "r", PY_SOURCE))
    except (SyntaxError, AttributeError):  # a magic of IPython; a folder that is imported but no package
        return everything()
    if "importlib" in finder.badmodules:
        return everything()
    return sorted(Path(module.__file__) for module in finder.modules.values() if str(module.__file__).endswith(".py"))


def everything() -> list[Path]:
    """Return all files that a page may depend on."""
    return sorted(path for pattern in EVERYTHING for path in ROOT.glob(pattern))


def notebook_of(app, docname: str):
    """Return a page's path, and the notebook that it is, or None."""
    path = Path(app.env.doc2path(docname))
    text = path.read_text(encoding="utf-8")
    reader = create_nb_reader(str(path), app.env.myst_config, app.env.mystnb_config, text)
    notebook = reader and reader.read(text)
    code = notebook and any(cell.cell_type == "code" for cell in notebook.cells)
    return path, notebook if code else None


def state_of(notebook) -> str:
    """Return the state that a notebook's results depend on."""
    return state("\n".join(cell.source for cell in notebook.cells if cell.cell_type == "code"))


def outdated(app, env, added, changed, removed):
    """Return the pages to be read again because of what they compute with."""
    if env.mystnb_config.execution_mode != "cache":
        return []
    known = {name: about["state"] for name, about in getattr(env, "course_runs", {}).items() if name in env.found_docs}
    return [name for name, before in known.items() if (book := notebook_of(app, name)[1]) and state_of(book) != before]


class Run(NamedTuple):
    """What the execution of a notebook took."""

    seconds: float
    megabytes: int | None
    error: Exception | None


def run(path: Path, notebook, timeout: int) -> Run:
    """Execute a notebook in place, and watch the memory of its kernel."""
    place = {"metadata": {"path": str(path.parent)}}
    peaks, error, start = [], None, time.perf_counter()
    with tempfile.TemporaryDirectory(prefix="kernel") as sockets:
        reach = Config(KernelManager={"transport": "ipc", "ip": f"{sockets}/k"})
        # Times within the notebook would make it another one to the cache.
        client = NotebookClient(notebook, timeout=timeout, resources=place, record_timing=False, config=reach)
        client.on_cell_executed = lambda **about: peaks.append(peak(client.km.provisioner.pid))
        try:
            client.execute()
        except (CellExecutionError, CellTimeoutError, RuntimeError) as raised:  # the last: no kernel came up
            error = raised
    return Run(time.perf_counter() - start, max(filter(None, peaks), default=None), error)


def peak(process: int) -> int | None:
    """Return the most memory that a process has held so far, in megabytes; None where the system does not say."""
    try:
        lines = Path(f"/proc/{process}/status").read_text().splitlines()
    except OSError:
        return None
    return next((round(int(line.split()[1]) * 1024 / 1e6) for line in lines if line.startswith("VmHWM")), None)


def cores() -> int:
    """Return how many cores this process may use; a Mac says only how many there are."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def execute_stale(app, env, docnames):
    """Run every chapter that has no result of the present state, as many at a time as there are cores."""
    if env.mystnb_config.execution_mode != "cache":
        return
    cache, stale = get_cache(env.mystnb_config.execution_cache_path), {}
    env.course_runs = {name: about for name, about in getattr(env, "course_runs", {}).items() if name not in docnames}
    for docname in docnames:
        path, notebook = notebook_of(app, docname)
        if notebook is None:
            continue
        env.course_runs[docname] = {"state": state_of(notebook)}
        try:
            record = cache.match_cache_notebook(notebook)
        except KeyError:
            stale[docname] = path, notebook
            continue
        if record.data.get("state") == env.course_runs[docname]["state"]:
            env.course_runs[docname] = record.data
        else:
            cache.remove_cache(record.pk)
            stale[docname] = path, notebook
    if not stale:
        return
    workers = min(len(stale), cores())
    logger.info("executing %d chapters, %d at a time: %s", len(stale), workers, ", ".join(sorted(stale)))
    with ThreadPoolExecutor(workers) as pool:
        done = pool.map(lambda job: run(*job, env.mystnb_config.execution_timeout), stale.values())
        for docname, one in zip(stale, done, strict=True):
            if one.error is None:
                logger.info("executed %s in %.1f s", docname, one.seconds)
                env.course_runs[docname] |= {"execution_seconds": one.seconds, "peak_megabytes": one.megabytes}
                path, notebook = stale[docname]
                bundle = CacheBundleIn(notebook, str(path), data=env.course_runs[docname])
                cache.cache_notebook_bundle(bundle, check_validity=False, overwrite=True)


def setup(app):
    """Connect to where Sphinx asks what is outdated, and before chapters are read."""
    app.connect("env-get-outdated", outdated)
    app.connect("env-before-read-docs", execute_stale)
    return {"parallel_read_safe": True}
