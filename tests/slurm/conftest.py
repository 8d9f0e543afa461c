"""Slurm clusters for the tests in this directory, of which two run at a time."""

import itertools
from collections.abc import Generator, Iterator
from pathlib import Path

import pytest
from filelock import FileLock, Timeout
from programs import do_without

from slurm.cluster import Cluster, why_not

AT_A_TIME = 2


@pytest.hookimpl(tryfirst=True)  # before -m looks at the marks
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark the tests of this directory, and part them for two workers: pytest-xdist gives neighbours to one."""
    ours = [item for item in items if Path(__file__).parent in item.path.parents]
    for item in ours:
        item.add_marker(pytest.mark.slurm)
        item.add_marker(pytest.mark.slow)
    launcher = [item for item in ours if item.path.stem == "test_launcher"]
    rest, others = (
        [item for item in ours if item not in launcher],
        [item for item in items if item not in ours],
    )
    between = len(others) // 8  # within the first share of another worker
    items[:] = [*launcher, *others[:between], *rest, *others[between:]]


@pytest.fixture(scope="session")
def can_start() -> None:
    if reason := why_not():
        do_without(reason)


@pytest.fixture
def alone(can_start: None, tmp_path_factory: pytest.TempPathFactory, worker_id: str) -> Iterator[None]:
    """One of two places: tests mostly wait for Slurm, and more clusters at once would keep each other waiting.

    A lock for every test, since xdist_group has no effect with pytest 9.2 (pytest-xdist issue 1386), and one that
    a worker kept would be waited for by another one whose end it waits for.
    """
    own = tmp_path_factory.getbasetemp()
    shared = own if worker_id == "master" else own.parent
    locks = itertools.cycle([FileLock(shared / f"slurm{number}.lock") for number in range(AT_A_TIME)])
    for lock in locks:
        try:
            lock.acquire(timeout=0.5)
        except Timeout:
            continue
        try:
            yield
        finally:
            lock.release()
        return


@pytest.fixture(scope="session")
def started(can_start: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    with Cluster(tmp_path_factory.mktemp("slurm")) as cluster:
        yield cluster


@pytest.fixture
def cluster(alone: None, started: Cluster, monkeypatch: pytest.MonkeyPatch) -> Cluster:
    """Idle at the start, whatever the test before has done; Slurm's commands find it."""
    for name, value in started.environment().items():
        monkeypatch.setenv(name, value)
    started.reset()
    return started


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    if report.failed and "cluster" in getattr(item, "funcargs", {}):
        logs = item.funcargs["cluster"].logs()  # type: ignore[attr-defined]
        report.sections.append(("the daemons of Slurm", logs))
    return report
