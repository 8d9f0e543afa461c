"""Programs that some tests need and Python does not bring: Slurm, LaTeX, a browser."""

import os
import shutil

import pytest

REQUIRED = "VLAE_REQUIRE_PROGRAMS"


def do_without(reason: str) -> None:
    """Skips the test; with VLAE_REQUIRE_PROGRAMS=1 that is a failure."""
    if os.environ.get(REQUIRED) == "1":
        pytest.fail(f"{REQUIRED}=1, but: {reason}")
    pytest.skip(reason)


def need(*programs: str, packages: str) -> None:
    """packages: of Debian, that have them."""
    if missing := [name for name in programs if shutil.which(name) is None]:
        do_without(f"no {', '.join(missing)}: apt-get install {packages}")
