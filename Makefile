# Two commands matter: `make course` and `make test`. A fresh machine needs Python 3.11+, git and make.

PYTHON ?= $(shell command -v python3.11 || command -v python3.12 || command -v python3)
BIN    := .venv/bin
TOPIC  ?= norm_penalties
STUDIES := $(filter-out study,$(basename $(notdir $(wildcard benchmarks/*.py))))
SOURCES := $(wildcard $(shell git ls-files --cached --others --exclude-standard))
export PATH := $(CURDIR)/$(BIN):$(PATH)
export OMP_NUM_THREADS ?= 1

.PHONY: course test book pdf serve release grade bench clean forget FORCE

# The whole course: book built, exercises released, a sample class graded; the addresses at the end.
course: .venv/installed
	@echo "== 1/4  the book" && course build
	@echo "== 2/4  exercises, derived from the library" && course release
	@echo "== 3/4  a sample class of twelve" && course sample-class $(TOPIC)
	@echo "== 4/4  grading" && \
	  if python -c "from course_lib.grading.sandbox import require_sandbox as r; r()" 2>/dev/null; then course grade $(TOPIC); \
	  else echo "No sandbox on this machine (bubblewrap): our own sample class is graded without one."; \
	    course grade $(TOPIC) --unsandboxed; fi
	@echo && echo "the book:      file://$(CURDIR)/_build/html/index.html"
	@echo "the exercise:  $(CURDIR)/exercises/$(TOPIC)/$(TOPIC).ipynb"
	@echo "the grades:    the table above; again with 'course grade $(TOPIC)'"
	@echo "the feedback:  $(CURDIR)/feedback/STUDENT/$(TOPIC)/$(TOPIC).html"

# Every test; none where nothing has changed since they all passed. Browser tests need a Chromium: one is found, or
# installed if that is possible, else they are skipped. With PYTEST="..." only what these arguments choose.
ifdef PYTEST
test: .venv/installed
	pytest -n 2 --dist loadgroup $(PYTEST)
else
test: .cache/tests-passed
	@echo "Every test passed on $$(cat $<); nothing has changed since."
endif

# What is deleted has no time of its own: the list of the sources is newer then.
.cache/sources: FORCE
	@mkdir -p .cache && echo $(SOURCES) | cmp -s - $@ || echo $(SOURCES) > $@

.cache/tests-passed: .venv/installed .cache/sources $(SOURCES)
	@for name in chromium chromium-browser google-chrome-stable google-chrome; do command -v $$name >/dev/null && exit 0; done; \
	  python -m playwright install chromium || echo "No Chromium found or installed: the browser tests will be skipped."
	ruff check . && ruff format --check .
	pytest -n 2 --dist loadgroup
	@mkdir -p .cache && date > $@

book release: .venv/installed
	course $(if $(filter book,$@),build,$@)

# The whole book on paper, by a Chromium: _build/pdf
pdf: book
	PYTHONPATH=book/_ext:. python -m reading_room.paper

# The built book at an address on this machine.
serve: .venv/installed
	python book/_ext/reading_room/serve.py

grade: .venv/installed
	course grade $(TOPIC)

# The studies behind the chapters' numbers; what is in benchmarks/results is not run again.
bench: .venv/installed
	for study in $(STUDIES); do python benchmarks/$$study.py || exit 1; done

# torch first and on its own: an ordinary Linux machine's wheel needs CUDA packages, a Mac's does not. Then the lock.
.venv/installed: requirements.txt pyproject.toml
	@echo "== the environment in .venv (a few minutes, once)"
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "Python 3.11 or newer is needed; set PYTHON=..."; exit 1; }
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --progress-bar on -c requirements.txt torch==2.13.0
	$(BIN)/python -m pip install --progress-bar on --no-deps -r requirements.txt
	$(BIN)/python -m pip install --no-deps --no-build-isolation --editable .
	touch $@

# What can be made again. The class's work and marks stay.
clean:
	rm -rf _build .cache .jupyter_cache

# The class's work and marks, for good: for the sample class, before the first real work comes in.
forget:
	rm -rf submitted autograded feedback gradebook.db .cache/grading
