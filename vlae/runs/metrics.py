"""Every metric: its name in results.json or metrics.jsonl, its unit, what it says, and which direction is better.

A metric of results.json is named by its keys with dots between them: ``test.log_likelihood.own.mean``. Tables, figures,
conditions and Python take this name; on Weights & Biases and TensorBoard it has slashes in place of the dots. Metrics
of each epoch have slashes everywhere: ``validation/elbo_nats`` is a key of a line of metrics.jsonl.
"""

import functools
import re
import textwrap
from typing import NamedTuple

HIGHER, LOWER = 1, -1


class Metric(NamedTuple):
    """One metric, or several whose names differ in a ``<part>``."""

    name: str
    unit: str  # empty: a number without a unit
    text: str
    better: int = 0  # HIGHER, LOWER, or 0 where neither can be said


PARTS = {
    "<estimator>": "own, fitted or another one of evaluate.proposals: what importance samples are drawn from",
    "<posterior>": "own, the model's q(z | x); or fitted, the weighted samples of the fitted proposal",
    "<set>": "validation, or test with trainer.selection=test",
    "<t>": "0, 1, 2, ...",
    "<parameter>": "log_variance for Gaussian outputs",
}
"""Values of the parts."""


def _parse(table: str) -> tuple[Metric, ...]:
    """Metrics from lines of name, unit, direction and text. A line in brackets: how the names below it begin.

    ± behind the direction: its standard error is a metric too.
    """
    found, prefix = [], ""
    for line in table.strip().splitlines():
        if line[0] == "[":
            prefix = line[1:-1]
            continue
        name, unit, direction, text = re.split("  +", line, maxsplit=3)
        better = {"+": HIGHER, "-": LOWER, ".": 0}[direction[0]]
        found.append(Metric(prefix + name, unit.replace("-", ""), text, better))
        if direction.endswith("±"):
            stem = name.removesuffix("mean") if name.endswith("mean") else f"{name}_"
            found.append(
                Metric(f"{prefix}{stem}standard_error", unit, "standard error of it over test images", LOWER)
            )
    return tuple(found)


_CHAINS = """
num_images                        images   .   images that were annealed
num_chains                        chains   .   independent chains per image
num_distributions                 -        .   steps of a chain from the prior to p(z | x)
num_leapfrog                      -        .   steps of a Hamiltonian move
ess_median                        chains   +   effective number of chains of the median image
ess_min                           chains   +   effective number of chains of the worst image
monte_carlo_error_median          nats     -   standard error of the median image's own estimate
acceptance                        -        .   share of the moves that were accepted
proposals.<estimator>.mean        nats     .±  log-likelihood by the estimator on these images
proposals.<estimator>.difference  nats     .±  the estimator's minus the annealed
""".strip()

_BRACKET = """
lower.mean         nats      .±  lower bound of log p(x), in expectation
upper.mean         nats      .±  upper bound of log p(x), as far as the chains have forgotten their start
gap                nats      -±  upper minus lower bound
num_images         images    .   images that were bracketed
num_chains         chains    .   independent chains per image
num_distributions  -         .   steps of a chain from the fitted proposal to p(z | x)
num_leapfrog       -         .   steps of a Hamiltonian move
ess_median         chains    +   effective number of chains of the median image
ess_min            chains    +   effective number of chains of the worst image
acceptance         -         .   share of the moves that were accepted
proposals.<estimator>.mean        nats  .±  log-likelihood by the estimator on these images
proposals.<estimator>.difference  nats  .±  the estimator's minus the lower bound
""".strip()

