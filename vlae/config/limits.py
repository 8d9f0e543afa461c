"""Sizes of a run against the machine that executes it: what cannot fit is refused before anything starts.

Every estimate is a lower bound, so that nothing that could run is refused.
"""

import itertools
import math
import os
from collections.abc import Iterator
from typing import Any

from vlae.config.problems import Problem, format_value
from vlae.config.run_id import get
from vlae.config.schema import Evaluate
from vlae.config.targets import load_target
from vlae.system.machine import total_memory

NONSENSE = 2**50  # bytes that no machine has: the limit where a run is executed elsewhere
MOST_THREADS = 2**16  # where a run is executed elsewhere
FEWEST_PIXELS = 64  # pixels that an image of any dataset has


def beyond_the_machine(container: dict[str, Any], *, here: bool) -> list[Problem]:
    """Problems of the sizes of a valid configuration. here: this machine executes it, not another one."""
    limit, problems = memory_of_this_machine() if here else NONSENSE, []
    threads, most = container["num_threads"], (os.cpu_count() or 1) if here else MOST_THREADS
    if threads is not None and threads > most:
        those = ", the cores of this machine," if here else ""
        problems.append(Problem("num_threads", f"expected 1 to {most}{those} or null, got {threads}"))
    for key, what, size in _needs(container):
        if size > limit:
            machine = "this machine has" if here else "no machine has more than"
            text = f"{what} would take at least {_size_text(size)}, and {machine} {_size_text(limit)}"
            got = f"expected a size that fits into memory, got {format_value(get(container, key))}"
            problems.append(Problem(key, f"{got}: {text}"))
    return list({problem.key: problem for problem in reversed(problems)}.values())[::-1]


def memory_of_this_machine() -> int:
    """Bytes: the most of what the processor (in its container) and each GPU have."""
    import torch

    gpus = range(torch.cuda.device_count()) if torch.cuda.is_available() else ()
    return max([total_memory(), *(torch.cuda.get_device_properties(i).total_memory for i in gpus)])


def _needs(container: dict[str, Any]) -> Iterator[tuple[str, str, int]]:
    """The memory of each large part: the key that makes it large, its name, and its bytes."""
    model, trainer, evaluate = container["model"], container["trainer"], container["evaluate"]
    number = 8 if trainer["precision"] == "float64" else 4
    facts = getattr(load_target("dataset", container["dataset"]["_target_"]), "known", {})
    latent, hidden = model.get("latent_dim", 1), model.get("hidden_dims", [])
    widths = FEWEST_PIXELS + sum(hidden) + latent
    sizes = {
        "model.hidden_dims": max(hidden, default=1),
        "model.latent_dim": latent,
        "model.num_flows": model.get("num_flows", 1),
    }
    largest = max(sizes, key=lambda key: sizes[key])
    of_a_step = "trainer.num_samples" if trainer["num_samples"] > sizes[largest] else largest
    copies = 4 if "betas" in container["optimizer"] else 2  # weights, gradients, and two moments
    yield largest, "weights and the state of the optimizer", copies * number * _weights(model)
    # a batch has at most all training images, of which there is at least one
    batch = min(trainer["batch_size"], facts.get("training_images", 1))
    samples = batch * trainer["num_samples"]
    yield of_a_step, "the activations of one step", samples * widths * number
    covariances = batch if getattr(load_target("model", model["_target_"]), "covariances", False) else 1
    yield "model.latent_dim", "the covariances of one step", covariances * latent**2 * number
    images = min(evaluate["num_images"] or math.inf, facts.get("test_images", 1))
    # the largest weights of each image, for its k-hat
    tail = math.isqrt(evaluate["num_samples"]) * int(images) * 8
    yield "evaluate.num_samples", "the importance weights of the test images", tail
    yield "evaluate.memory_budget", "a chunk", evaluate["memory_budget"] * 2**20
    for name in Evaluate.sections():
        section = evaluate[name]
        if section.get("num_images", 1) or (name == "ais" and evaluate["bdmc"]):
            chains, steps = section.get("num_chains", 0), section.get("num_distributions", 0)
            of_chains = f"evaluate.{name}.num_chains" if chains > widths else largest
            yield of_chains, "the chains of one image", chains * widths * number
            yield f"evaluate.{name}.num_distributions", "the temperatures", steps * 8


def _weights(model: dict[str, Any]) -> int:
    """The least number of weights in encoder and decoder together."""
    widths = [*model.get("hidden_dims", []), model.get("latent_dim", 1)]
    image = FEWEST_PIXELS * widths[0] if model.get("network", "mlp") == "mlp" else 0
    flows = model.get("num_flows", 0) * model.get("latent_dim", 1)
    return 2 * (image + sum(a * b for a, b in itertools.pairwise(widths))) + flows


def _size_text(size: int) -> str:
    """``1.5 TiB``"""
    if size > 2**70:
        return f"2^{size.bit_length() - 1} bytes"
    power = min(6, max(0, size.bit_length() - 1) // 10)
    return f"{size / 2 ** (10 * power):.3g} {['bytes', 'KiB', 'MiB', 'GiB', 'TiB', 'PiB', 'EiB'][power]}"
