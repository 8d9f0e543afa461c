"""The semi-amortised VAE (Kim et al. 2018): the encoder's Gaussian, refined by gradient steps on the ELBO."""

from collections.abc import Callable
from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor

from vlae.distributions.posteriors import DiagonalGaussian, Images, Latent
from vlae.models.backbone import Backbone
from vlae.models.base import LatentVariableModel
from vlae.seeding import Noise

Positive = Annotated[float, Field(gt=0)]
Step = Callable[[Latent, Latent], Latent]
"""(parameter, gradient of its own image's ELBO) -> refined parameter."""


def ascent_step(step_size: float, clip_norm: float) -> Step:
    """One step of gradient ascent per image, the gradient's norm at most ``clip_norm``.

    >>> ascent_step(step_size=0.1, clip_norm=5.0)(torch.zeros(1, 2), torch.tensor([[30.0, 40.0]]))
    tensor([[0.3000, 0.4000]])
    """

    def step(value: Latent, gradient: Latent) -> Latent:
        norm = torch.linalg.vector_norm(gradient, dim=-1, keepdim=True)
        # max(1, .) and not min(1, clip / norm): the latter's derivative at norm 0 is NaN
        return value + step_size * gradient / torch.clamp(norm / clip_norm, min=1)

    return step


def original_step(step_size: float, clip_norm: float) -> Step:
    """The released code's step: down the ELBO, by the batch mean's gradient, divided by its squared norm.

    Three differences from the paper (docs/decisions/0001): mu + step * grad(loss) climbs the loss; the mean
    over the batch makes the step depend on the batch size; the divisor is max(1, |g|^2 / clip).
    """

    def step(value: Latent, gradient: Latent) -> Latent:
        loss_gradient = -gradient / len(gradient)
        divisor = torch.clamp(loss_gradient.square().sum(-1, keepdim=True) / clip_norm, min=1)
        return value + step_size * loss_gradient / divisor

    return step


def refine(
    model: LatentVariableModel,
    x: Images,
    start: tuple[Tensor, Tensor],
    noise: Noise,
    num_steps: int,
    step: Step,
) -> list[tuple[Tensor, Tensor]]:
    """(mu, log_variance) before and after each step, each step on a one-sample ELBO.

    The ELBO is summed over the batch, so each image has its own gradient, whatever else is in the batch. Where
    gradients are wanted the steps themselves are differentiated (create_graph).
    """
    training = torch.is_grad_enabled()
    path = [start]
    for _ in range(num_steps):
        with torch.enable_grad():
            mu, log_variance = path[-1] if training else (p.detach().requires_grad_() for p in path[-1])
            z, log_q = DiagonalGaussian(mu, log_variance).rsample_with_log_prob(noise(1, mu.shape[-1]))
            log_p = model.log_joint(x, z)
            gradients = torch.autograd.grad((log_p - log_q).sum(), (mu, log_variance), create_graph=training)
        path.append((step(mu, gradients[0]), step(log_variance, gradients[1])))
    return path if training else [(mu.detach(), log_variance.detach()) for mu, log_variance in path]


class SAVAE(LatentVariableModel):
    """q(z | x) = N(mu_T, diag exp(log_variance_T)), both refined by ``num_steps`` steps of gradient ascent.

    A step is step_size times the gradient of the image's one-sample ELBO, whose norm is at most ``clip_norm``
    (Kim et al. 2018, algorithm 1); training differentiates through all steps.

    >>> from vlae.distributions import GaussianOutput
    >>> from vlae.seeding import batch_noise, generator
    >>> model = SAVAE(Backbone(latent_dim=2, hidden_dims=[8], pixels=16, output=GaussianOutput()), num_steps=3)
    >>> noise = batch_noise(5, generator("cpu", 0), torch.float32)
    >>> [mu.shape for mu in model.refinements(torch.zeros(5, 16), noise)]  # the start, and after each step
    [torch.Size([5, 2]), torch.Size([5, 2]), torch.Size([5, 2]), torch.Size([5, 2])]
    """

    analytic_kl = True
    make_step = staticmethod(ascent_step)

    def __init__(
        self,
        backbone: Backbone,
        *,
        num_steps: Annotated[int, Field(ge=0)] = 4,
        step_size: Positive = 0.1,
        clip_norm: Positive = 5.0,
    ) -> None:
        super().__init__(backbone)
        self.amortised = backbone.gaussian_head()
        self.num_steps, self.step = num_steps, self.make_step(step_size, clip_norm)

    def posterior(self, x: Images, noise: Noise) -> DiagonalGaussian:
        return DiagonalGaussian(*self._path(x, noise)[-1])

    def stages(self, x: Images, noise: Noise) -> list[DiagonalGaussian]:
        return [DiagonalGaussian(*parameters) for parameters in self._path(x, noise)]

    def _path(self, x: Images, noise: Noise) -> list[tuple[Tensor, Tensor]]:
        return refine(self, x, self.amortised(self.encoder(x)), noise, self.num_steps, self.step)


class OriginalSAVAE(SAVAE):
    """SA-VAE with the released code's step: per batch in training and validation, image by image in evaluation."""

    batch_dependent = True
    validation_batch = 128  # as released: the step depends on it, and so does the best epoch

    make_step = staticmethod(original_step)
