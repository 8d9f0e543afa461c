.PHONY: check test format bench

check:            ## what CI runs after the suite: lint, types, layers, quick tests (about a minute)
	ruff check .
	ruff format --check .
	pyright --pythonpath "$$(command -v python)"
	lint-imports
	pytest -m "not slow"

test:             ## everything
	pytest

format:           ## make `make check`'s first two lines pass
	ruff check --fix .
	ruff format .

bench:            ## speed and memory beside the reference
	python -m benchmarks
