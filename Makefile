.DEFAULT_GOAL := help
.PHONY: help install upgrade format check test faults browser terminals gpu
PYTHON ?= uv run python

help:     ## list the targets
	@grep -E '^[a-z]+:.*##' Makefile | sed 's/:.*##/\t/'

install:  ## install all packages, and the pre-commit hooks that format each commit
	uv sync && uv run pre-commit install

upgrade:  ## update requirements.lock and uv's constraints to the newest versions
	uv pip compile --no-config --universal --python-version 3.11 --generate-hashes --no-header --upgrade \
		--group dev pyproject.toml -o requirements.lock
	uv run --no-project python tools/constraints.py

format:   ## format the code, and fix what ruff can fix
	uv run ruff format . && uv run ruff check --fix .

check:    ## check formatting, lint and types; change nothing
	uv run ruff format --check . && uv run ruff check . && uv run mypy

test:     ## run the tests: three minutes on two cores, with three workers; without workers: -n 0
	uv run pytest

faults:   ## run all tests, with the slow ones, and so all of the table in docs/reliability.md: half an hour
	uv run pytest -m "not browser and not gpu"

browser:  ## look at the pages of MLflow's UI in headless Chromium (Debian: apt install chromium): a minute
	uv run pytest -n 0 -m browser tests/browser

terminals: ## show each command in a terminal, and write what is seen to docs/terminal: three minutes or more
	uv run python tools/terminals.py

gpu:      ## run what needs a GPU, tests and benchmarks: at most eight minutes; without uv: make gpu PYTHON=python3
	$(PYTHON) -m benchmarks.gpu $(GPU)