RESULTS = _parse(f"""
[test.]
elbo  nats     +±  ELBO per test image, by the model's own q(z | x)
[test.log_likelihood.<estimator>.]
mean                      nats     +±  log-likelihood per test image by this estimator
estimator_error.monte_carlo  nats  -   standard error of that mean by the noise of the samples alone
estimator_error.bias      nats     -   upper estimate of how much that mean is too low in expectation
estimator_error.total     nats     -   both together: the truth is no farther away in 95 of 100 cases
num_samples               samples  .   the most importance samples per image
num_images                images   .   test images that were scored
elbo                      nats     +±  ELBO per test image with this q
ess_median                samples  +   effective sample size of the median image
ess_min                   samples  +   effective sample size of the worst image
k_hat_limit               -        .   Pareto k-hat above which an image's estimate is unreliable
k_hat_unreliable          -        -   share of the images with a k-hat above the limit
k_hat_unknown             images   .   images with too few samples for a k-hat
monte_carlo_error_median  nats     -   standard error of the median image's own estimate
samples_mean              samples  .   importance samples per image that are averaged, without the pilot
samples_for_a_tenth       samples  -   samples that the median image needs for a standard error of 0.1 nats
mean_in_model_space       nats     +   log-likelihood without the Jacobian of the logit transform
difference                nats     .±  mean minus that of the common proposal (fitted or laplace), on the same images
difference_from           text     .   the common proposal
mode_search.steps_mean    steps    .   steps of the search for the mode, per image
mode_search.steps_max     steps    .   steps of the longest search
mode_search.converged     images   .   searches that converged
mode_search.stalled       images   .   searches that found no better point
mode_search.unconverged   images   .   searches that ended at the limit of steps
components_mean           -        .   modes of an image that the proposal fitted has found, mean
stages.fit                images   .   images that were fitted, all of them
stages.longer             images   .   those whose pilot had a bad k-hat: longer chains around more modes
stages.annealed           images   .   those with a bad k-hat after that: annealed samples
unreliable_images.number  images   -   images with a bad k-hat after all stages
unreliable_images.positions  text  .   the positions of the first 20 of these in the test set, from 0
[test.log_likelihood.ais.]
mean                 nats     +±  log-likelihood by annealed importance sampling, first images
mean_in_model_space  nats     +   without the Jacobian of the logit transform
{_CHAINS}
[test.bracket.real.]
{_BRACKET}
[test.bracket.simulated.]
{_BRACKET.replace("as far as the chains have forgotten their start", "in expectation: it starts from the true z")}
[test.bracket.calibration.<posterior>.]
num_images     images  .   images drawn from the model, whose true z is known
coverage_50    share   .±  share of them whose true z lies in the region of 50 %; p(z | x): 0.5
coverage_90    share   .±  share of them whose true z lies in the region of 90 %; p(z | x): 0.9
rank_distance  share   -   largest distance of the ranks of the true z from uniform ones
[test.bdmc.]
lower.mean  nats     .±  lower bound of the truth, on images drawn from the model
upper.mean  nats     .±  upper bound of the truth, on the same images
gap         nats     -±  upper minus lower bound
{_CHAINS}
[test.gaps.]
num_images         images   .   the first test images, whose gaps were measured
elbo               nats     +   ELBO on these images
optimal_elbo       nats     +   ELBO of the best member of the model's family
log_likelihood     nats     +   the best estimate of log p(x) on these images
log_likelihood_by  text     .   the estimator of that, or those of both halves of the images
approximation      nats     -±  log p(x) minus the ELBO of the best member
amortisation       nats     -±  ELBO of the best member minus the model's own
iterations         -        .   refinements of the model's own inference
[test.]
bits_per_dim          bits     -   per dimension of dequantised integer pixels; else missing
uniform_bits_per_dim  bits     .   the same of a uniform distribution over pixel levels
[]
best_epoch       epochs   .   the epoch whose model is evaluated
epochs           epochs   .   epochs that were trained
validation.elbo  nats     +   ELBO per validation image, best epoch
[cost.]
train_seconds                    s        -   training, all attempts together
train_seconds_taken_over         s        .   its part that another run of the same training has computed
seconds_per_epoch                s        -   training, per epoch
evaluate_seconds                 s        -   evaluation
evaluate_seconds_taken_over      s        .   its part that other runs have computed
seconds_by_proposal.<estimator>  s        -   evaluation by this estimator
seconds_by_stage.<estimator>.fit       s  -   its modes, chains and pilot, before the samples that are averaged
seconds_by_stage.<estimator>.longer    s  -   its longer chains, and their pilot
seconds_by_stage.<estimator>.annealed  s  -   its annealed samples
ais_seconds                      s        -   annealed importance sampling
bracket_seconds                  s        -   the bounds of log p(x), and the calibration
bdmc_seconds                     s        -   the bracket of the truth
peak_memory_bytes                bytes    -   peak of the GPU's memory, or of the process on a CPU
parameters                       -        -   numbers that the model has learned
[environment.]
vlae          text     .   version of the package
code.hash     text     .   hash of the code that was executed
code.commit   text     .   the commit that it is based on
code.changed  boolean  .   true: with changes since
training.code   text     .   hash of the code that trained the model
training.torch  text     .   version of PyTorch that trained it
scoring.code    text     .   hash of the code that scored it, where others have scored a part
scoring.torch   text     .   version of PyTorch that scored it
python        text     .   version of Python
torch         text     .   version of PyTorch
device        text     .   where the run was computed
threads       -        .   CPU threads
platform      text     .   operating system
host          text     .   name of the machine
""")
"""Metrics in results.json."""

