"""Estimators on a decoder that others trained: ``python docs/results/foreign_decoder.py WEIGHTS.npz``.

The weights are those of a Bernoulli VAE of binarised MNIST in the repository lxuechen/BDMC, as arrays ``fc4.weight`` to
``fc6.bias``. Images are drawn from the decoder, so each has a z that is a sample of p(z | x).
"""

import argparse
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from vlae.distributions.outputs import BernoulliOutput
from vlae.estimation.ais import Annealed, anneal
from vlae.estimation.bounds import Chains, bound
from vlae.estimation.calibration import simulate
from vlae.estimation.estimators.importance import evaluate
from vlae.estimation.per_image import mean_and_standard_error
from vlae.estimation.proposals.fitted import FIRST, fit
from vlae.estimation.proposed import DecoderGroup
from vlae.models.backbone import Backbone
from vlae.models.vae import VAE
from vlae.nn.networks import Decoder

LATENT, HIDDEN, PIXELS = 50, 200, 784
BRACKET = Chains(num_chains=16, num_distributions=50, num_leapfrog=3)
"""The default of evaluate.bracket."""
SEED = 0


def decoder_of(file: Path) -> Decoder:
    """The decoder, with ELUs."""
    weights = np.load(file)
    layers = [nn.Linear(LATENT, HIDDEN), nn.Linear(HIDDEN, HIDDEN), nn.Linear(HIDDEN, PIXELS)]
    for layer, name in zip(layers, ("fc4", "fc5", "fc6"), strict=True):
        state = {key: torch.from_numpy(weights[f"{name}.{key}"]) for key in ("weight", "bias")}
        layer.load_state_dict(state)
    first, second, last = layers
    return Decoder(LATENT, nn.Sequential(first, nn.ELU(), second, nn.ELU()), last)


def bracket(decoder: Decoder, z: Tensor, x: Tensor, at_once: int = 64) -> tuple[Tensor, Tensor]:
    """Our lower and upper bound of each image, from the fitted proposal, in nats."""
    output = BernoulliOutput()
    found = []
    for images in torch.arange(len(x)).split(at_once):
        positions, scorer = images.tolist(), output.scorer(decoder)
        group = DecoderGroup(output, decoder, scorer, x[images], positions, SEED, "simulated", at_once=3000)
        bounds = bound(group, fit(group, FIRST), BRACKET, exact=z[images])
        found.append((bounds.forward.log_mean, -bounds.backward.log_mean))
    lower, upper = (torch.cat(parts) for parts in zip(*found, strict=True))
    return lower, upper


def annealed(decoder: Decoder, z: Tensor | None, x: Tensor, chains: int, distributions: int) -> Tensor:
    """log p(x) by annealing from the prior; from z back to it, if z is given; in nats."""
    result = Annealed.empty(len(x), num_chains=chains, num_distributions=distributions, num_leapfrog=2)
    how = {"memory_budget": 256, "seed": SEED, "name": "ais" if z is None else "back"}
    return anneal(BernoulliOutput(), decoder, x, result, exact=z, **how).log_likelihood


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("weights", type=Path)
    parser.add_argument("--images", type=int, default=256)
    parser.add_argument("--annealed-images", type=int, default=32, help="images of them that are annealed")
    parser.add_argument("--chains", type=int, default=4, help="chains of annealing from the prior")
    parser.add_argument("--distributions", type=int, default=10_000)
    options = parser.parse_args()
    torch.set_grad_enabled(False)
    torch.set_num_threads(1)
    decoder = decoder_of(options.weights)
    z, x = simulate(BernoulliOutput(), decoder, options.images, SEED)
    model = VAE(
        Backbone(latent_dim=LATENT, hidden_dims=[HIDDEN, HIDDEN], pixels=PIXELS, output=BernoulliOutput())
    )
    model.decoder = decoder
    scored = evaluate(model, x, proposal="fitted", num_samples=5000, memory_budget=256, seed=SEED)
    fitted = scored.log_likelihood
    lower, upper = bracket(decoder, z, x)
    some = options.annealed_images
    how = options.chains, options.distributions
    up, back = (annealed(decoder, start, x[:some], *how) for start in (None, z[:some]))
    print(f"{options.images} images drawn from the decoder, nats per image:\n")
    total = scored.estimator_error.total
    error = "unknown" if total is None else f"{total:.4f}"
    print(f"log p(x) by fitted: {fitted.mean():.3f}, estimator error {error}")
    print(
        f"bad k-hat: {(scored.k_hat > 0.7).double().mean():.1%}, ESS of the median image {scored.ess.median():.0f}"
    )
    rows = {
        "fitted - lower bound": fitted - lower,
        "upper bound - fitted": upper - fitted,
        f"fitted - annealing, {options.distributions} temperatures, {some} images": fitted[:some] - up,
        "annealing back - fitted": back - fitted[:some],
        "annealing - our lower bound": up - lower[:some],
        "our upper bound - annealing back": upper[:some] - back,
    }
    for name, values in rows.items():
        mean, error = mean_and_standard_error(values)
        print(f"{name}: {mean:+.3f} ± {error:.3f}")


if __name__ == "__main__":
    main()
