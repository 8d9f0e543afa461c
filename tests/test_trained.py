"""A trained model loaded back: the one the run evaluated, from its directory, its id or a prefix."""

import warnings

import numpy as np
import pytest
import torch

import vlae
from vlae.config.compose import compose
from vlae.config.problems import ConfigError
from vlae.config.run_id import run_id
from vlae.config.targets import build
from vlae.estimation.estimators.importance import evaluate
from vlae.experiment.prepare import select_device
from vlae.runs.directory import RunDirectory
from vlae.system.disk import RecordError
from vlae.training.epoch_metrics import mean_metrics
from vlae.training.loop import Training

TINY = (
    "model=vae", "dataset.sizes.latent_dim=3", "dataset.sizes.hidden_dims=[6,5]", "trainer.epochs=2",
    "evaluate.num_samples=20", "device=cpu",
)  # fmt: skip
CASES = {
    "gaussian": (),
    "diverging": ("trainer.epochs=6", "optimizer.lr=0.1"),  # the best epoch is not the last
    "logit": ("dataset.dequantise=true", "dataset.logit_transform=true", "model=vlae"),
    "bernoulli": ("output_dist=bernoulli", "trainer.precision=float64", "trainer.selection=test"),
}


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    """``done(case)``: the results of a run, and where runs are."""
    found: dict[str, dict[str, object]] = {}
    runs_dir = str(tmp_path_factory.mktemp("runs"))

    def run(case: str) -> tuple[dict[str, object], str]:
        if case not in found:
            found[case] = vlae.run([*TINY, *CASES[case], f"runs_dir={runs_dir}"], quiet=True)
        return found[case], runs_dir

    return run


