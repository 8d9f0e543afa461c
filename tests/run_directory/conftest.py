"""A run directory to be worked on."""

import os
from collections.abc import Iterator

import pytest

from run_directory.example import CONFIG, RUN_ID
from vlae.runs.directory import RunDirectory


@pytest.fixture(autouse=True, scope="module")
def _no_fsync() -> Iterator[None]:
    """It matters when the power fails, which no test can try, and takes most of the time."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda descriptor: None)
        yield


@pytest.fixture
def run(tmp_path) -> RunDirectory:
    return RunDirectory.create(tmp_path / "runs", RUN_ID, CONFIG)
