"""The datasets: each a function from its settings to ``Splits``.

A new one is a function here, or in a module of your own, with flat keywords that returns ``Splits``, and a YAML in
conf/dataset that names it. torchvision and scipy are imported inside the functions: each takes a second or more, and
a run needs at most one of them.
"""

import inspect
import math
import warnings
import zipfile
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TypeVar

import numpy as np
import torch
from pydantic import Field

from vlae.config.problems import did_you_mean, join_words
from vlae.data import known_files
from vlae.data.download import Checksum, DataError, Remote, Source
from vlae.data.known_files import what_is
from vlae.data.splits import Splits, frozen_random, split
from vlae.system.files import StrPath, expand_path
from vlae.system.npz import Archive

if TYPE_CHECKING:
    from torchvision.datasets import MNIST

UNPACKED = {
    dataset: {
        f"{part}-images-idx3-ubyte": Checksum(
            "md5",
            digests[f"{part}-images-idx3-ubyte"],
            size=16 + count * 28 * 28,
            what=f"{count:,} images of 28x28 pixels",
        )
        for part, count in (("train", 60_000), ("t10k", 10_000))
    }
    for dataset, digests in known_files.UNPACKED.items()
}
"""Checksums of the files that are read; the labels are not."""
Size = Annotated[int, Field(ge=0)]
Loader = TypeVar("Loader", bound=Callable[..., Splits])

DIGITS_TEST_IMAGES = 297
OMNIGLOT_URL = "https://github.com/yburda/iwae/raw/master/datasets/OMNIGLOT/chardata.mat"
# the object under which the authors' own repository holds the file, since the commit 78a60754 of 26 January 2016
# that added it; no other checksum of theirs was ever published
OMNIGLOT_CHECKSUM = Checksum("git", "016a3536ffe5e1d38e42563a18d7a78bfaf643ec")


def has_facts(**facts: int) -> Callable[[Loader], Loader]:
    """Facts about a loader's images before they are loaded, for the check of a configuration: ``loader.known``.

    ``channels``, ``integers`` (not fractions), ``training_images`` (with the validation split) and ``test_images``.
    """

    def mark(loader: Loader) -> Loader:
        loader.__dict__["known"] = facts
        return loader

    return mark


def download(names: Iterable[str], root: str | Path) -> dict[str, Path]:
    """Download datasets for machines without internet, print where they are, and return name -> ``root``.

    Each is loaded once, so that it is known to be readable. DataError: all failures, together.
    """
    loaders = {
        name: loader
        for name, loader in globals().items()
        if hasattr(loader, "known") and "root" in inspect.signature(loader).parameters
    }
    places, problems = {}, []
    for name in names:
        if name not in loaders:
            near = did_you_mean(name, loaders)
            problems.append(f"nothing to download for {name!r}{near} (choices: {join_words(loaders)})")
            continue
        try:
            loaders[name](root=str(root), validation_size=0)
        except DataError as error:
            problems.append(str(error))
        else:
            places[name] = _place(root).absolute()
            print(f"{name}: {places[name]}", flush=True)
    if problems:
        raise DataError("\n".join(problems))
    return places


@has_facts(channels=1, integers=True, training_images=1_500, test_images=DIGITS_TEST_IMAGES)
def digits(*, validation_size: Size = 200, split_seed: Size = 0) -> Splits:
    """1,797 handwritten digits of 8x8 pixels with 17 levels (Alpaydin and Kaynak 1998), bundled with this package.

    digits.npz holds the pixels of ``sklearn.datasets.load_digits``, the test set of "Optical recognition of handwritten
    digits" (UCI Machine Learning Repository, CC BY 4.0). Here 297 of them are drawn for a test set by ``split_seed``.

    >>> digits(validation_size=100)
    <Splits: 1400 training, 100 validation, 297 test images of 1x8x8, levels 17>
    """
    with np.load(Path(__file__).with_name("digits.npz")) as archive:
        images = torch.from_numpy(archive["images"]).unsqueeze(1)
    order = torch.from_numpy(frozen_random("digits", split_seed).permutation(len(images)))
    test, rest = order[:DIGITS_TEST_IMAGES].sort().values, order[DIGITS_TEST_IMAGES:].sort().values
    return split(images[rest], images[test], levels=17, validation_size=validation_size, seed=split_seed)


