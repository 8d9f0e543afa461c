"""Posteriors and output distributions against torch.distributions."""

import math

import pytest
import torch
from conftest import IMAGES, LATENT, PIXELS, make_images, numbers, sigma_points
from scipy.stats import multivariate_t
from torch.distributions import Bernoulli, Independent, MultivariateNormal, Normal, kl_divergence

from vlae.distributions.flows import FlowedGaussian
from vlae.distributions.outputs import BernoulliOutput, GaussianOutput
from vlae.distributions.posteriors import (
    CholeskyGaussian,
    ClosedFormKL,
    DiagonalGaussian,
    FamilyMember,
    PrecisionGaussian,
    PrecisionStudentT,
    cholesky,
    require_closed_form_kl,
    require_family_member,
    standard_normal_log_prob,
)

BELOW = LATENT * (LATENT - 1) // 2
CLAMP = 0.05
LIMIT = math.log((1 - CLAMP) / CLAMP)


def precision_matrices():
    root = numbers(IMAGES, LATENT, LATENT, key="root")
    return root @ root.mT + 0.1 * torch.eye(LATENT).double()


def diagonal():
    return numbers(IMAGES, LATENT, key="mu"), 0.7 * numbers(IMAGES, LATENT, key="log_variance")


def gaussians():
    """(ours, torch's) for all parametrisations."""
    mu, log_variance = diagonal()
    precision = precision_matrices()
    log_diagonal, below = numbers(IMAGES, LATENT, key="log_diagonal"), numbers(IMAGES, BELOW, key="below")
    factor = torch.diag_embed(log_diagonal.exp())
    for place, (row, column) in enumerate((i, j) for i in range(LATENT) for j in range(i)):
        factor[:, row, column] = below[:, place]
    return [
        pytest.param(
            DiagonalGaussian(mu, log_variance),
            MultivariateNormal(mu, torch.diag_embed(log_variance.exp())),
            id="diagonal",
        ),
        pytest.param(
            PrecisionGaussian(mu, cholesky=cholesky(precision)),
            MultivariateNormal(mu, precision_matrix=precision),
            id="precision",
        ),
        pytest.param(
            CholeskyGaussian(mu, log_diagonal, below),
            MultivariateNormal(mu, scale_tril=factor),
            id="cholesky",
        ),
    ]


