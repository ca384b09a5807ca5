# Everything that one does with the course. `make` alone lists it.
.DEFAULT_GOAL := help
SHELL := /bin/bash
# the first Python that runs and is new enough, yours first
SUITS := import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))
PYTHON ?= $(shell for p in python3 python3.11 python3.12 python3.13 python; do \
  $$p -c '$(SUITS)' 2>/dev/null && echo $$p && break; done)
BIN := .venv/bin
SCALE ?= laptop
# a seed is one program on one thread, so the seeds run side by side
JOBS ?= $(shell nproc 2>/dev/null || sysctl -n hw.ncpu 2>/dev/null || echo 2)

.PHONY: help install book serve lab labs reproduce verdicts demo test bench lock clean

help: ## list what there is to do
	@grep -hE '^[a-z]+:.*##' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-10s %s\n", $$1, $$2}'
	@echo "  make reproduce PAPER=heckel2021early SCALE=laptop   one paper; SCALE is smoke, laptop or paper"

install: .venv/installed ## make .venv and install the pinned requirements (2-3 minutes, once)

.venv/installed: requirements.txt constraints.txt pyproject.toml
	@test -n "$(PYTHON)" || { echo "No Python 3.11, 3.12 or 3.13 found: install one, or say make PYTHON=/path/to/it"; exit 1; }
	@$(PYTHON) -c '$(SUITS)' || { echo "The course needs Python 3.11 to 3.13, not $$($(PYTHON) -V)"; exit 1; }
	@test -x $(BIN)/python || $(PYTHON) -m venv .venv
	@echo "Installing the requirements into .venv (about 2 GB, 2-3 minutes) ..."
	@$(BIN)/python -m pip install --disable-pip-version-check -r requirements.txt
	@touch $@

book: install ## run what must run, build _build/html and say where to open it
	$(BIN)/jupyter-book build . -n -W --keep-going
	@echo "The book is built. Open $(CURDIR)/_build/html/index.html in a browser, or run: make serve"

serve: book ## show the built book at http://localhost:8000
	$(BIN)/python -m http.server 8000 --bind 127.0.0.1 --directory _build/html

lab: install ## open JupyterLab on labs/
	$(BIN)/jupyter lab --notebook-dir=labs

labs: install ## make labs/ and the executed solutions/ from solutions/*.py
	$(BIN)/python solutions/build.py

reproduce: install ## measure a paper's claims (PAPER=id, all without it; SCALE=smoke|laptop|paper)
	$(BIN)/python -m practicum reproduce $(PAPER) --scale $(SCALE) --jobs $(JOBS)

verdicts: install ## print every claim: the paper's number, ours, the verdict
	$(BIN)/python -m practicum verdicts $(PAPER)

demo: install ## play a semester of group reproductions in practicum-demo/ (2-3 minutes)
	$(BIN)/practicum demo

test: install ## everything that CI checks
	$(BIN)/python tests/stages.py

bench: install ## speed against what one would use instead, side by side
	@$(BIN)/python -m pip install -q --disable-pip-version-check --no-deps --upgrade --target _build/bench -r benchmarks/requirements.txt
	@for program in benchmarks/*.py; do $(BIN)/python $$program || exit 1; done

lock: install ## write constraints.txt anew from what is installed
	@{ sed -n '1p' constraints.txt; $(BIN)/python -m pip freeze --exclude-editable | grep -viE '^(torch|phenomena)[ =]'; } > constraints.part
	@mv constraints.part constraints.txt

clean: ## remove what was built (.venv stays)
	rm -rf _build
