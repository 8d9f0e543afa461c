"""Every model, output distribution and network together: a step of training and an evaluation by each proposal."""

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import HIDDEN, IMAGE, LATENT, PIXELS, make_images, make_output, noise

import vlae
from vlae.config.compose import compose
from vlae.config.problems import ConfigError
from vlae.config.targets import build
from vlae.estimation.estimators.importance import evaluate
from vlae.nn.networks import ConvEncoder, activation_layer, initialise
from vlae.seeding import generator
from vlae.training.objective import sample_terms

FILES = sorted((Path(__file__).parents[1] / "conf" / "model").glob("*.yaml"))
COMBINATIONS = [("gelu", "mlp", "bernoulli"), ("relu", "conv", "gaussian"), ("tanh", "conv", "bernoulli")]


@pytest.fixture(params=COMBINATIONS, ids="-".join)
def trained(request, model_file):
    """(model after one step, images)"""
    activation, network, output = request.param
    sizes = [f"dataset.sizes.latent_dim={LATENT}", f"dataset.sizes.hidden_dims={list(HIDDEN)}"]
    chosen = [f"model={model_file.stem}", f"model.activation={activation}", f"model.network={network}"]
    keys = compose([*chosen, *sizes])["model"]
    pixels = math.prod(IMAGE) if network == "conv" else PIXELS
    model = build(keys, pixels=pixels, image_shape=IMAGE, output=make_output(output))
    assert isinstance(model.encoder, ConvEncoder) == (network == "conv")
    for part in (model.encoder, model.decoder):
        assert any(isinstance(layer, type(activation_layer(activation))) for layer in part.modules())
    initialise(model, "paper", generator("cpu", "every network", model_file.stem))
    x = make_images(output, pixels=pixels).float()
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-4)
    (-sample_terms(model, x, noise(dtype=x.dtype), 1).log_weights.mean()).backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert torch.isfinite(parameter.grad).all(), name
        assert parameter.grad.abs().max() > 0, name
    optimizer.step()
    return model, x


@pytest.fixture(params=FILES, ids=lambda path: path.stem)
def model_file(request):
    return request.param


@pytest.mark.slow
def test_every_model_trains_and_evaluates_with_every_network(trained):
    model, x = trained
    for proposal in ("own", "laplace"):
        scored = evaluate(model, x, proposal=proposal, num_samples=30, memory_budget=16, seed=0)
        assert torch.isfinite(scored.log_likelihood).all()
        assert (scored.elbo <= scored.log_likelihood).all()


@pytest.mark.slow
def test_a_convolutional_run_is_trained_scored_and_loaded(tmp_path):
    overrides = ["model.network=conv", "model.activation=gelu", "model.hidden_dims=[6]", "model.latent_dim=2"]
    overrides += ["trainer.epochs=1", "evaluate.num_samples=5", "evaluate.num_images=4", "device=cpu"]
    results = vlae.run([*overrides, f"runs_dir={tmp_path}"], quiet=True)
    run = tmp_path / results["run_id"]
    assert json.loads((run / "results.json").read_text())["test"]["elbo"] == results["test"]["elbo"]
    trained = vlae.load(str(run))
    assert trained.sample(3).shape == (3, 1, 8, 8)


@pytest.mark.slow
def test_images_too_small_for_convolutions_are_refused(tmp_path):
    images = np.random.default_rng(0).random((20, 2, 3))
    np.savez(tmp_path / "small.npz", train=images, test=images, validation=images)
    dataset = ["dataset=npz", f"dataset.path={tmp_path / 'small.npz'}", f"runs_dir={tmp_path / 'runs'}"]
    with pytest.raises(ConfigError, match=r"model.network: .*2x3"):
        vlae.run([*dataset, "model.network=conv"], quiet=True)
    assert not (tmp_path / "runs").exists()
