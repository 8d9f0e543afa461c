"""The download of datasets."""

from typing import Annotated

import typer

from vlae.cli.options import path_parser


def download(
    names: Annotated[
        list[str], typer.Argument(metavar="DATASET...", help="mnist, fashion_mnist, omniglot, svhn, cifar10")
    ],
    root: Annotated[
        str,
        typer.Option(
            parser=path_parser("--root"),
            metavar="<path>",
            help="Where datasets are kept: dataset.root of the runs.",
        ),
    ] = "datasets",
) -> None:
    """Download datasets, for machines without internet."""
    from vlae.data import datasets

    datasets.download(names, root)
