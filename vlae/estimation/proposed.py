"""What a proposal is made of, and what it is made into."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import torch
from jaxtyping import Int
from torch import Tensor

from vlae.distributions.outputs import OutputDistribution, Scorer
from vlae.distributions.posteriors import Images, Posterior
from vlae.nn.networks import Decoder
from vlae.seeding import generator


@dataclass(frozen=True)
class DecoderGroup:
    """Images whose proposals follow from the decoder, and the sources of their noise."""

    output: OutputDistribution
    decoder: Decoder
    scorer: Scorer
    """``output.scorer(decoder)``."""
    x: Images
    positions: Sequence[int]
    """Positions of the images in the test set, by which their noise is keyed."""
    seed: int
    name: str
    """Name of the proposal."""
    at_once: int
    """Rows (images x samples) to compute together."""
    progress: Callable[[], None] = lambda: None
    """To be called now and then; its exceptions end the work."""

    def sources(self, purpose: str, *images_and_numbers: Tensor) -> list[torch.Generator]:
        """A source of noise for each image of the group; or for each of these images of it, and a number beside it."""
        if not images_and_numbers:
            keys = [(i,) for i in self.positions]
        else:
            images, *numbers = (values.tolist() for values in images_and_numbers)
            keys = [(self.positions[i], *others) for i, *others in zip(images, *numbers, strict=True)]
        return [generator(self.x.device, self.seed, "evaluate", self.name, purpose, *key) for key in keys]

    def select(self, images: Int[Tensor, " chosen"]) -> "DecoderGroup":
        """The same for the images at these positions of the group."""
        chosen = [self.positions[i] for i in images.tolist()]
        return replace(self, x=self.x[images], positions=chosen)


@dataclass(frozen=True)
class Proposed:
    """The proposal for some images of a group."""

    images: Int[Tensor, " chosen"]
    """Their positions in the group."""
    q: Posterior
    sources: Sequence[torch.Generator]
    """Each image's source of noise for the samples of q."""
    notes: Mapping[str, Tensor] = field(default_factory=dict)
    """Numbers per image about how the proposal was found, by the names of fields of `importance.Evaluation`."""
    samples_of: int = 1
    """It draws num_samples / samples_of, where a sample costs much more than that of others; enough for their error."""
