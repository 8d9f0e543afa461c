.PHONY: lint check test format bench

lint:             ## lint, types, layers
	ruff check .
	ruff format --check .
	pyright --pythonpath "$$(command -v python)"
	lint-imports

check: lint       ## the same, and the quick tests
	pytest -m "not slow"

test:             ## everything
	pytest

format:           ## make `make check`'s first two lines pass
	ruff check --fix .
	ruff format .

bench:            ## speed and memory beside the reference
	python -m benchmarks
