"""Speed and memory of the platform beside a plain reference: ``python -m benchmarks``."""
