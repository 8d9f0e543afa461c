"""An evaluation that is stopped anywhere resumes to the same scores."""

import signal
from functools import partial
from types import SimpleNamespace

import pytest
import torch

import vlae
from vlae.config.targets import build
from vlae.estimation.estimators import gaps
from vlae.estimation.estimators import importance as evaluation
from vlae.experiment.prepare import test_set as images_to_score
from vlae.experiment.saved_scores import NAME
from vlae.experiment.scoring import Scoring
from vlae.experiment.session import Session
from vlae.runs import checkpoint
from vlae.runs.directory import RunDirectory
from vlae.system.console import Reporter
from vlae.system.interruption import Interrupted, Interruption

TINY = (
    "model=vae", "dataset.sizes.latent_dim=3", "dataset.sizes.hidden_dims=[6,5]", "trainer.epochs=1",
    "evaluate.num_samples=20", "evaluate.num_gap_images=5", "evaluate.bdmc=true", "evaluate.ais.num_images=5",
    "evaluate.ais.num_distributions=5", "evaluate.ais.num_chains=2", "evaluate.num_images=6", "device=cpu",
    "trainer.precision=float64",
)  # fmt: skip


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A run, and its test images."""
    runs_dir = tmp_path_factory.mktemp("runs")
    results = vlae.run([*TINY, f"runs_dir={runs_dir}"], quiet=True)
    trained = vlae.load(str(RunDirectory(runs_dir / results["run_id"]).path))
    x = images_to_score(trained.preprocess, build(trained.config.dataset), trained.config)
    return trained, x[:6]


def score(trained, x, heartbeat=lambda progress: None, *, quiet=True):
    """The scores of these images, in a session whose attempt is the given function."""
    with Interruption() as interruption, Reporter(quiet=quiet) as reporter:
        attempt = SimpleNamespace(heartbeat=heartbeat)
        session = Session(trained.directory, attempt, interruption, reporter)
        return Scoring(session, trained, trained.config, x).run()


def forget(trained):
    """Delete the checkpoint of the evaluation."""
    for file in (trained.directory.path / "checkpoints").glob("*evaluation*"):
        file.unlink()


@pytest.fixture
def run(finished, monkeypatch):
    """``run(heartbeat)``: the scores, from the checkpoint where there is one; there is none before the first."""
    trained, x = finished
    monkeypatch.setattr(evaluation, "MAX_GROUP", 2)
    monkeypatch.setattr(gaps, "MAX_GROUP", 2)
    monkeypatch.setattr(gaps, "measure_gaps", partial(gaps.measure_gaps, steps=3))
    forget(trained)
    return lambda heartbeat=lambda progress: None: score(trained, x, heartbeat)


def figures(scores):
    """Every number but the seconds, also of the stages of a fit."""
    return {
        f"{what}, {name}": value
        for what, part in scores.results.items()
        for name, value in vars(part).items()
        if not name.endswith("seconds")
    }


def assert_equal(ours, expected):
    assert figures(ours).keys() == figures(expected).keys()
    for name, value in figures(expected).items():
        found = figures(ours)[name]
        if isinstance(value, torch.Tensor):
            assert torch.equal(found.nan_to_num(-1e9), value.nan_to_num(-1e9)), name
        else:
            assert found == value, name


@pytest.mark.slow
@pytest.mark.parametrize(
    ("part", "after", "done"),
    [
        ("evaluating image by own", 2, 2),
        ("evaluating image by fitted", 2, 2),
        ("evaluating simulated image by own", 2, 2),
        ("evaluating simulated image by fitted", 1, 1),
        ("measuring gaps, image", 0.5, 0),  # a group that is not whole is lost
        ("measuring gaps, image", 3, 2),
        ("measuring gaps, image", 5, 4),
    ],
)
def test_a_signalled_evaluation_resumes_with_the_same_metrics(part, after, done, run, finished):
    expected = run()
    forget(finished[0])

    def stop(progress):
        if progress["doing"] == part and progress["image"] >= after:
            signal.raise_signal(signal.SIGTERM)

    seen = []
    with pytest.raises(Interrupted):
        run(stop)
    again = run(seen.append)
    images = [progress["image"] for progress in seen if progress["doing"] == part]
    assert not any(image < done for image in images), "what was done is not done again"
    assert_equal(again, expected)


@pytest.mark.slow
def test_another_checkpoint_format_restarts_the_evaluation(finished, run, capsys):
    trained, x = finished
    expected = run()
    checkpoint.save(trained.directory.path / "checkpoints", {"proposals": {}, "seconds": 1.0}, NAME)
    found = score(trained, x, quiet=False)
    assert "warning: the evaluation starts over" in capsys.readouterr().err
    assert_equal(found, expected)
