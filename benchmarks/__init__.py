"""Speed and memory of the platform beside a plain reference: ``python -m benchmarks``."""

import os

os.environ.setdefault(
    "KINETO_LOG_LEVEL", "99"
)  # torch's profiler reads it when imported, and would chat on stderr
