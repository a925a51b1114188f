# Everything that can be done with a clone. It needs Python 3.11+ with pip, make and git;
# `make help` lists the targets. Each venv is made when first needed, and again when
# pyproject.toml changes.

ifndef PYTHON
PYTHON := $(shell for python in python3 python3.15 python3.14 python3.13 python3.12 python3.11; do \
	"$$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null \
	&& echo "$$python" && break; done)
endif
ifeq ($(PYTHON),)
$(error No Python 3.11 or newer found. To fix this: make PYTHON=/path/to/python3)
endif

VENV ?= .venv
BIN := $(VENV)/bin
PROTOS_VENV ?= .venv-protos
PEERS_VENV ?= .venv-peers
OLDEST_VENV ?= .venv-oldest
ALL_VENV ?= .venv-all
ifndef WHEEL_VENV
WHEEL_VENV := .venv-wheel-$(shell $(PYTHON) -c 'import sys; print("%d.%d" % sys.version_info[:2])')
endif
SAMPLE_VENV ?= .venv-sample
# numpy's floor has wheels for these only; and large extras have wheels for new releases late.
OLDEST_PYTHON ?= $(shell python3.11 -c '' 2>/dev/null && echo python3.11 || echo $(PYTHON))
# What goes into the sdist; it is built again when one of these is newer.
PACKED := $(shell find src protos tests conftest_examples docs changes tools .ci -type f \
	-not -path '*/_build/*' -not -name '*.pyc')
# The examples that are left to test-all.
NEED_EXTRAS := %/any_program/ %/on_ray/ %/tensorflow/ %/torch_all_reduce/
ALL_PYTHON ?= $(OLDEST_PYTHON)
PYTEST_ARGS ?=
BENCH_ARGS ?=
SECONDS ?= 600
WORKERS ?= 4
CASES ?= 200000
SEED ?= $(shell date +%s)
export PIP_DISABLE_PIP_VERSION_CHECK := 1

# Some distributions ship Python without ensurepip; then pip installs itself from outside.
make_venv = $(1) -m venv $(2) 2>/dev/null || { $(1) -m venv --clear --without-pip $(2) \
	&& $(1) -m pip --python $(2)/bin/python install --quiet pip; }

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help demo test test-all test-oldest test-wheel wheel-venv sample dist changelog fuzz examples lint \
	format types docs picture protos bench bench-peers bench-docs bench-page kill-moments soak clean

help: ## list the targets
	@sed -n 's/^\([a-z-]*\):.*## /\1\t/p' $(MAKEFILE_LIST) | expand -t 14

demo: $(VENV)/.installed-demo ## train a model on two workers and two parameter servers
	$(BIN)/python -m pytest conftest_examples/parameter_server -s -q

test: $(VENV)/.installed-test $(PROTOS_VENV)/.installed ## everything that needs no optional extra
	$(BIN)/python -m pytest $(PYTEST_ARGS)

# torch asks a name server who 127.0.0.1 is, at each connection: one that is silent is not worth 10 s.
test-all bench bench-peers bench-docs: export RES_OPTIONS := timeout:1 attempts:1

test-all: $(ALL_VENV)/.installed ## install every extra, and run what `make test` leaves out
	tools/need-programs.sh
	$(ALL_VENV)/bin/python -m pytest -m needs --extras=required $(PYTEST_ARGS)

test-oldest: $(OLDEST_VENV)/.installed ## the tests, with the oldest releases of all dependencies
	$(OLDEST_VENV)/bin/python -m pytest $(PYTEST_ARGS)

examples: $(VENV)/.installed-test ## each of conftest_examples that needs no extra, on its own
	set -e; for example in $(filter-out $(NEED_EXTRAS),$(wildcard conftest_examples/*/)); do \
		$(BIN)/python -m pytest -q "$$example"; done

fuzz: $(VENV)/.installed-test ## send the native runtime CASES=n calls that no client makes (SEED=n: which)
	$(BIN)/python -m pytest tests/native/fuzz --timeout=0 --fuzz-cases=$(CASES) --fuzz-seed=$(SEED) $(PYTEST_ARGS)

lint: $(VENV)/.installed-lint ## ruff: rules and format
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

format: $(VENV)/.installed-lint ## have ruff mend what it can
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

types: $(VENV)/.installed-test $(VENV)/.installed-types ## mypy, strict
	$(BIN)/mypy

docs: $(VENV)/.installed-docs ## the manual, into docs/_build/html
	$(BIN)/sphinx-build -W --keep-going -q -b html docs docs/_build/html

dist: dist/.built ## the sdist, and the wheel built from it, with their metadata checked

# What is under src/ stays out of reach: the tests come out of the sdist, and find the wheel.
test-wheel: wheel-venv ## the tests, out of the sdist, with the wheel (PYTHON=python3.12: with that one)
	rm -rf $(WHEEL_VENV)/suite
	mkdir $(WHEEL_VENV)/suite
	tar -xzf dist/*.tar.gz -C $(WHEEL_VENV)/suite --strip-components=1
	rm -r $(WHEEL_VENV)/suite/src
	cd $(WHEEL_VENV)/suite && ../bin/python -m pytest --ignore=tests/test_house.py $(PYTEST_ARGS)

wheel-venv: $(WHEEL_VENV)/.installed

# pyright brings its own node: what is found on the path may be of any age.
sample: export PYRIGHT_PYTHON_GLOBAL_NODE := 0
sample: $(SAMPLE_VENV)/.installed ## a project of its own, outside: mypy and pyright at their strictest, and run
	set -e; bin="$(abspath $(SAMPLE_VENV))/bin"; folder=$$(mktemp -d); trap 'rm -rf "$$folder"' EXIT; \
	cp -R tests/sample_project/. "$$folder"; cd "$$folder"; export PATH="$$bin:$$PATH"; \
	mypy .; pyright --pythonpath "$$bin/python"; python -m pytest -q -p no:cacheprovider; \
	pyright --pythonpath "$$bin/python" --verifytypes pytest_localcluster --ignoreexternal > types.txt \
	|| { cat types.txt; exit 1; }; grep score types.txt

changelog: $(VENV)/.installed-release ## show what the fragments in changes/ come to
	$(BIN)/towncrier build --draft --version next

picture: $(VENV)/.installed-test ## draw docs/red-report.svg again, from a test that really fails
	$(BIN)/python tools/picture.py

protos: $(PROTOS_VENV)/.installed ## generate the code of every .proto, the package's and the example's
	$(PROTOS_VENV)/bin/python tools/protos.py

# Without bytecode an import costs three times what a user's does.
bench: $(VENV)/.installed-test ## measure; peers too, where `make bench-peers` has been
	env -u PYTHONDONTWRITEBYTECODE $(BIN)/python -m tests.benchmarks --peers $(PEERS_VENV)/bin/python $(BENCH_ARGS)

bench-peers: $(PEERS_VENV)/.installed bench ## install TensorFlow, Dask, Ray and torch, and measure beside them

bench-docs: $(PEERS_VENV)/.installed $(VENV)/.installed-bench ## the same, and write docs/benchmarks.md of it
	env -u PYTHONDONTWRITEBYTECODE $(BIN)/python -m tests.benchmarks --peers $(PEERS_VENV)/bin/python \
		--write docs/benchmarks.md $(BENCH_ARGS)

bench-page: $(VENV)/.installed-bench ## draw docs/benchmarks.md and its plots again, from the last figures
	$(BIN)/python -m tests.benchmarks.page

kill-moments: $(VENV)/.installed-test ## kill pytest at 100 random moments, and see who is left
	$(BIN)/python -m tests.survivors.moments

soak: $(VENV)/.installed-test ## clusters of all kinds amid faults for SECONDS=n (WORKERS=n of xdist, SEED=n)
	$(BIN)/python -m tests.soak --seconds $(SECONDS) --workers $(WORKERS) --seed $(SEED)

clean: ## remove what was built; the venvs too
	rm -rf $(VENV) $(OLDEST_VENV) $(ALL_VENV) $(PROTOS_VENV) $(PEERS_VENV) $(SAMPLE_VENV) .venv-wheel-* \
		docs/_build build dist
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(BIN)/python:
	$(call make_venv,$(PYTHON),$(VENV))

$(VENV)/.installed-%: pyproject.toml | $(BIN)/python
	$(BIN)/python -m pip install --quiet --editable ".[$*]"
	@touch $@

$(OLDEST_VENV)/.installed: pyproject.toml tools/floors.py
	$(call make_venv,$(OLDEST_PYTHON),$(OLDEST_VENV))
	$(OLDEST_VENV)/bin/python tools/floors.py demo test > $(OLDEST_VENV)/constraints.txt
	$(OLDEST_VENV)/bin/python -m pip install --quiet --constraint $(OLDEST_VENV)/constraints.txt \
		--editable ".[test]"
	@touch $@

$(ALL_VENV)/.installed: pyproject.toml
	$(call make_venv,$(ALL_PYTHON),$(ALL_VENV))
	$(ALL_VENV)/bin/python -m pip install --quiet --editable ".[test-all]"
	@touch $@

dist/.built: $(PACKED) pyproject.toml Makefile README.md | $(VENV)/.installed-release
	rm -rf dist
	$(BIN)/python -m build --outdir dist . > /dev/null
	$(BIN)/python -m twine check --strict dist/*
	@touch $@

$(WHEEL_VENV)/.installed: dist/.built
	test -x $(WHEEL_VENV)/bin/python || { $(call make_venv,$(PYTHON),$(WHEEL_VENV)); }
	$(WHEEL_VENV)/bin/python -m pip install --quiet "$$(ls dist/*.whl)[test]"
	$(WHEEL_VENV)/bin/python -m pip install --quiet --force-reinstall --no-deps dist/*.whl
	@touch $@

# As a stranger's: the wheel, what it needs itself, and the two checkers.
$(SAMPLE_VENV)/.installed: dist/.built tests/sample_project/requirements.txt
	test -x $(SAMPLE_VENV)/bin/python || { $(call make_venv,$(PYTHON),$(SAMPLE_VENV)); }
	$(SAMPLE_VENV)/bin/python -m pip install --quiet --requirement tests/sample_project/requirements.txt dist/*.whl
	$(SAMPLE_VENV)/bin/python -m pip install --quiet --force-reinstall --no-deps dist/*.whl
	@touch $@

$(PROTOS_VENV)/.installed: tools/protos.py
	$(call make_venv,$(PYTHON),$(PROTOS_VENV))
	$(PROTOS_VENV)/bin/python -m pip install --quiet grpcio-tools==1.74.0 protobuf==6.31.1
	@touch $@

$(PEERS_VENV)/.installed: tests/benchmarks/peers.txt
	$(call make_venv,$(PYTHON),$(PEERS_VENV))
	$(PEERS_VENV)/bin/python -m pip install --quiet --requirement tests/benchmarks/peers.txt
	@touch $@
