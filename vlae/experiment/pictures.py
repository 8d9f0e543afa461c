"""The pictures of a run: data, reconstructions, prior samples, refinements of inference."""

import io
from pathlib import Path

import torch
from jaxtyping import Float
from PIL import Image
from torch import Tensor
from torchvision.utils import make_grid

from vlae.config.schema import Config
from vlae.experiment.trained_model import TrainedModel
from vlae.seeding import batch_noise, generator
from vlae.system.files import appearing, make_directory, write_atomically
from vlae.trackers.process import has_mirror


def grid(images: Float[Tensor, "images channels height width"], columns: int) -> bytes:
    """A PNG of images in [0, 1], ``columns`` per row; small ones are enlarged for the eye."""
    if images.shape[1] not in (1, 3):  # a picture has one channel or three
        images = images.mean(1, keepdim=True)
    tiles = make_grid(images.detach().cpu().float().clamp(0, 1), nrow=columns, padding=1, pad_value=0.5)
    pixels = (tiles * 255).round().to(torch.uint8).permute(1, 2, 0).numpy()
    # a third of the work where there is no colour, and a smaller file even with the quickest compression
    picture = Image.fromarray(pixels[:, :, 0] if images.shape[1] == 1 else pixels)
    scale = max(1, 56 // images.shape[-1])
    picture = picture.resize((picture.width * scale, picture.height * scale), Image.Resampling.NEAREST)
    buffer = io.BytesIO()
    picture.save(buffer, format="PNG", compress_level=1)
    return buffer.getvalue()


def pictures_every(cfg: Config) -> int | None:
    """Epochs between two sets of pictures of a training; None: no mirror shows them."""
    if not has_mirror(cfg.tracker):
        return None
    return cfg.tracker.images_every or max(1, cfg.trainer.epochs // 10)


@torch.no_grad()
def pictures(trained: TrainedModel, x: Float[Tensor, "images pixels"]) -> dict[str, bytes]:
    """PNGs: ``data``, ``reconstructions``, ``prior_samples``; ``refinements`` where inference refines.

    In ``refinements`` each column is an image: the data, then its reconstruction before and after each update.
    """
    x, model, show, seed = x[:32], trained.model, trained.preprocess.images, trained.config.seed
    found = {
        "data": grid(show(x), 8),
        "reconstructions": grid(trained.reconstruct(x, seed), 8),
        "prior_samples": grid(trained.sample(64, seed), 8),
    }
    few = x[:8]
    noise = batch_noise(len(few), generator(x.device, seed, "refinements"), x.dtype)
    if path := model.refinements(few, noise):
        rows = [few, *(model.output.mean(model.decoder(mu)) for mu in path)]
        found["refinements"] = grid(torch.cat([show(row) for row in rows]), len(few))
    return found


def write_pictures(folder: Path, trained: TrainedModel, x: Float[Tensor, "images pixels"]) -> None:
    """Write each picture as a PNG file in ``folder``. RecordError: it cannot be written."""
    make_directory(folder)
    for name, content in pictures(trained, x).items():
        write_atomically(folder / f"{name}.png", content)


def write_epoch_pictures(
    folder: Path, trained: TrainedModel, x: Float[Tensor, "images pixels"], epoch: int
) -> None:
    """Write the pictures of an epoch to ``folder/epoch-000010``, which appears with all of them."""
    drawn = pictures(trained, x)
    with appearing(folder / f"epoch-{epoch:06d}") as staged:
        for name, content in drawn.items():
            write_atomically(staged / f"{name}.png", content)
