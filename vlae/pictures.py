"""The pictures of a run: data, reconstructions, prior samples, refinements of inference."""

import io
from pathlib import Path

import torch
from jaxtyping import Float
from PIL import Image
from torch import Tensor
from torchvision.utils import make_grid

from vlae.files import make_directory, write_atomically
from vlae.seeding import batch_noise, generator
from vlae.trained import TrainedModel


def save_grid(images: Float[Tensor, "images channels height width"], columns: int, path: Path) -> None:
    """A PNG of images in [0, 1], ``columns`` a row; small ones enlarged so that a person can see them."""
    if images.shape[1] not in (1, 3):  # a picture has one channel or three
        images = images.mean(1, keepdim=True)
    grid = make_grid(images.detach().cpu().float().clamp(0, 1), nrow=columns, padding=1, pad_value=0.5)
    pixels = (grid * 255).round().to(torch.uint8).permute(1, 2, 0).numpy()
    picture = Image.fromarray(pixels)
    scale = max(1, 56 // images.shape[-1])
    picture = picture.resize((picture.width * scale, picture.height * scale), Image.Resampling.NEAREST)
    buffer = io.BytesIO()
    picture.save(buffer, format="PNG")
    write_atomically(path, buffer.getvalue())


@torch.no_grad()
def save_pictures(
    trained: TrainedModel, x: Float[Tensor, "images pixels"], directory: Path, seed: int
) -> None:
    """``data.png``, ``reconstructions.png``, ``prior_samples.png``; ``refinements.png`` where inference refines.

    In ``refinements.png`` each column is an image: the data, then its reconstruction before and after each update.
    """
    make_directory(directory)
    x, model, show = x[:32], trained.model, trained.preprocess.images
    save_grid(show(x), 8, directory / "data.png")
    save_grid(trained.reconstruct(x, seed), 8, directory / "reconstructions.png")
    save_grid(trained.sample(64, seed), 8, directory / "prior_samples.png")
    few = x[:8]
    noise = batch_noise(len(few), generator(x.device, seed, "refinements"), x.dtype)
    if path := model.refinements(few, noise):
        rows = [few, *(model.output.mean(model.decoder(mu)) for mu in path)]
        save_grid(torch.cat([show(row) for row in rows]), len(few), directory / "refinements.png")