DERIVED = _parse("""
test.log_likelihood.<estimator>.unreliable  boolean  .   true: marked †, its estimator error is above 0.1 nats
""")
"""Metrics that tables compute."""

EPOCHS = _parse("""
epoch                      epochs   .   the epoch, from 1
global_step                steps    .   gradient steps up to its end
train/elbo_nats            nats     +   ELBO per training image in model space, mean over the epoch
train/reconstruction_nats  nats     +   its part E log p(x | z)
train/kl_nats              nats     .   its part KL(q || p)
train/iwae_bound_nats      nats     +   the bound of trainer.objective=iwae
<set>/elbo_nats            nats     +   ELBO per image of the selection set, in model space
<set>/reconstruction_nats  nats     +   its part E log p(x | z)
<set>/kl_nats              nats     .   its part KL(q || p)
<set>/elbo_nats_after_<t>  nats     +   ELBO after t updates of the posterior's mode
gradient_norm              -        .   norm of the last step's gradient
learning_rate              -        .   of the optimizer
output/<parameter>         -        .   a learned number of the output distribution
memory_bytes               bytes    .   peak of memory so far
seconds                    s        .   of this epoch
""")
"""Metrics of an epoch in metrics.jsonl."""


def metric(name: str) -> Metric | None:
    """The metric of this name; None: there is none.

    >>> metric("test.log_likelihood.laplace.mean").unit
    'nats'
    """
    return next((each for pattern, each in _patterns() if pattern.fullmatch(name)), None)


@functools.cache
def _patterns() -> list[tuple[re.Pattern[str], Metric]]:
    parts = {
        "estimator": "(?!ais)[^./]+",
        "posterior": "[^./]+",
        "set": "(validation|test)",
        "t": "[0-9]+",
        "parameter": "[^/]+",
    }

    def pattern(name: str) -> re.Pattern[str]:
        return re.compile(re.sub("<([a-z]+)>", lambda part: parts[part[1]], re.escape(name)))

    return [(pattern(each.name), each) for each in (*RESULTS, *DERIVED, *EPOCHS)]


def better(name: str) -> int:
    """HIGHER, LOWER, or 0 where neither can be said.

    >>> better("validation/elbo_nats") == HIGHER
    True
    """
    found = metric(name)
    return found.better if found else 0


def unit(name: str) -> str:
    """The unit of a metric; empty: it has none, or is unknown."""
    found = metric(name)
    return found.unit if found else ""


def listing(columns: int | None = None) -> str:
    """The output of ``vlae metrics``: one line per metric, or two on a terminal of too few columns."""
    groups = {
        "Of a run: keys of results.json, columns of tables, --metric, --where, Python": (*RESULTS, *DERIVED),
        "Of an epoch: keys of a line of metrics.jsonl, and of charts": EPOCHS,
    }
    width = max(len(each.name) for group in groups.values() for each in group)
    lines = []
    for title, group in groups.items():
        lines += [title, *(_line(each, width) for each in group), ""]
    lines += [f"{part}: {text}" for part, text in PARTS.items()]
    lines.append("(+): higher is better; (-): lower is better")
    lines.append("On Weights & Biases and TensorBoard: / in place of each dot (test/log_likelihood/own/mean)")
    if columns is None or columns >= max(map(len, lines)):
        return "\n".join(lines)
    return "\n".join(_narrow(line, columns) for line in lines)


def _narrow(line: str, columns: int) -> str:
    name, _, text = line.strip().partition("  ")
    if not line.startswith("  ") or not text:
        return textwrap.fill(line, columns, break_long_words=False)
    below = textwrap.TextWrapper(columns, initial_indent=" " * 6, subsequent_indent=" " * 6)
    return f"  {name}\n" + below.fill("  ".join(re.split(" {2,}", text.strip())))


def _line(each: Metric, width: int) -> str:
    sign = {HIGHER: " (+)", LOWER: " (-)", 0: ""}[each.better]
    return f"  {each.name:<{width}}  {each.unit:<7}  {each.text}{sign}"