@has_facts(channels=1, integers=True, training_images=60_000, test_images=10_000)
def mnist(
    *, root: str = "datasets", url: str | None = None, validation_size: Size = 10_000, split_seed: Size = 0
) -> Splits:
    """MNIST: 70,000 handwritten digits of 28x28 pixels. ``url``: a directory with the four idx-ubyte.gz files."""
    from torchvision.datasets import MNIST

    return _idx(MNIST, root, url, validation_size, split_seed)


@has_facts(channels=1, integers=True, training_images=60_000, test_images=10_000)
def fashion_mnist(
    *, root: str = "datasets", url: str | None = None, validation_size: Size = 10_000, split_seed: Size = 0
) -> Splits:
    """Fashion-MNIST: 70,000 pieces of clothing of 28x28 pixels. ``url``: as for MNIST."""
    from torchvision.datasets import FashionMNIST

    return _idx(FashionMNIST, root, url, validation_size, split_seed)


def _idx(dataset: "type[MNIST]", root: str, url: str | None, validation_size: int, seed: int) -> Splits:
    from torchvision.datasets.mnist import read_image_file

    raw = f"{dataset.__name__}/raw"
    source = Source(
        name=dataset.__name__,
        root=_place(root),
        remotes=tuple(
            Remote(
                f"{raw}/{file}", _below(dataset.mirrors if url is None else [url], file), Checksum("md5", md5)
            )
            for file, md5 in dataset.resources
        ),
        files={f"{raw}/{file}": checksum for file, checksum in UNPACKED[dataset.__name__].items()},
        unpack=lambda staging: dataset(staging, download=True),  # finds the packed files, and unpacks
    )
    source.provide()
    images = []
    for file in source.files:
        source.check(file)
        with source.reading(file):
            images.append(read_image_file(str(source.root / file)).unsqueeze(1))
    return split(*images, levels=256, validation_size=validation_size, seed=seed)


def _place(path: StrPath, key: str = "dataset.root") -> Path:
    """The path with ~ and environment variables replaced. DataError: one is not set."""
    try:
        return Path(expand_path(path))
    except ValueError as error:
        raise DataError(f"{key}: {error}") from error


def _below(bases: Iterable[str], file: str) -> tuple[str, ...]:
    return tuple(f"{base.rstrip('/')}/{file}" for base in bases)


@has_facts(channels=3, integers=True, training_images=73_257, test_images=26_032)
def svhn(
    *, root: str = "datasets", url: str | None = None, validation_size: Size = 5_000, split_seed: Size = 0
) -> Splits:
    """SVHN, cropped: 73,257 + 26,032 house-number digits of 32x32 pixels in colour.

    ``url``: a directory with train_32x32.mat and test_32x32.mat.
    """
    from torchvision.datasets import SVHN

    parts = {name: SVHN.split_list[name] for name in ("train", "test")}
    checksums = {file: Checksum("md5", md5) for _, file, md5 in parts.values()}
    source = Source(
        name="SVHN",
        root=_place(root),
        remotes=tuple(
            Remote(file, (address,) if url is None else _below([url], file), checksums[file])
            for address, file, _ in parts.values()
        ),
        files=checksums,
    )
    source.provide()
    images = []
    for name, (_, file, _) in parts.items():
        with source.reading(file):  # torchvision compares the md5 before it reads
            images.append(torch.from_numpy(np.ascontiguousarray(SVHN(source.root, split=name).data)))
    return split(*images, levels=256, validation_size=validation_size, seed=split_seed)