@pytest.mark.parametrize(("ours", "expected"), gaussians())
def test_log_density_of_a_sample_is_torchs_at_that_sample(ours, expected):
    z, log_q = ours.rsample_with_log_prob(numbers(6, IMAGES, LATENT, key="eps"))
    torch.testing.assert_close(log_q, expected.log_prob(z), rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize(("ours", "expected"), gaussians())
def test_samples_are_affine_in_noise_with_exact_mean_and_covariance(ours, expected):
    eps = numbers(6, IMAGES, LATENT, key="eps")
    z0, _ = ours.rsample_with_log_prob(torch.zeros_like(eps))
    torch.testing.assert_close(z0, expected.mean.expand_as(z0), rtol=1e-13, atol=1e-13)
    columns = torch.eye(LATENT).double().unsqueeze(1).expand(-1, IMAGES, -1)
    factor = (ours.rsample_with_log_prob(columns)[0] - expected.mean).permute(1, 2, 0)
    torch.testing.assert_close(factor @ factor.mT, expected.covariance_matrix, rtol=1e-10, atol=1e-10)
    z, _ = ours.rsample_with_log_prob(eps)
    torch.testing.assert_close(z - z0, torch.einsum("bij,sbj->sbi", factor, eps), rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize(("ours", "expected"), gaussians())
def test_entropy_and_divergence_from_the_prior_are_torchs(ours, expected):
    """log q and log p are quadratic in the noise, so their means over the sigma points are exact."""
    z, log_q = ours.rsample_with_log_prob(sigma_points(IMAGES, LATENT))
    torch.testing.assert_close(-log_q.mean(0), expected.entropy(), rtol=1e-11, atol=1e-11)
    prior = MultivariateNormal(torch.zeros(LATENT).double(), torch.eye(LATENT).double())
    kl = kl_divergence(expected, prior.expand((IMAGES,)))
    torch.testing.assert_close((log_q - standard_normal_log_prob(z)).mean(0), kl, rtol=1e-11, atol=1e-11)
    torch.testing.assert_close(ours.kl_to_prior(), kl, rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize(("ours", "expected"), gaussians())
def test_density_at_any_point_is_torchs(ours, expected):
    z = 3 * numbers(6, IMAGES, LATENT, key="foreign")
    torch.testing.assert_close(ours.log_prob(z), expected.log_prob(z), rtol=1e-11, atol=1e-11)


def test_precision_gaussian_samples_by_its_cholesky_factor():
    mu, precision = numbers(IMAGES, LATENT, key="mu"), precision_matrices()
    eps = numbers(6, IMAGES, LATENT, key="eps")
    z, _ = PrecisionGaussian(mu, cholesky=cholesky(precision)).rsample_with_log_prob(eps)
    L = torch.linalg.cholesky(precision)
    torch.testing.assert_close(torch.einsum("bji,sbj->sbi", L, z - mu), eps, rtol=1e-12, atol=1e-12)


def test_diagonal_gaussian_samples_mu_plus_sigma_times_the_noise():
    mu, log_variance = diagonal()
    eps = numbers(6, IMAGES, LATENT, key="eps")
    z, log_q = DiagonalGaussian(mu, log_variance).rsample_with_log_prob(eps)
    sigma = log_variance.exp().sqrt()
    torch.testing.assert_close((z - mu) / sigma, eps, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(log_q, Normal(mu, sigma).log_prob(z).sum(-1), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(("ours", "expected"), gaussians())
def test_noise_dim_is_the_noise_of_one_sample(ours, expected):
    assert ours.noise_dim == LATENT
    z, log_q = ours.rsample_with_log_prob(numbers(6, IMAGES, ours.noise_dim))
    assert (z.shape, log_q.shape) == ((6, IMAGES, LATENT), (6, IMAGES))


class Affine:
    """z = A z_0 + c, the same for all images."""

    orthogonal = False

    def __init__(self, A, c):
        self.A, self.c = A, c

    def _log_det(self, z):
        return torch.linalg.slogdet(self.A)[1].expand(z.shape[:-1])

    def __call__(self, z0):
        return z0 @ self.A.T + self.c, self._log_det(z0)

    def inverse(self, z):
        return torch.linalg.solve(self.A, (z - self.c).mT).mT, self._log_det(z)

    def parameters(self):
        return ()

    def with_parameters(self):
        return self

    def detach(self):
        return Affine(self.A.detach(), self.c.detach())


def affinely_flowed():
    """(ours, torch's): an affine flow makes a Gaussian of a Gaussian."""
    (mu, log_variance), A = diagonal(), numbers(LATENT, LATENT, key="A").requires_grad_()
    c = numbers(LATENT, key="c")
    ours = FlowedGaussian(DiagonalGaussian(mu, log_variance), Affine(A, c))
    return ours, MultivariateNormal(mu @ A.T + c, A @ torch.diag_embed(log_variance.exp()) @ A.T)


def test_flow_changes_the_density_by_its_determinant():
    q, expected = affinely_flowed()
    assert q.noise_dim == LATENT
    z, log_q = q.rsample_with_log_prob(numbers(6, IMAGES, LATENT, key="eps"))
    torch.testing.assert_close(log_q, expected.log_prob(z), rtol=1e-10, atol=1e-10)
    foreign = numbers(6, IMAGES, LATENT, key="foreign")
    torch.testing.assert_close(q.log_prob(foreign), expected.log_prob(foreign), rtol=1e-10, atol=1e-10)


def test_only_orthogonal_flows_have_a_closed_form_divergence():
    with pytest.raises(TypeError, match="Affine is not orthogonal"):
        affinely_flowed()[0].kl_to_prior()


# --- members of families ---------------------------------------------------------------------------------------


def members():
    """One of each family, its parameters with a gradient."""
    mu, log_variance = (p.requires_grad_() for p in diagonal())
    below = numbers(IMAGES, BELOW, key="below").requires_grad_()
    precision = PrecisionGaussian(mu, cholesky=cholesky(precision_matrices().requires_grad_()))
    return {
        "diagonal": DiagonalGaussian(mu, log_variance),
        "cholesky": CholeskyGaussian(mu, log_variance, below),
        "precision": precision,
        "student_t": PrecisionStudentT(precision, 3),
        "flowed": affinely_flowed()[0],
    }


@pytest.fixture(params=list(members()))
def member(request):
    return members()[request.param]


def test_density_at_a_sample_is_its_log_q(member):
    assert isinstance(member, FamilyMember)
    z, log_q = member.rsample_with_log_prob(numbers(6, IMAGES, member.noise_dim, key="eps"))
    torch.testing.assert_close(member.log_prob(z), log_q, rtol=1e-10, atol=1e-10)


def test_own_parameters_give_the_same_member(member):
    again = member.with_parameters(*member.parameters())
    assert type(again) is type(member)
    assert all(len(p) == IMAGES for p in member.parameters())
    eps, z = numbers(6, IMAGES, member.noise_dim, key="eps"), numbers(6, IMAGES, LATENT, key="foreign")
    for ours, expected in zip(
        again.rsample_with_log_prob(eps), member.rsample_with_log_prob(eps), strict=True
    ):
        torch.testing.assert_close(ours, expected, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(again.log_prob(z), member.log_prob(z), rtol=1e-12, atol=1e-12)


def test_a_detached_density_has_a_gradient_for_the_point_only(member):
    z = numbers(6, IMAGES, LATENT, key="foreign")
    constant = member.detach()
    assert member.log_prob(z).requires_grad
    assert not constant.log_prob(z).requires_grad
    assert not constant.rsample_with_log_prob(numbers(1, IMAGES, member.noise_dim))[0].requires_grad
    torch.testing.assert_close(constant.log_prob(z), member.log_prob(z).detach(), rtol=1e-12, atol=1e-12)
    slopes = [torch.autograd.grad(q.log_prob(z.requires_grad_()).sum(), z)[0] for q in (constant, member)]
    torch.testing.assert_close(*slopes, rtol=1e-10, atol=1e-10)


def test_any_parameters_make_a_member(member):
    arbitrary = [3 * numbers(*p.shape, key=str(i)) for i, p in enumerate(member.parameters())]
    q = member.with_parameters(*arbitrary)
    for ours, expected in zip(q.parameters(), arbitrary, strict=True):
        torch.testing.assert_close(ours, expected, rtol=1e-10, atol=1e-10)
    z, log_q = q.rsample_with_log_prob(numbers(6, IMAGES, q.noise_dim, key="eps"))
    assert torch.isfinite(z).all()
    assert torch.isfinite(log_q).all()


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["diagonal", "cholesky", "precision", "student_t"])
@torch.no_grad()
def test_density_integrates_to_one(kind):
    """Integral in two dimensions, over a grid; the rule is exact for densities that vanish at its edge."""
    side = torch.linspace(-40, 40, 1601, dtype=torch.float64)
    z, cell = torch.cartesian_prod(side, side).unsqueeze(1), (side[1] - side[0]) ** 2
    mu, log_variance = torch.tensor([[0.5, -1.0]]).double(), torch.tensor([[0.3, -0.6]]).double()
    precision = PrecisionGaussian(mu, cholesky=cholesky(torch.tensor([[[1.5, 0.7], [0.7, 1.0]]]).double()))
    q = {
        "diagonal": DiagonalGaussian(mu, log_variance),
        "cholesky": CholeskyGaussian(mu, log_variance, torch.tensor([[0.8]]).double()),
        "precision": precision,
        "student_t": PrecisionStudentT(precision),
    }[kind]
    assert abs(q.log_prob(z).exp().sum() * cell - 1) < 1e-8


class Bare:
    """A posterior with only the methods that plain training needs."""

    noise_dim = LATENT

    def rsample_with_log_prob(self, noise):
        return noise, standard_normal_log_prob(noise)


def test_an_incomplete_posterior_is_refused_with_the_missing_methods():
    with pytest.raises(
        TypeError, match=r"the gap needs .*Bare has no log_prob, parameters, with_parameters, detach"
    ):
        require_family_member(Bare(), "the gap")
    with pytest.raises(TypeError, match=r"trainer\.kl=analytic needs .*Bare has no kl_to_prior"):
        require_closed_form_kl(Bare(), "trainer.kl=analytic")
    assert not isinstance(
        PrecisionStudentT(PrecisionGaussian(diagonal()[0], cholesky=cholesky(precision_matrices()))),
        ClosedFormKL,
    )


def test_standard_normal_density_is_torchs():
    z = numbers(2, 3, LATENT)
    expected = Independent(Normal(torch.zeros_like(z), 1.0), 1).log_prob(z)
    torch.testing.assert_close(standard_normal_log_prob(z), expected, rtol=1e-13, atol=1e-13)


# --- output distributions --------------------------------------------------------------------------------------


def outputs():
    """f [samples, batch, pixels] for either output, large enough that a clamp binds here and there."""
    return 3 * numbers(6, IMAGES, PIXELS, key="f")


def test_gaussian_output_is_torchs_normal_with_one_variance():
    output, x, f = GaussianOutput().double(), make_images("gaussian"), outputs()
    output.initialise(0.37)
    expected = Normal(f, 0.37**0.5).log_prob(x).sum(-1)
    torch.testing.assert_close(output.log_prob(x, f), expected, rtol=1e-7, atol=1e-7)
    torch.testing.assert_close(output.log_variance.item(), math.log(0.37), rtol=1e-7, atol=0.0)
    assert torch.equal(output.mean(f), f)


def test_the_best_gaussian_output_variance_is_the_mean_squared_error():
    """The gradient by which it is learned vanishes there and has the right sign beside it."""
    output, x, f = GaussianOutput().double(), make_images("gaussian"), outputs()[0]
    for factor, sign in [(0.5, 1), (1.0, 0), (2.0, -1)]:
        with torch.no_grad():
            output.log_variance.fill_(torch.log(factor * (x - f).square().mean()))
        (slope,) = torch.autograd.grad(output.log_prob(x, f).sum(), output.log_variance)
        assert abs(slope) < 1e-12 if sign == 0 else slope * sign > 0.1


def test_bernoulli_output_is_torchs_bernoulli_with_logits():
    output, x, f = BernoulliOutput(), make_images("bernoulli"), outputs()
    expected = Bernoulli(logits=f).log_prob(x.expand_as(f)).sum(-1)
    torch.testing.assert_close(output.log_prob(x, f), expected, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(output.mean(f), Bernoulli(logits=f).mean, rtol=1e-13, atol=0.0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_bernoulli_with_enormous_logits_is_finite_and_exact(dtype):
    x = torch.tensor([[0.0, 1.0, 0.0, 1.0]], dtype=dtype)
    f = torch.tensor([[-500.0, 500.0, 300.0, -200.0]], dtype=dtype)
    assert BernoulliOutput().log_prob(x, f).tolist() == [-500.0]


def test_clamped_bernoulli_is_bernoulli_with_clamped_probabilities():
    output, x, f = BernoulliOutput(clamp=CLAMP), make_images("bernoulli"), outputs()
    p = torch.sigmoid(f).clamp(CLAMP, 1 - CLAMP)
    saturated = (f.abs() > LIMIT).double().mean()
    assert 0.1 < saturated < 0.9, "the test must see both"
    expected = Bernoulli(p).log_prob(x.expand_as(f)).sum(-1)
    torch.testing.assert_close(output.log_prob(x, f), expected, rtol=1e-12, atol=1e-12)


def test_clamped_bernoulli_has_no_gradient_where_the_clamp_binds():
    x, f = make_images("bernoulli"), outputs().requires_grad_()
    (gradient,) = torch.autograd.grad(BernoulliOutput(clamp=CLAMP).log_prob(x, f).sum(), f)
    free = f.abs() < LIMIT
    assert torch.all(gradient[~free] == 0)
    torch.testing.assert_close(gradient[free], (x - torch.sigmoid(f))[free], rtol=1e-11, atol=1e-12)


def test_bernoulli_score_and_curvature_are_derivatives_of_log_p():
    output, x, f = BernoulliOutput(), make_images("bernoulli"), outputs()[0].requires_grad_()
    (score,) = torch.autograd.grad(output.log_prob(x, f).sum(), f, create_graph=True)
    (second,) = torch.autograd.grad(score.sum(), f)
    torch.testing.assert_close(output.score(x, f), score, rtol=1e-11, atol=1e-12)
    torch.testing.assert_close(output.curvature(f), -second, rtol=1e-11, atol=1e-12)


def test_clamped_bernoulli_curvature_includes_the_clamp():
    f = outputs()[0]
    p = torch.sigmoid(f).clamp(CLAMP, 1 - CLAMP)
    curvature = BernoulliOutput(clamp=CLAMP).curvature(f)
    torch.testing.assert_close(curvature, p * (1 - p) + CLAMP, rtol=1e-12, atol=0.0)


@pytest.mark.parametrize("output", [GaussianOutput(), BernoulliOutput()], ids=["gaussian", "bernoulli"])
def test_log_density_is_independent_per_image(output):
    x, f = make_images("bernoulli" if output.support == "binary" else "gaussian"), outputs()
    together = output.log_prob(x, f)
    for image in range(IMAGES):
        alone = torch.cat([output.log_prob(x[image : image + 1], g[image : image + 1]) for g in f])
        torch.testing.assert_close(together[:, image], alone, rtol=1e-12, atol=1e-12)


# --- Student t -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("degrees", [3, 10])
def test_student_t_log_density_is_scipys(degrees):
    mu, precision = numbers(IMAGES, LATENT, key="mu"), precision_matrices()
    ours = PrecisionStudentT(PrecisionGaussian(mu, cholesky=cholesky(precision)), degrees)
    z, log_q = ours.rsample_with_log_prob(numbers(6, IMAGES, ours.noise_dim, key="eps"))
    for i in range(IMAGES):
        expected = multivariate_t(mu[i], torch.linalg.inv(precision[i]), df=degrees).logpdf(z[:, i])
        torch.testing.assert_close(log_q[:, i], torch.from_numpy(expected), rtol=1e-10, atol=1e-10)


def test_student_t_samples_have_its_mean_and_covariance():
    """Covariance P^-1 degrees / (degrees - 2)."""
    mu, precision, samples = numbers(1, LATENT, key="mu"), precision_matrices()[:1], 200_000
    ours = PrecisionStudentT(PrecisionGaussian(mu, cholesky=cholesky(precision)), degrees=10)
    z = ours.rsample_with_log_prob(numbers(samples, 1, ours.noise_dim, key="eps"))[0][:, 0]
    covariance = torch.linalg.inv(precision[0]) * 10 / 8
    white = torch.linalg.solve(torch.linalg.cholesky(covariance), (z - mu).T)
    assert white.mean(1).abs().max() < 5 / samples**0.5
    assert (white @ white.T / samples - torch.eye(LATENT)).abs().max() < 5 * (2.5 / samples) ** 0.5
