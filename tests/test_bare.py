"""A user's own model whose posteriors are a ``Posterior`` and no more: which runs work, and which are refused."""

import pytest

import vlae.models.vae
from vlae.config.compose import compose
from vlae.config.problems import ConfigError
from vlae.experiment.single_run import run_configuration
from vlae.models.vae import VAE


class Bare(VAE):
    def posterior(self, x, noise):
        return BarePosterior(super().posterior(x, noise))


class BarePosterior:
    def __init__(self, q):
        self.noise_dim, self.rsample_with_log_prob = q.noise_dim, q.rsample_with_log_prob


@pytest.fixture
def container(monkeypatch, tmp_path):
    """``container(*overrides)``: the configuration of a run of it."""
    monkeypatch.setattr(vlae.models.vae, "Bare", Bare, raising=False)
    section = {"name": "mine", "_target_": "vlae.models.vae.Bare", "latent_dim": 2, "hidden_dims": [3]}
    tiny = ("trainer.epochs=1", "evaluate.num_samples=20", "evaluate.num_images=5", "device=cpu")
    return lambda *overrides: (
        compose([*tiny, f"runs_dir={tmp_path / 'runs'}", *overrides]) | {"model": section}
    )


@pytest.mark.slow
def test_a_bare_run_has_all_results_but_gaps(container, capsys):
    results = run_configuration(container())
    assert results["test"]["gaps"] is None
    assert set(results["test"]["log_likelihood"]) == {"own", "fitted"}
    assert (
        "warning: no gaps: BarePosterior is no vlae.distributions.posteriors.FamilyMember"
        in capsys.readouterr().err
    )


@pytest.mark.slow
@pytest.mark.parametrize(
    ("override", "text", "lacking"),
    [
        ("evaluate.proposals=[own,mixture]", "evaluate.proposals: mixture needs", "log_prob, parameters, "),
        ("evaluate.target_standard_error=0.1", "evaluate.target_standard_error: 0.1 needs", "log_prob, "),
        ("trainer.objective=iwae", "trainer.objective: iwae needs", "log_prob, parameters, "),
        ("trainer.kl=analytic", "trainer.kl: analytic needs", "kl_to_prior"),
    ],
)
def test_a_bare_model_refuses_other_needs_before_writing(override, text, lacking, container, tmp_path):
    with pytest.raises(ConfigError) as caught:
        run_configuration(container(override))
    [problem] = caught.value.problems
    assert problem.startswith(f"{text} posteriors with ")
    assert f"BarePosterior has no {lacking}" in problem
    assert not (tmp_path / "runs").exists()


@pytest.mark.slow
def test_all_needs_of_a_bare_model_are_reported_together(container):
    with pytest.raises(ConfigError) as caught:
        run_configuration(container("evaluate.proposals=[own,mixture]", "trainer.objective=iwae"))
    assert len(caught.value.problems) == 2
