.PHONY: help lint check test format bench

help:             ## this list
	@grep -E '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*##/\t/'

lint:             ## ruff, pyright, import layers
	ruff check .
	ruff format --check .
	pyright --pythonpath "$$(command -v python)"
	lint-imports

check: lint       ## lint and the quick tests
	pytest -n 2 -m "not slow"

test:             ## all tests
	pytest

format:           ## fix what ruff can fix
	ruff check --fix .
	ruff format .

bench:            ## speed and memory beside a plain reference
	python -m benchmarks