@has_facts(channels=3, integers=True, training_images=50_000, test_images=10_000)
def cifar10(
    *, root: str = "datasets", url: str | None = None, validation_size: Size = 5_000, split_seed: Size = 0
) -> Splits:
    """CIFAR10: 60,000 photographs of 32x32 pixels in colour. ``url``: of cifar-10-python.tar.gz itself.

    Its files are pickles, which could execute code: torchvision compares every md5 before it unpickles anything.
    """
    from torchvision.datasets import CIFAR10

    meta = [CIFAR10.meta["filename"], CIFAR10.meta["md5"]]
    checksums = {
        f"{CIFAR10.base_folder}/{batch[0]}": Checksum("md5", batch[1])
        for batch in [*CIFAR10.train_list, *CIFAR10.test_list, meta]
    }
    source = Source(
        name="CIFAR10",
        root=_place(root),
        remotes=(Remote(CIFAR10.filename, (url or CIFAR10.url,), Checksum("md5", CIFAR10.tgz_md5)),),
        files=checksums,
        unpack=lambda staging: CIFAR10(staging, download=True),
    )
    with warnings.catch_warnings():
        # the pickles of 2009 hold 0 where numpy 2.4 wants False; some of its releases warn
        warnings.filterwarnings("ignore", message=r"dtype\(\): align should be passed")
        source.provide()
        with source.reading():
            parts = [CIFAR10(source.root, train=train).data for train in (True, False)]
    images = [torch.from_numpy(np.ascontiguousarray(part.transpose(0, 3, 1, 2))) for part in parts]
    return split(*images, levels=256, validation_size=validation_size, seed=split_seed)


@has_facts(channels=1, integers=False, training_images=24_345, test_images=8_070)
def omniglot(
    *,
    root: str = "datasets",
    url: str | None = None,
    validation_size: Size = 1_345,
    split_seed: Size = 0,
    transposed: bool = False,
) -> Splits:
    """OMNIGLOT as split and shrunk to 28x28 pixels for IWAE: 24,345 + 8,070 characters, fractions of ink.

    Each column of chardata.mat is an image, column by column. ``transposed`` reads it row by row, as the released
    code does, which mirrors every image at its diagonal. ``url``: of chardata.mat itself.
    """
    from scipy.io import loadmat

    file = "OMNIGLOT/chardata.mat"
    source = Source(
        name="OMNIGLOT",
        root=_place(root),
        remotes=(Remote(file, (url or OMNIGLOT_URL,), OMNIGLOT_CHECKSUM),),
        files={file: OMNIGLOT_CHECKSUM},
    )
    source.provide()
    source.check(file)
    images = []
    with source.reading(file):
        arrays = loadmat(source.root / file, variable_names=["data", "testdata"])
        for key in ("data", "testdata"):
            columns = torch.from_numpy(np.ascontiguousarray(arrays[key].T, dtype=np.float32))
            rows = columns.reshape(-1, 1, 28, 28)
            images.append(rows if transposed else rows.mT.contiguous())
    return split(*images, levels=None, validation_size=validation_size, seed=split_seed)


def npz(
    *,
    path: str | None = None,
    sha256: str | None = None,
    validation_size: Size | None = None,
    split_seed: Size = 0,
) -> Splits:
    """Your own images: ``train``, ``test`` and optionally ``validation`` in a file that ``numpy.savez`` wrote.

    Each is [n, height, width] or [n, channels, height, width], uint8 in 0..255 or floats in [0, 1]. Without a
    ``validation`` array, ``validation_size`` training images (a tenth where it is None) are set aside.
    """
    if path is None:
        raise DataError("dataset.path: expected your .npz file, got none. Set dataset.path=/where/it/is.npz")
    file = _place(path, "dataset.path")
    if not file.is_file():
        raise DataError(f"dataset.path={path}: there is no such file ({file.absolute()})")
    if sha256 is not None and (mismatch := Checksum("sha256", sha256).mismatch(file)):
        raise DataError(
            f"dataset.path={path}: not the file this run was started with: {mismatch}. "
            "Bring that file back, or start a new run with this one"
        )
    arrays = {name: _check_array(path, name, array) for name, array in _arrays(file, path).items()}
    _check_alike(path, arrays)
    train, test = torch.from_numpy(arrays["train"]), torch.from_numpy(arrays["test"])
    levels = 256 if train.dtype == torch.uint8 else None
    if "validation" in arrays:
        validation = torch.from_numpy(arrays["validation"])
        return Splits(train=train, validation=validation, test=test, levels=levels, seed=split_seed)
    size = math.ceil(len(train) / 10) if validation_size is None else validation_size
    return split(train, test, levels=levels, validation_size=size, seed=split_seed)


