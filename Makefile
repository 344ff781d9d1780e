.DEFAULT_GOAL := help
.PHONY: help install upgrade format check test faults gpu
PYTHON ?= uv run python

help:     ## list these targets
	@grep -E '^[a-z]+:.*##' Makefile | sed 's/:.*##/\t/'

install:  ## install everything, and the hooks that format what you commit
	uv sync && uv run pre-commit install

upgrade:  ## move all packages to their newest versions, in requirements.lock and in uv's constraints
	uv pip compile --no-config --universal --python-version 3.11 --generate-hashes --no-header --upgrade \
		--group dev pyproject.toml -o requirements.lock
	uv run --no-project python tools/constraints.py

format:   ## format and mend what ruff can mend
	uv run ruff format . && uv run ruff check --fix .

check:    ## formatting, lint and types, changing nothing
	uv run ruff format --check . && uv run ruff check . && uv run mypy

test:     ## the tests, under five minutes
	uv run pytest

faults:   ## every kill, signal and dead store, some twenty minutes
	uv run pytest -m "faults or not faults" tests/faults tests/engine/checkpoints tests/engine/loading tests/test_sweep.py

gpu:      ## what only a GPU shows, in six minutes at most; without uv: make gpu PYTHON=python3
	timeout 360 $(PYTHON) -m pytest -m "gpu or not faults" -v tests/gpu tests/engine/loading/test_device.py
