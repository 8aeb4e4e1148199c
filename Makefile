# `make help` lists the targets. Everything runs in .venv, which each target sets up when it must.
SHELL := bash
MODEL ?= smollm2-135m
PY := .venv/bin/python
# A process per core, each with one thread (tests/conftest.py); a file stays in one, for what its tests share.
TESTS := $(PY) -m pytest -n auto --maxprocesses 4 --dist loadfile
export PYTHON BACKEND TORCH_INDEX INSTALLER

# Only what was given goes on the command line, so that defaults stay in conf/ alone.
CHOICES := model=$(MODEL) $(if $(TASK),task=$(TASK)) $(if $(DATA),data=$(DATA)) $(if $(SEED),seed=$(SEED)) $(ARGS)

# A misspelt variable would run something else than was meant.
KNOWN := MODEL TASK DATA SEED ARGS DATA_ROOT PYTHON BACKEND TORCH_INDEX INSTALLER PY SHELL TESTS
GIVEN := $(foreach v,$(.VARIABLES),$(if $(findstring command line,$(origin $(v))),$(v)))
UNKNOWN := $(filter-out $(KNOWN) MAKE% -*,$(GIVEN))
$(if $(UNKNOWN),$(error no such setting: $(UNKNOWN); use $(wordlist 1,10,$(KNOWN))))

.DEFAULT_GOAL := help
.PHONY: help setup reproduce doctor plan sweep study store test check unit recipe scale faults audit format bench peaks report \
	lock clean ready

help: ## this list
	@sed -n 's/^\([a-z]*\):.*## \(.*\)/  make \1\t\2/p' Makefile | expand -t 18
	@echo
	@echo 'MODEL=$(MODEL)  TASK=gsm8k|pubmedqa  DATA=bundled|local|hub  SEED=0  ARGS="any=override"'
	@echo 'for setup: PYTHON=/path/to/python  BACKEND=cpu|cuda  TORCH_INDEX=url  INSTALLER=uv|pip'

setup: ## make .venv from the lock; nothing to do the second time
	@requirements/setup.sh

reproduce: ready ## the whole experiment for MODEL, with its report
	@$(PY) -m pipeline $(CHOICES)

doctor: ## what this machine can run, what is missing and what to do about it
	@[ -x $(PY) ] || requirements/setup.sh
	@$(PY) -m pipeline.doctor

plan: ready ## what reproduce would run, with what is cached and what each stage needs
	@$(PY) -m pipeline $(CHOICES) ++dry_run=true

sweep: ready ## the experiment for seeds 0, 1 and 2, and one report over them
	@$(PY) -m pipeline -m experiment=seeds $(CHOICES)

study: ready ## does the criterion do the work? Five seeds on real data (DATA_ROOT=DIR), hours; into docs/study.md
	@$(PY) -m pipeline -m experiment=study model=$(MODEL) data=local data.root=$(or $(DATA_ROOT),../shared/datasets) $(ARGS)

report: ready ## the report again, from what is already there
	@$(PY) -m pipeline $(CHOICES) 'stages=[report]'

store: ready ## what lies in the store, its size, age and users; ARGS=prune, "export RUN FILE.tar.gz", "import FILE.tar.gz"
	@$(PY) -m pipeline.housekeeping $(or $(ARGS),list)

test: check unit recipe ## check, then the unit tests, then the whole pipeline on the tiny model

check: ready ## ruff, mypy and the contracts between the rooms
	@$(PY) -m ruff check .
	@$(PY) -m ruff format --check .
	@$(PY) -m mypy
	@.venv/bin/lint-imports --no-cache

unit: ready ## the unit tests
	@$(TESTS) tests/unit $(ARGS)

recipe: ready ## the recipe tests: the whole pipeline on the tiny model
	@$(TESTS) tests/recipe $(ARGS)

scale: ready ## every path of a run at the paper's scale, on miniatures, into docs/scale.md; not part of test
	@requirements/tokenizers.sh
	@code=0; $(PY) -m tests.scale.record $(ARGS) || code=$$?; $(PY) -m tests.scale.page --output docs/scale.md; exit $$code

faults: ready ## whole runs killed, shared and repeated, readers fuzzed, into docs/promises.md; a quarter of an hour on two cores
	@$(PY) -m tests.promises --output docs/faults.json $(ARGS); held=$$?; \
	$(PY) -m tests.promises.page docs/faults.json --output docs/promises.md && exit $$held

audit: ready ## known vulnerabilities of the locked packages, by the rule in docs/security.md; needs the public index
	@requirements/audit.sh

format: ready ## let ruff fix and format
	@$(PY) -m ruff check --fix .
	@$(PY) -m ruff format .

bench: ready ## the speed of the merging maths, into docs/benchmarks.md
	@mkdir -p docs && $(PY) -m tests.benchmarks.merging --output docs/benchmarks.md

peaks: ready ## memory and the cost of a sweep point, measured, into docs/scale.md
	@$(PY) -m tests.scale.peaks --output docs/scale/memory.json
	@$(PY) -m tests.benchmarks.sweep --output docs/scale/sweep.json
	@$(PY) -m tests.scale.page --output docs/scale.md

lock: ## resolve requirements/*.txt anew (needs uv)
	@requirements/lock.sh

clean: ## remove caches and build leftovers; keeps .venv and outputs/
	@rm -rf .mypy_cache .pytest_cache .ruff_cache .hypothesis build dist *.egg-info
	@find . -name __pycache__ -not -path './.venv/*' -prune -exec rm -rf {} +

ready:
	@requirements/setup.sh --quiet