def _arrays(file: Path, path: str) -> dict[str, np.ndarray]:
    """``train``, ``test`` and, if present, ``validation``."""
    try:
        # not by np.load, which takes any other file for a pickle, and believes the sizes in the headers
        with file.open("rb") as opened:
            archive = Archive(opened)
            found = archive.read(("train", "validation", "test"))
    except Exception as error:  # a damaged file can fail anywhere in numpy, zipfile and zlib
        kind = "" if zipfile.is_zipfile(file) else what_is(file)
        what = kind and f"; it is {'a truncated .npz file' if kind.startswith('a zip') else kind}"
        raise DataError(
            f"dataset.path={path}: not an .npz file of plain arrays, as numpy.savez writes them ({error}{what}). "
            "Pickled objects are refused, because unpickling can execute code"
        ) from error
    if missing := sorted({"train", "test"} - found.keys()):
        raise DataError(
            f"dataset.path={path}: no array {' and no '.join(map(repr, missing))}; expected 'train', 'test' and "
            f"optionally 'validation', found {', '.join(map(repr, archive.names)) or 'none'}"
        )
    return found


def _check_array(path: str, name: str, array: np.ndarray) -> np.ndarray:
    """[n, channels, height, width] as uint8 or float32. DataError: what is wrong with the array."""
    where = f"dataset.path={path}: array {name!r}"
    if array.ndim not in (3, 4):
        raise DataError(
            f"{where} has shape {array.shape}; expected [n, height, width] or [n, channels, height, width]"
        )
    if array.size == 0:
        raise DataError(f"{where} is empty: it has shape {array.shape}")
    if array.ndim == 4 and array.shape[3] in (1, 3, 4) and min(array.shape[1:3]) > 4:
        raise DataError(
            f"{where} has shape {array.shape}, which looks like channels last; expected [n, channels, height, width]. "
            "Save every array of the file as array.transpose(0, 3, 1, 2)"
        )
    images = array[:, np.newaxis] if array.ndim == 3 else array
    if array.dtype == np.uint8:
        return np.ascontiguousarray(images)
    if not np.issubdtype(array.dtype, np.floating):
        raise DataError(f"{where} is of type {array.dtype}; expected uint8 in 0..255, or floats in [0, 1]")
    if not_finite := int(np.isnan(array).sum()):
        raise DataError(
            f"{where} has {not_finite} values that are not numbers (NaN); expected floats in [0, 1]"
        )
    low, high = float(array.min()), float(array.max())
    if low < 0 or high > 1:
        raise DataError(f"{where} has values from {low:g} to {high:g}; expected floats in [0, 1], or uint8")
    return np.ascontiguousarray(images, dtype=np.float32)


def _check_alike(path: str, arrays: Mapping[str, np.ndarray]) -> None:
    """DataError: the arrays are not images of one kind."""
    kinds = {name: (array.shape[1:], array.dtype) for name, array in arrays.items()}
    if len(set(kinds.values())) > 1:
        described = "; ".join(
            f"{name!r} {'x'.join(map(str, shape))} {dtype}" for name, (shape, dtype) in kinds.items()
        )
        raise DataError(
            f"dataset.path={path}: the arrays hold different images (channels x height x width): {described}"
        )
    train = arrays["train"]
    if train.dtype == np.uint8 and train.max() <= 1:
        raise DataError(
            f"dataset.path={path}: array 'train' is uint8 but holds nothing above 1, which would be almost black on "
            "its scale of 0..255. Save black and white images as 0 and 255, or as floats 0.0 and 1.0"
        )