def images(trained: vlae.experiment.trained_model.TrainedModel, split: str):
    splits = build(trained.config.dataset)
    return trained.preprocess.evaluation_set(getattr(splits, split), split)


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES)
def test_the_loaded_model_has_the_recorded_log_likelihoods(case, done):
    results, runs_dir = done(case)
    trained = vlae.load(results["run_id"], runs_dir)
    x = images(trained, "test")[:7]
    again = evaluate(trained.model, x, num_samples=20, memory_budget=16, seed=0)
    offset = trained.preprocess.unit_log_jacobian(x)
    recorded = np.load(trained.directory.path / "test_log_likelihood.npz")
    for name, ours in (("log_likelihood", again.log_likelihood + offset), ("elbo", again.elbo + offset)):
        np.testing.assert_allclose(ours.numpy(), recorded[name][:7], rtol=1e-4, atol=1e-4)
    assert len(recorded["log_likelihood"]) == 297
    np.testing.assert_allclose(
        recorded["log_likelihood"].mean(), results["test"]["log_likelihood"]["own"]["mean"], rtol=1e-12
    )


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES)
def test_the_loaded_model_is_that_of_the_best_epoch(case, done):
    results, runs_dir = done(case)
    trained = vlae.load(results["run_id"], runs_dir)
    assert (results["best_epoch"] < results["epochs"]) == (case == "diverging")
    name = results["selection"]
    assert name == ("test" if case == "bernoulli" else "validation")
    elbo = mean_metrics(trained.model, images(trained, name), seed=0)["elbo_nats"]
    lines = trained.directory.metrics()
    assert all(f"{name}/elbo_nats" in line for line in lines)
    assert elbo == pytest.approx(max(line[f"{name}/elbo_nats"] for line in lines), rel=1e-5)
    assert lines[results["best_epoch"] - 1][f"{name}/elbo_nats"] == pytest.approx(elbo, rel=1e-5)
    if name == "test":
        assert results["validation"]["elbo"] is None
    else:
        offset = trained.preprocess.unit_log_jacobian(images(trained, name)).mean().item()
        assert results["validation"]["elbo"] == pytest.approx(elbo + offset, rel=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("case", sorted(CASES.keys() - {"diverging"}))
def test_posterior_and_decoder_reconstruct_images(case, done):
    results, runs_dir = done(case)
    trained = vlae.load(results["run_id"], runs_dir)
    splits = build(trained.config.dataset)
    x = trained.to_model_space(splits.test[:4])
    assert x.dtype == trained.preprocess.dtype
    posterior = trained.posterior(x)
    noise = torch.randn(6, 4, posterior.noise_dim, dtype=x.dtype)
    z, log_q = posterior.rsample_with_log_prob(noise)
    assert (z.shape, log_q.shape) == ((6, 4, 3), (6, 4))
    assert trained.decoder(z).shape == (6, 4, 64)
    for pictures in (trained.reconstruct(x), trained.sample(4)):
        assert pictures.shape == (4, 1, 8, 8)
        assert pictures.min() >= 0
        assert pictures.max() <= 1
    assert torch.equal(trained.sample(4), trained.sample(4))
    assert not torch.equal(trained.sample(4, seed=1), trained.sample(4))


@pytest.mark.parametrize("how", ["id", "prefix", "path"])
def test_a_run_is_loaded_by_id_prefix_or_path(how, done):
    results, runs_dir = done("gaussian")
    name = {
        "id": results["run_id"],
        "prefix": results["run_id"][:-3],
        "path": f"{runs_dir}/{results['run_id']}",
    }
    trained = vlae.load(name[how], "elsewhere" if how == "path" else runs_dir)
    assert trained.directory.run_id == results["run_id"]
    assert trained.results == results


@pytest.mark.slow
def test_a_second_call_returns_the_same_results_without_work(done, monkeypatch):
    results, runs_dir = done("gaussian")
    path = RunDirectory(f"{runs_dir}/{results['run_id']}").path
    monkeypatch.setattr(Training, "run", None)
    before = {file: file.stat().st_mtime_ns for file in path.rglob("*")}
    assert vlae.run([*TINY, *CASES["gaussian"], f"runs_dir={runs_dir}"], quiet=True) == results
    assert {file: file.stat().st_mtime_ns for file in path.rglob("*")} == before


@pytest.mark.slow
def test_a_done_run_with_an_edited_configuration_is_refused(tmp_path):
    overrides = [*TINY, f"runs_dir={tmp_path}"]
    results = vlae.run(overrides, quiet=True)
    path = tmp_path / results["run_id"] / "config.yaml"
    path.write_text(path.read_text().replace("latent_dim: 3", "latent_dim: 4"))
    for use in (lambda: vlae.run(overrides, quiet=True), lambda: vlae.load(results["run_id"], str(tmp_path))):
        with pytest.raises(RecordError, match=r"config\.yaml was edited by hand"):
            use()


def test_a_run_without_a_checkpoint_is_refused(tmp_path):
    container = compose(TINY)
    RunDirectory.create(tmp_path, run_id(container), container)
    with pytest.raises(RecordError, match=r"has no trained model yet \(state: new\)"):
        vlae.load("vae", str(tmp_path))


@pytest.mark.slow
def test_a_damaged_checkpoint_is_reported_and_the_previous_used(done, tmp_path):
    overrides = (*TINY, "seed=5", f"runs_dir={tmp_path}", "trainer.checkpoint_every=1e-9")
    results = vlae.run(overrides, quiet=True)
    last = tmp_path / results["run_id"] / "checkpoints" / "last.pt"
    content = bytearray(last.read_bytes())
    content[len(content) // 2] ^= 1
    last.write_bytes(content)
    with pytest.warns(UserWarning, match="is damaged"):
        vlae.load(results["run_id"], str(tmp_path))
    last.with_name("previous.pt").unlink()
    with warnings.catch_warnings(), pytest.raises(RecordError, match="no good checkpoint"):
        vlae.load(results["run_id"], str(tmp_path))


def test_auto_is_an_available_device():
    device = select_device("auto", "float32")
    assert torch.zeros(1, device=device).item() == 0


def test_a_missing_device_names_the_choices(done):
    results, runs_dir = done("gaussian")
    with pytest.raises(ConfigError, match=r"(?s)device: .*cuda:99.*cpu"):
        vlae.load(results["run_id"], runs_dir, device="cuda:99")


@pytest.mark.parametrize(
    "wrong",
    [
        torch.zeros(2, 1, 9, 9, dtype=torch.uint8),
        torch.zeros(2, 8, 8, dtype=torch.uint8),
        torch.zeros(2, 1, 8, 8),
        torch.full((2, 1, 8, 8), 17, dtype=torch.uint8),
    ],
    ids=["size", "axes", "type", "range"],
)
def test_images_unlike_the_datasets_are_refused(wrong, done):
    results, runs_dir = done("gaussian")
    trained = vlae.load(results["run_id"], runs_dir)
    with pytest.raises(ValueError, match=r"expected uint8 \[batch, 1, 8, 8\] from 0 to 16"):
        trained.to_model_space(wrong)


@pytest.mark.slow
def test_too_many_images_to_score_are_refused(tmp_path):
    np.savez(tmp_path / "mine.npz", train=np.random.RandomState(0).rand(30, 4, 4), test=np.zeros((9, 4, 4)))
    mine = ["dataset=npz", f"dataset.path={tmp_path / 'mine.npz'}", f"runs_dir={tmp_path / 'runs'}"]
    reason = "evaluate.num_images: expected 1 to 9, .* or null for all, got 10"
    with pytest.raises(ConfigError, match=reason):
        vlae.run([*TINY, *mine, "evaluate.num_images=10"], quiet=True)
    assert not (tmp_path / "runs").exists()
    results = vlae.run([*TINY, *mine, "evaluate.num_images=9"], quiet=True)
    assert results["test"]["log_likelihood"]["own"]["num_images"] == 9
    run = vlae.load(results["run_id"], str(tmp_path / "runs")).directory
    with pytest.raises(ConfigError, match=reason):
        vlae.run([*TINY, *mine, "evaluate.num_images=10"], quiet=True)
    assert [path.name for path in (tmp_path / "runs").glob("[!.]*")] == [run.run_id]


@pytest.mark.slow
def test_images_of_any_number_of_channels_get_pictures(tmp_path):
    np.savez(
        tmp_path / "five.npz",
        train=np.random.RandomState(0).rand(30, 5, 4, 4),
        test=np.random.RandomState(1).rand(9, 5, 4, 4),
    )
    results = vlae.run(
        [*TINY, "dataset=npz", f"dataset.path={tmp_path / 'five.npz'}", f"runs_dir={tmp_path / 'runs'}"],
        quiet=True,
    )
    assert (tmp_path / "runs" / results["run_id"] / "images" / "reconstructions.png").is_file()
