"""The parts of an evaluation, and the settings that determine the result of each for a trained model."""

from typing import Any

from vlae.config.schema import Evaluate

SIMULATED_IMAGES = 16
"""Images drawn from the model if evaluate.ais.num_images is 0."""


def part_settings(evaluate: Evaluate) -> dict[str, dict[str, Any]]:
    """By the key of each part. Runs of the same weights and settings have the same numbers for an image.

    How many of the test images are scored is none of them; how many are drawn from the model is.

    >>> list(part_settings(Evaluate(num_gap_images=3)))
    ['proposals.own', 'proposals.laplace', 'gaps']
    """
    precision = evaluate.model_dump(include={"num_samples", "target_standard_error"})
    chains = evaluate.ais.model_dump(exclude={"num_images"})
    found = {f"proposals.{name}": precision for name in evaluate.proposals}
    if evaluate.ais.num_images:
        found["ais"] = chains
    if evaluate.bdmc:
        images = {"images": evaluate.ais.num_images or SIMULATED_IMAGES}
        found |= {"bdmc.lower": chains | images, "bdmc.upper": chains | images}
        found |= {f"bdmc.proposals.{name}": precision | images for name in evaluate.proposals}
    if evaluate.num_gap_images:
        found["gaps"] = {}
    return found
