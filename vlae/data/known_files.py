"""Recognition of a dataset's file by its content, whatever its name."""

import math
from collections.abc import Iterator
from pathlib import Path

import numpy as np

IDX_MAGIC = b"\0\0\x08"
"""The first bytes of an idx file of unsigned bytes; the number of dimensions follows."""
MAGIC: tuple[tuple[bytes, str], ...] = (
    (b"\x1f\x8b", "a gzip archive (unpack it)"),
    (b"PK\x03\x04", "a zip archive (unpack it)"),
    (b"BZh", "a bzip2 archive (unpack it)"),
    (b"\xfd7zXZ\0", "an xz archive (unpack it)"),
    (b"7z\xbc\xaf\x27\x1c", "a 7z archive (unpack it)"),
    (
        b"version https://git-lfs.github.com/spec/",
        "a pointer of Git LFS (run `git lfs pull` where it comes from)",
    ),
    (b"\x93NUMPY", "an array of NumPy (.npy)"),
    (b"\x89HDF\r\n\x1a\n", "an HDF5 file"),
    (b"MATLAB 5.0 MAT-file", "a MATLAB file (.mat)"),
    *((b"\x80" + bytes([protocol]), "a pickle") for protocol in (2, 3, 4, 5)),
    (b"\x89PNG\r\n\x1a\n", "a PNG image"),
    (b"%PDF-", "a PDF document"),
)
UNPACKED = {
    "MNIST": {
        "train-images-idx3-ubyte": "6bbc9ace898e44ae57da46a324031adb",
        "train-labels-idx1-ubyte": "a25bea736e30d166cdddb491f175f624",
        "t10k-images-idx3-ubyte": "2646ac647ad5339dbf082846283269ea",
        "t10k-labels-idx1-ubyte": "27ae3e4e09519cfbb04c329615203637",
    },
    "FashionMNIST": {
        "train-images-idx3-ubyte": "f4a8712d7a061bf5bd6d2ca38dc4d50a",
        "train-labels-idx1-ubyte": "9018921c3c673c538a1fc5bad174d6f9",
        "t10k-images-idx3-ubyte": "8181f5470baa50b63fa0f6fddb340f0a",
        "t10k-labels-idx1-ubyte": "15d484375f8d13e6eb1aabb0c3f46965",
    },
}
"""MD5 of the files in the published archives. MNIST's were computed from the files; Fashion-MNIST's are those that
independent users of the archives have published, and agree."""
BRIGHTNESS = {"MNIST": 0.1307, "Fashion-MNIST": 0.2860, "KMNIST": 0.1918, "EMNIST": 0.1736}
"""Mean of the training images, in [0, 1]."""
COUNTS = {
    **dict.fromkeys((124_800, 20_800), "EMNIST's letters"),
    **dict.fromkeys((112_800, 18_800), "EMNIST's balanced"),
    **dict.fromkeys((240_000, 40_000), "EMNIST's digits"),
    **dict.fromkeys((697_932, 116_323), "EMNIST's byclass or bymerge"),
    402_953: "QMNIST's",
}
"""Numbers of images that only one dataset has."""
ENOUGH = 1_000
"""Number of images whose mean identifies their dataset."""


def what_is(path: Path) -> str:
    """Description of a file: ``a web page (HTML)``, ``60,000 images of 28x28 pixels``. OSError: it cannot be read."""
    size = path.stat().st_size
    if size == 0:
        return "an empty file"
    with path.open("rb") as file:
        start = file.read(512)
    if start[:3] == IDX_MAGIC and len(start) > 3 and 1 <= start[3] <= 4 and len(start) >= 4 + 4 * start[3]:
        return _idx(path, start, size)
    for magic, words in MAGIC:
        if start.startswith(magic):
            return words
    return _text(start) or f"{size:,} bytes of an unknown kind"


def name_of(md5: str) -> str | None:
    """The known file that has this MD5, such as ``train_32x32.mat of SVHN``; else None."""
    return next((f"{file} of {dataset}" for dataset, file, known in known_files() if known == md5), None)


def known_files() -> Iterator[tuple[str, str, str]]:
    """Dataset, file and MD5 of the files that torchvision knows, and of those unpacked from them."""
    from torchvision import datasets

    for dataset, files in UNPACKED.items():
        yield from ((dataset, file, md5) for file, md5 in files.items())
    for packed in (datasets.MNIST, datasets.FashionMNIST, datasets.KMNIST):
        yield from ((packed.__name__, file, md5) for file, md5 in packed.resources)
    yield "EMNIST", "gzip.zip", datasets.EMNIST.md5
    for parts in datasets.QMNIST.resources.values():
        yield from (("QMNIST", url.rpartition("/")[2], md5) for url, md5 in parts)
    for _, file, md5 in datasets.SVHN.split_list.values():
        yield "SVHN", file, md5
    for batches in (datasets.CIFAR10, datasets.CIFAR100):
        name = batches.__name__
        yield name, batches.filename, batches.tgz_md5
        yield name, batches.meta["filename"], batches.meta["md5"]
        yield from ((name, file, md5) for file, md5 in [*batches.train_list, *batches.test_list])


def _text(start: bytes) -> str:
    words = start.removeprefix(b"\xef\xbb\xbf").lstrip().lower()
    if words.startswith((b"<!doctype html", b"<html", b"<head")):
        return "a web page (HTML; a login page or a server's error)"
    if words.startswith((b"<?xml", b"<error")):
        return "an XML document (a server's error)"
    try:
        text = start[:400].decode()
    except UnicodeDecodeError:
        return ""
    return f"text ({' '.join(text.split())[:40]!r})" if text.isprintable() or "\n" in text else ""


def _idx(path: Path, start: bytes, size: int) -> str:
    shape = tuple(int.from_bytes(start[4 * i : 4 * i + 4], "big") for i in range(1, start[3] + 1))
    offset = 4 + 4 * start[3]
    announced = offset + math.prod(shape)
    if len(shape) == 3:
        words = f"{shape[0]:,} images of {shape[1]}x{shape[2]} pixels"
    else:
        words = f"{shape[0]:,} labels" if len(shape) == 1 else f"an idx array {list(shape)}"
    if size != announced:
        state = "truncated" if size < announced else "too long"
        return f"a {state} file of {size:,} bytes, whose header says {words}: {announced:,} bytes"
    return words + (_looks_like(path, offset, shape) if len(shape) == 3 else "")


def _looks_like(path: Path, offset: int, shape: tuple[int, ...]) -> str:
    """The dataset that the images are probably of."""
    if shape[0] in COUNTS:
        return f", as many as {COUNTS[shape[0]]}"
    if shape[1:] != (28, 28) or shape[0] < ENOUGH:
        return ""
    images = np.memmap(path, np.uint8, "r", offset, shape)
    mean = float(images.mean()) / 255
    near, distance = min(
        ((name, abs(mean - known)) for name, known in BRIGHTNESS.items()), key=lambda item: item[1]
    )
    return f", as bright as those of {near}" if distance < 0.004 else f", whose mean brightness is {mean:.3f}"
