"""Images from a trained model."""

from pathlib import Path
from typing import Annotated

import typer

from vlae.cli.options import Device, Run, RunsDir, out_option
from vlae.system.libraries import check_libraries


def sample(
    run: Run,
    num: Annotated[int, typer.Option(min=1, max=100_000, help="How many images.")] = 64,
    out: Annotated[Path, out_option("The PNG file to write.", "png")] = Path("samples.png"),
    seed: Annotated[int, typer.Option(min=0, max=2**64 - 1, help="Other seeds give other images.")] = 0,
    runs_dir: RunsDir = "runs",
    device: Device = "cpu",
) -> None:
    """Draw images from a model.

    They are z ~ N(0, I) through the decoder, for every model: the Laplace part of a VLAE is for inference only, like
    every refinement of q(z | x). It infers the z of an image and has no part in generating images.
    """
    import math

    from vlae.system.console import loading
    from vlae.system.files import write_output

    with loading():
        check_libraries()
        from vlae.experiment.load import load
        from vlae.experiment.pictures import grid

    images = load(run, runs_dir, device).sample(num, seed)
    write_output(out, grid(images, math.ceil(math.sqrt(num))))
    print(out)
