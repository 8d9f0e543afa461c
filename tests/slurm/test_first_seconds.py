"""A job on a real Slurm that is signalled before Python listens starts again, and makes no attempt before."""

from pathlib import Path

from slurm.cluster import Cluster, wait_until
from slurm.test_launcher import URGENT, claims, job_of, launch, place, slurm, wait_for
from vlae.launching.queues import all_queues

__all__ = ["place"]

SETUP = (
    "hydra.launcher.setup=[touch {place}/setup-$SLURM_RESTART_COUNT, "
    "'until test -n \"$VLAE_SIGNAL\" -o -e {place}/go-$SLURM_RESTART_COUNT; do sleep 0.1; done', "
    "touch {place}/python-$SLURM_RESTART_COUNT]"
)
"""It lasts until the job is signalled: Slurm may take seconds for that."""


def reached(place: Path, stage: str) -> None:
    wait_until((place / stage).exists, 180, lambda: f"no {stage}: {log(place)}", pause=0.02)


def log(place: Path) -> str:
    (queue,) = all_queues(place / "runs")
    return "".join(file.read_text() for file in (queue.path / "slurm").glob("*.out"))


def test_a_job_signalled_in_its_first_seconds_restarts(place, cluster):
    for start in ("1", "2"):
        (place / f"go-{start}").touch()
    launch(place, "seed=0", SETUP.format(place=place))
    job = job_of(place)
    reached(place, "setup-")
    slurm("scancel", "--signal=USR2", "--batch", job)  # while the setup runs
    reached(place, "python-1")
    slurm("scancel", "--signal=USR2", "--batch", job)  # while Python starts
    wait_for(place, "done")
    assert (place / "setup-2").exists(), log(place)
    assert not (place / "setup-3").exists()
    assert [len(attempts) for attempts in claims(place)] == [1], "none but that of the last start"


def test_a_job_preempted_in_its_first_seconds_restarts(place, alone, tmp_path_factory, monkeypatch):
    """Both get SIGTERM."""
    with Cluster(tmp_path_factory.mktemp("term"), user_signal=False) as plain:
        for name, value in plain.environment().items():
            monkeypatch.setenv(name, value)
        launch(place, "seed=0", SETUP.format(place=place))
        reached(place, "setup-")
        plain.submit(*URGENT)
        reached(place, "setup-1")
        plain.command("scancel", job_of(place))
        plain.wait_idle(90)
        assert plain.show(job_of(place))["Restarts"] == "1"
        assert plain.state(job_of(place)) in ("CANCELLED", "FAILED")
        wait_for(place, "interrupted")
        assert all(claim["slurm_restarts"] == 0 for (*attempts,) in claims(place) for claim in attempts)
