.PHONY: help lint check quick test format bench

help:             ## this list
	@grep -E '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*##/\t/'

lint:             ## ruff, pyright, import layers
	ruff check .
	ruff format --check .
	pyright --pythonpath "$$(command -v python)"
	lint-imports

check:            ## lint and the quick tests, at the same time
	$(MAKE) --output-sync --jobs 2 lint quick

quick:
	pytest -n 2 -m "not slow"

test:             ## all tests
	pytest

format:           ## fix what ruff can fix
	ruff check --fix .
	ruff format .

bench:            ## speed and memory beside a plain reference
	python -m benchmarks
