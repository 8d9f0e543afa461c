"""Laws of the loaders, on files in their real formats that the tests write."""

import gzip
import hashlib
import inspect
import os
import pickle
import re
import stat
import subprocess
import sys
import tarfile
import warnings
import zipfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

from vlae.config.preprocessing import Preprocessing
from vlae.config.targets import build
from vlae.data import datasets, known_files
from vlae.data.download import Checksum, DataError
from vlae.data.known_files import what_is
from vlae.data.preprocess import Preprocess
from vlae.system import npz

CONF = Path(__file__).parents[1] / "conf" / "dataset"
NAMES = sorted(path.stem for path in CONF.glob("*.yaml"))
TRAIN, TEST = 12, 5


def pixels(*shape, seed=0):
    return np.random.RandomState(seed).randint(0, 256, size=shape, dtype=np.uint8)


def md5(path):
    return hashlib.md5(path.read_bytes()).hexdigest()


def write_idx(path, array):
    """The format of MNIST: magic number (type 8, dimensions), sizes as big-endian int32, then bytes."""
    path.parent.mkdir(parents=True, exist_ok=True)
    header = np.array([8 * 256 + array.ndim, *array.shape], dtype=">i4").tobytes()
    path.write_bytes(header + array.tobytes())


def unpacked_checksums(raw, what=""):
    """Replace the checksums of known files by those of the image files in ``raw``."""
    names = ("train-images-idx3-ubyte", "t10k-images-idx3-ubyte")
    return {name: Checksum("md5", md5(raw / name), (raw / name).stat().st_size, what) for name in names}


@pytest.fixture
def mnist_root(tmp_path, monkeypatch):
    """MNIST's unpacked layout with few images, and their checksums in place of the known ones."""
    raw = tmp_path / "MNIST" / "raw"
    for name, count in (("train", TRAIN), ("t10k", TEST)):
        write_idx(raw / f"{name}-images-idx3-ubyte", pixels(count, 28, 28, seed=count))
        write_idx(raw / f"{name}-labels-idx1-ubyte", pixels(count) % 10)
    monkeypatch.setitem(datasets.UNPACKED, "MNIST", unpacked_checksums(raw))
    return tmp_path


@pytest.fixture
def svhn_root(tmp_path, monkeypatch):
    """SVHN's .mat files with few images, and their checksums in place of the published ones."""
    from scipy.io import savemat
    from torchvision.datasets import SVHN

    lists = {}
    for name, count in (("train", TRAIN), ("test", TEST)):
        path = tmp_path / f"{name}_32x32.mat"
        savemat(path, {"X": pixels(32, 32, 3, count, seed=count), "y": np.ones((count, 1), np.uint8)})
        lists[name] = [f"http://127.0.0.1:9/{path.name}", path.name, md5(path)]
    monkeypatch.setattr(SVHN, "split_list", lists)
    return tmp_path


def old_pickle(entry):
    """Protocol 2 as of 2009: the flags of a dtype are 0 and 1, where numpy now writes False and True."""
    return pickle.dumps(entry, protocol=2).replace(b"\x89\x88\x87", b"K\x00K\x01\x87")


def write_cifar10(root, monkeypatch):
    """CIFAR10's pickled batches with few images, packed and not, and their checksums in place of the published."""
    from torchvision.datasets import CIFAR10

    folder = root / CIFAR10.base_folder
    folder.mkdir(parents=True)
    for k, name in enumerate([f"data_batch_{i}" for i in range(1, 6)] + ["test_batch"]):
        (folder / name).write_bytes(old_pickle({"data": pixels(4, 3072, seed=k), "labels": [0, 1, 2, 3]}))
    (folder / "batches.meta").write_bytes(pickle.dumps({"label_names": ["a", "b", "c", "d"]}, protocol=2))
    archive = root / CIFAR10.filename
    with tarfile.open(archive, "w:gz") as tar:
        tar.add(folder, CIFAR10.base_folder)
    lists = {"train_list": [f"data_batch_{i}" for i in range(1, 6)], "test_list": ["test_batch"]}
    for attribute, names in lists.items():
        monkeypatch.setattr(CIFAR10, attribute, [[name, md5(folder / name)] for name in names])
    monkeypatch.setattr(CIFAR10, "meta", {**CIFAR10.meta, "md5": md5(folder / "batches.meta")})
    monkeypatch.setattr(CIFAR10, "tgz_md5", md5(archive))
    return folder, archive


@pytest.fixture
def omniglot_root(tmp_path, monkeypatch):
    """chardata.mat with few images: fractions, one image a column, column-major."""
    from scipy.io import savemat

    path = tmp_path / "OMNIGLOT" / "chardata.mat"
    path.parent.mkdir()
    arrays = {}
    for key, count in (("data", TRAIN), ("testdata", TEST)):
        pictures = pixels(count, 28, 28, seed=count) / 255.0
        arrays[key] = np.stack([picture.flatten(order="F") for picture in pictures], axis=1)
    savemat(path, arrays)
    monkeypatch.setattr(datasets, "OMNIGLOT_CHECKSUM", Checksum("git", Checksum("git", "").of(path)))
    return tmp_path


def write_npz(path, **arrays):
    np.savez(path, **arrays)
    return str(path)


# --- all datasets ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
def test_dataset_files_have_the_defaults_of_loader_and_preprocessing(name):
    section = yaml.safe_load((CONF / f"{name}.yaml").read_text())
    assert section.pop("name") == name
    assert section.pop("_target_") == f"vlae.data.{name}"
    sizes = section.pop("sizes")
    assert set(sizes) - {"quick_images"} == {"latent_dim", "hidden_dims", "epochs"}
    Preprocessing.of(section)
    assert set(section) >= Preprocessing.keys()
    parameters = inspect.signature(getattr(datasets, name)).parameters
    assert {key: section[key] for key in section.keys() - Preprocessing.keys()} == {
        key: parameter.default for key, parameter in parameters.items()
    }


@pytest.mark.parametrize("name", NAMES)
def test_every_key_of_a_dataset_file_has_a_comment(name):
    lines = (CONF / f"{name}.yaml").read_text().splitlines()
    keys = [line for line in lines if line and not line.startswith((" ", "#", "name:", "_target_:"))]
    assert all("  # " in line for line in keys)


def test_sizes_except_of_digits_are_those_of_the_released_code():
    for name in set(NAMES) - {"digits"}:
        sizes = yaml.safe_load((CONF / f"{name}.yaml").read_text())["sizes"]
        assert sizes.pop("quick_images", 1000) == 1000  # of evaluate=quick
        assert sizes == {"latent_dim": 50, "hidden_dims": [500, 500], "epochs": 2000}


def test_facts_known_before_loading_are_true(mnist_root, svhn_root, omniglot_root):
    for name in ("digits", "mnist", "svhn", "omniglot"):
        loader = getattr(datasets, name)
        root = {"root": str(mnist_root)} if "root" in inspect.signature(loader).parameters else {}
        images = loader(**root, validation_size=0)
        assert loader.known["channels"] == images.shape[0]
        assert loader.known["integers"] == (images.levels is not None) == (images.train.dtype == torch.uint8)


def test_known_image_counts_match_files_and_comments():
    images = datasets.digits(validation_size=0)
    assert datasets.digits.known["training_images"] == len(images.train)
    assert datasets.digits.known["test_images"] == len(images.test)
    for name in set(NAMES) - {"npz"}:
        text = (CONF / f"{name}.yaml").read_text()
        [stated] = re.findall(r"([\d,]+) / ([\d,]+) / ([\d,]+) images", text.splitlines()[0])
        train, validation, test = (int(number.replace(",", "")) for number in stated)
        known = getattr(datasets, name).known
        assert (known["training_images"], known["test_images"]) == (train + validation, test)
        assert yaml.safe_load(text)["validation_size"] == validation


@pytest.mark.slow
def test_loaders_import_no_torchvision_or_scipy():
    code = "import sys, vlae.data; sys.exit(bool({'torchvision', 'scipy'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_a_section_of_the_configuration_is_built_and_preprocessed():
    section = yaml.safe_load((CONF / "digits.yaml").read_text())
    splits = build(section)
    assert (len(splits.train), len(splits.validation), len(splits.test)) == (1300, 200, 297)
    p = Preprocess.fit(section, splits, "real")
    assert p.evaluation_set(splits.test, "test").shape == (297, 64)


# --- splits ---------------------------------------------------------------------------------------------------


def rows(images):
    return {image.numpy().tobytes() for image in images}


def test_a_split_partitions_the_training_set_only(mnist_root):
    whole = datasets.mnist(root=str(mnist_root), validation_size=0)
    parts = datasets.mnist(root=str(mnist_root), validation_size=5)
    assert rows(parts.train) | rows(parts.validation) == rows(whole.train)
    assert (len(parts.train), len(parts.validation), len(whole.validation)) == (TRAIN - 5, 5, 0)
    assert torch.equal(parts.test, whole.test)


def test_the_split_is_a_function_of_split_seed_alone(mnist_root):
    def validation(seed):
        return datasets.mnist(root=str(mnist_root), validation_size=5, split_seed=seed).validation

    torch.manual_seed(1)
    np.random.seed(1)
    first = validation(0)
    torch.manual_seed(2)
    np.random.seed(2)
    assert torch.equal(validation(0), first)
    assert not torch.equal(validation(1), first)


def test_digits_has_one_test_set_for_all_validation_sizes():
    small, large = datasets.digits(validation_size=0), datasets.digits(validation_size=500)
    assert torch.equal(small.test, large.test)
    assert len(small.test) == 297
    assert (small.levels, int(small.train.min()), int(small.train.max())) == (17, 0, 16)


def test_digits_are_those_of_their_source():
    from sklearn.datasets import load_digits

    splits = datasets.digits()
    images = torch.cat([splits.train, splits.validation, splits.test])
    assert sorted(images.flatten(1).tolist()) == sorted(load_digits().data.astype(int).tolist())


@pytest.mark.parametrize("size", [TRAIN, TRAIN + 1])
def test_a_validation_size_without_training_images_is_an_error(mnist_root, size):
    with pytest.raises(DataError, match=rf"dataset.validation_size={size} .* has {TRAIN}"):
        datasets.mnist(root=str(mnist_root), validation_size=size)


# --- real formats ---------------------------------------------------------------------------------------------


def test_mnist_reads_idx_files_pixel_for_pixel(mnist_root):
    splits = datasets.mnist(root=str(mnist_root), validation_size=0)
    assert np.array_equal(splits.train.numpy()[:, 0], pixels(TRAIN, 28, 28, seed=TRAIN))
    assert np.array_equal(splits.test.numpy()[:, 0], pixels(TEST, 28, 28, seed=TEST))


def test_packed_mnist_files_are_verified_and_unpacked(mnist_root, monkeypatch):
    from torchvision.datasets import FashionMNIST

    raw = mnist_root / "FashionMNIST" / "raw"
    raw.mkdir(parents=True)
    resources = []
    for path in sorted((mnist_root / "MNIST" / "raw").iterdir()):
        packed = raw / f"{path.name}.gz"
        packed.write_bytes(gzip.compress(path.read_bytes()))
        resources.append((packed.name, md5(packed)))
    monkeypatch.setattr(FashionMNIST, "resources", resources)
    monkeypatch.setitem(datasets.UNPACKED, "FashionMNIST", datasets.UNPACKED["MNIST"])
    splits = datasets.fashion_mnist(root=str(mnist_root), url="http://127.0.0.1:9", validation_size=0)
    assert np.array_equal(splits.train.numpy()[:, 0], pixels(TRAIN, 28, 28, seed=TRAIN))


def test_svhn_reads_mat_files_pixel_for_pixel(svhn_root):
    splits = datasets.svhn(root=str(svhn_root), validation_size=0)
    assert np.array_equal(splits.test.numpy(), pixels(32, 32, 3, TEST, seed=TEST).transpose(3, 2, 0, 1))
    assert splits.shape == (3, 32, 32)


def test_cifar10_reads_pickled_batches_pixel_for_pixel(tmp_path, monkeypatch):
    _, archive = write_cifar10(tmp_path, monkeypatch)
    archive.unlink()
    splits = datasets.cifar10(root=str(tmp_path), validation_size=0)
    expected = np.concatenate([pixels(4, 3072, seed=k) for k in range(5)]).reshape(-1, 3, 32, 32)
    assert np.array_equal(splits.train.numpy(), expected)
    assert np.array_equal(splits.test.numpy(), pixels(4, 3072, seed=5).reshape(-1, 3, 32, 32))


def test_a_packed_cifar10_is_verified_and_unpacked(tmp_path, monkeypatch):
    _, archive = write_cifar10(tmp_path / "made", monkeypatch)
    root = tmp_path / "root"
    root.mkdir()
    archive.rename(root / archive.name)
    assert len(datasets.cifar10(root=str(root), url="http://127.0.0.1:9", validation_size=0).train) == 20
    assert {path.name for path in root.iterdir() if path.is_dir()} == {"cifar-10-batches-py"}


def test_omniglot_is_column_major_and_transposed_mirrors_it(omniglot_root):
    expected = (pixels(TEST, 28, 28, seed=TEST) / 255.0).astype(np.float32)
    upright = datasets.omniglot(root=str(omniglot_root), validation_size=3)
    mirrored = datasets.omniglot(root=str(omniglot_root), validation_size=3, transposed=True)
    assert np.array_equal(upright.test.numpy()[:, 0], expected)
    assert torch.equal(mirrored.train, upright.train.mT)
    assert upright.levels is None


def test_the_git_checksum_is_the_one_git_computes(tmp_path):
    file = tmp_path / "file"
    file.write_bytes(b"hello\n")
    # printf 'hello\n' | git hash-object --stdin
    assert Checksum("git", "").of(file) == "ce013625030ba8dba906f756967f9e9ca394464a"


def test_files_in_a_read_only_root_are_read_without_a_lock(mnist_root):
    folders = [mnist_root, mnist_root / "MNIST", mnist_root / "MNIST" / "raw"]
    before = sorted(mnist_root.rglob("*"))
    for folder in folders:
        folder.chmod(stat.S_IRUSR | stat.S_IXUSR)
    try:
        datasets.mnist(root=str(mnist_root), validation_size=0)
    finally:
        for folder in folders:
            folder.chmod(stat.S_IRWXU)
    assert sorted(mnist_root.rglob("*")) == before


@pytest.mark.skipif(os.environ.get("HOME") is None, reason="no home directory")
def test_a_tilde_in_root_is_the_home_directory(mnist_root, monkeypatch):
    monkeypatch.setenv("HOME", str(mnist_root))
    assert len(datasets.mnist(root="~", validation_size=0).train) == TRAIN


# --- damaged files --------------------------------------------------------------------------------------------


def message(error):
    return " ".join(str(error.value).split())


IDX_12 = "12 images of 28x28 pixels"
LFS = b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 47040016\n"
LIES = {
    "shorter": (
        lambda b: b[:-100],
        "a truncated file of 3,836 bytes, whose header says 5 images of 28x28 pixels",
    ),
    "longer": (
        lambda b: b + b"\0",
        "a too long file of 3,937 bytes, whose header says 5 images of 28x28 pixels",
    ),
    "a stump": (lambda b: b[:3], "3 bytes of an unknown kind"),
    "empty": (lambda b: b"", "an empty file"),
    "a login page": (lambda b: b"\n<!DOCTYPE html><title>Wi-Fi</title>", "a web page (HTML"),
    "an S3 error": (lambda b: b"<?xml version='1.0'?><Error>AccessDenied</Error>", "an XML document"),
    "gzip": (gzip.compress, "a gzip archive (unpack it)"),
    "zip": (lambda b: b"PK\x03\x04" + b, "a zip archive (unpack it)"),
    "Git LFS": (lambda b: LFS, "a pointer of Git LFS"),
    "text": (lambda b: b"404: Not Found", "text ('404: Not Found')"),
    "npy": (lambda b: b"\x93NUMPY\x01\0" + b, "an array of NumPy (.npy)"),
    "changed": (lambda b: b[:-1] + bytes([b[-1] ^ 1]), "5 images of 28x28 pixels"),
    "gigabytes": (
        lambda b: b[:4] + b"\x7f\xff\xff\xff" + b[8:],
        "a truncated file of 3,936 bytes, whose header says 2,147,483,647 images of 28x28 pixels",
    ),
}


@pytest.mark.parametrize(("lie", "what"), LIES.values(), ids=LIES)
def test_a_wrong_idx_file_is_named_with_its_content_and_sources(mnist_root, lie, what):
    path = mnist_root / "MNIST" / "raw" / "t10k-images-idx3-ubyte"
    path.write_bytes(lie(path.read_bytes()))
    with pytest.raises(DataError) as error:
        datasets.mnist(root=str(mnist_root), validation_size=0)
    for part in (f"{path} is damaged or another file: it is {what}", "ossci-datasets", f"-> {path}.gz"):
        assert part in message(error)


@pytest.mark.parametrize(
    ("array", "what"),
    [
        (pixels(TRAIN, 32, 32), "12 images of 32x32 pixels"),
        (pixels(TRAIN + 1, 28, 28), "13 images of 28x28 pixels"),
        (pixels(TRAIN), "12 labels"),
        (pixels(TRAIN, 28, 28, 3), "an idx array [12, 28, 28, 3]"),
        (pixels(TRAIN, 28, 28, seed=1), IDX_12),
        (pixels(20_800, 1, 1), "20,800 images of 1x1 pixels, as many as EMNIST's letters"),
        (
            np.full((1_000, 28, 28), 73, np.uint8),
            "1,000 images of 28x28 pixels, as bright as those of Fashion-MNIST",
        ),
        (
            np.full((1_000, 28, 28), 44, np.uint8),
            "1,000 images of 28x28 pixels, as bright as those of EMNIST",
        ),
        (
            np.full((1_000, 28, 28), 99, np.uint8),
            "1,000 images of 28x28 pixels, whose mean brightness is 0.388",
        ),
    ],
    ids=["32x32", "one more", "labels", "colour", "others", "letters", "Fashion-MNIST", "EMNIST", "unknown"],
)
def test_arrays_that_are_not_mnist_are_refused(mnist_root, array, what):
    path = mnist_root / "MNIST" / "raw" / "train-images-idx3-ubyte"
    write_idx(path, array)
    with pytest.raises(DataError) as error:
        datasets.mnist(root=str(mnist_root), validation_size=0)
    assert f"{path} is damaged or another file: it is {what}" in message(error)


def test_swapped_files_are_reported_as_swapped(mnist_root, monkeypatch):
    raw = mnist_root / "MNIST" / "raw"
    train, test = raw / "train-images-idx3-ubyte", raw / "t10k-images-idx3-ubyte"
    checksums = {name: replace(c, what=what_is(raw / name)) for name, c in datasets.UNPACKED["MNIST"].items()}
    monkeypatch.setitem(datasets.UNPACKED, "MNIST", checksums)
    content = test.read_bytes()
    train.replace(test)
    train.write_bytes(content)
    with pytest.raises(DataError) as error:
        datasets.mnist(root=str(mnist_root), validation_size=0)
    reason = "it is 5 images of 28x28 pixels, expected 12 images of 28x28 pixels"
    assert f"{train} is damaged or another file: {reason}" in message(error)
    assert "t10k-images-idx3-ubyte should be so: are the two swapped?" in message(error)


def test_a_known_file_under_another_name_is_named(mnist_root, svhn_root, monkeypatch):
    raw, mat = mnist_root / "MNIST" / "raw", svhn_root / "train_32x32.mat"
    fashion = {"train-images-idx3-ubyte": md5(raw / "train-images-idx3-ubyte")}
    monkeypatch.setitem(known_files.UNPACKED, "FashionMNIST", fashion)
    monkeypatch.setitem(datasets.UNPACKED, "MNIST", {"train-images-idx3-ubyte": Checksum("md5", "0" * 32)})
    with pytest.raises(
        DataError, match=r"it is train-images-idx3-ubyte of FashionMNIST \(12 images of 28x28 pixels\)"
    ):
        datasets.mnist(root=str(mnist_root), validation_size=0)
    mat.write_bytes((svhn_root / "test_32x32.mat").read_bytes())
    with pytest.raises(
        DataError, match=r"train_32x32.mat is .* it is test_32x32.mat of SVHN \(a MATLAB file"
    ):
        datasets.svhn(root=str(svhn_root), validation_size=0)


def test_known_files_are_those_of_torchvision():
    from torchvision.datasets import MNIST, FashionMNIST

    for dataset in (MNIST, FashionMNIST):
        packed = {name.removesuffix(".gz") for name, _ in dataset.resources}
        assert set(known_files.UNPACKED[dataset.__name__]) == packed
    sizes = {c.what: c.size for c in datasets.UNPACKED["MNIST"].values()}
    assert sizes == {"60,000 images of 28x28 pixels": 47_040_016, "10,000 images of 28x28 pixels": 7_840_016}


def test_a_damaged_mat_file_is_named_with_its_source(svhn_root):
    path = svhn_root / "test_32x32.mat"
    path.write_bytes(path.read_bytes()[:200])
    with pytest.raises(DataError) as error:
        datasets.svhn(root=str(svhn_root), validation_size=0)
    for part in (
        f"{path} is damaged or another file: it is a MATLAB file (.mat); checksum (md5)",
        "http://127.0.0.1:9/test_32x32.mat",
        "Delete it",
    ):
        assert part in message(error)


def test_a_mat_file_with_other_content_is_named(svhn_root, monkeypatch):
    from torchvision.datasets import SVHN

    path = svhn_root / "test_32x32.mat"
    path.write_bytes(b"no mat file")
    monkeypatch.setitem(SVHN.split_list, "test", ["http://x/test_32x32.mat", path.name, md5(path)])
    with pytest.raises(DataError, match=r"cannot read .*test_32x32.mat"):
        datasets.svhn(root=str(svhn_root), validation_size=0)


class Payload:
    """Unpickled, it leaves a file."""

    def __init__(self, trace):
        self.trace = trace

    def __reduce__(self):
        return (Path.touch, (self.trace,))


@pytest.mark.parametrize("name", ["data_batch_3", "test_batch", "batches.meta"])
def test_a_wrong_cifar10_pickle_is_never_unpickled(tmp_path, monkeypatch, name):
    folder, archive = write_cifar10(tmp_path, monkeypatch)
    archive.unlink()
    trace = tmp_path / "executed"
    (folder / name).write_bytes(pickle.dumps(Payload(trace)))
    with pytest.raises(DataError) as error:
        datasets.cifar10(root=str(tmp_path), validation_size=0)
    assert f"{folder / name} is damaged or another file: it is a pickle; checksum (md5)" in message(error)
    assert not trace.exists()
    pickle.loads((folder / name).read_bytes())
    assert trace.exists()


def test_a_broken_cifar10_pickle_is_an_error(tmp_path, monkeypatch):
    from torchvision.datasets import CIFAR10

    folder, archive = write_cifar10(tmp_path, monkeypatch)
    archive.unlink()
    (folder / "test_batch").write_bytes((folder / "test_batch").read_bytes()[:50])
    monkeypatch.setattr(CIFAR10, "test_list", [["test_batch", md5(folder / "test_batch")]])
    with pytest.raises(DataError, match="cannot read"):
        datasets.cifar10(root=str(tmp_path), validation_size=0)


def test_a_damaged_chardata_mat_is_named_with_its_source(omniglot_root):
    path = omniglot_root / "OMNIGLOT" / "chardata.mat"
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(DataError) as error:
        datasets.omniglot(root=str(omniglot_root), validation_size=0)
    for part in (f"{path} is damaged", "checksum (git)", datasets.OMNIGLOT_URL, "Delete it"):
        assert part in message(error)


def test_only_the_chardata_mat_of_iwae_is_accepted(omniglot_root):
    from scipy.io import savemat

    path = omniglot_root / "OMNIGLOT" / "chardata.mat"
    savemat(path, {"data": np.zeros((784, 3)), "testdata": np.zeros((784, 3))})
    with pytest.raises(DataError, match="damaged or another file"):
        datasets.omniglot(root=str(omniglot_root), validation_size=0)


def test_a_chardata_mat_without_its_arrays_is_an_error(omniglot_root, monkeypatch):
    from scipy.io import savemat

    path = omniglot_root / "OMNIGLOT" / "chardata.mat"
    savemat(path, {"data": np.zeros((784, 3))})
    monkeypatch.setattr(datasets, "OMNIGLOT_CHECKSUM", Checksum("git", Checksum("git", "").of(path)))
    with pytest.raises(DataError, match=r"cannot read .*chardata.mat: .*testdata"):
        datasets.omniglot(root=str(omniglot_root), validation_size=0)


# --- npz ------------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("shape", [(8, 6), (1, 8, 6), (3, 8, 6)])
@pytest.mark.parametrize("dtype", [np.uint8, np.float16, np.float32, np.float64])
def test_npz_returns_the_arrays_of_the_file(tmp_path, shape, dtype):
    def array(n):
        values = pixels(n, *shape, seed=n)
        return values if dtype == np.uint8 else (values / 255).astype(dtype)

    arrays = {"train": array(10), "validation": array(4), "test": array(3)}
    splits = datasets.npz(path=write_npz(tmp_path / "a.npz", **arrays))
    for name, expected in arrays.items():
        images = getattr(splits, name)
        assert images.shape[1:] == (shape if len(shape) == 3 else (1, *shape))
        assert np.array_equal(images.numpy().reshape(expected.shape), expected.astype(images.numpy().dtype))
    assert splits.levels == (256 if dtype == np.uint8 else None)


@pytest.mark.parametrize(("size", "expected"), [(None, 2), (0, 0), (7, 7)])
def test_npz_without_a_validation_array_is_split(tmp_path, size, expected):
    path = write_npz(tmp_path / "a.npz", train=pixels(20, 4, 4), test=pixels(3, 4, 4))
    splits = datasets.npz(path=path, validation_size=size)
    assert (len(splits.train), len(splits.validation)) == (20 - expected, expected)


GOOD = pixels(5, 4, 4)
FLOATS = GOOD / 255
WITH_NAN = FLOATS.copy()
WITH_NAN[2, 1, 3] = np.nan
BAD_NPZ = [
    ({"train": GOOD}, "no array 'test'; expected .* found 'train'"),
    ({"images": GOOD}, "no array 'test' and no 'train'; .* found 'images'"),
    ({"train": GOOD[0], "test": GOOD}, r"'train' has shape \(4, 4\); expected"),
    ({"train": GOOD[None, None], "test": GOOD}, r"'train' has shape \(1, 1, 5, 4, 4\); expected"),
    ({"train": GOOD, "test": GOOD[:, :3]}, "different images .* 'train' 1x4x4 uint8; 'test' 1x3x4 uint8"),
    ({"train": GOOD, "test": FLOATS}, "different images .* 'test' 1x4x4 float32"),
    ({"train": GOOD, "test": GOOD, "validation": GOOD[:, None].repeat(3, 1)}, "'validation' 3x4x4"),
    ({"train": WITH_NAN, "test": FLOATS}, "'train' has 1 values that are not numbers"),
    (
        {"train": FLOATS * 2 - 0.5, "test": FLOATS},
        r"'train' has values from -0\.[0-9]+ to 1\.[0-9]+; expected floats",
    ),
    ({"train": FLOATS, "test": FLOATS / 0.5}, "'test' has values from"),
    ({"train": FLOATS - 0.5, "test": FLOATS}, r"'train' has values from -0\.[0-9]+ to 0\.[0-9]+"),
    ({"train": np.full((3, 4, 4), np.inf), "test": FLOATS}, "'train' has values from inf to inf"),
    ({"train": GOOD, "test": GOOD[:0]}, "'test' is empty"),
    ({"train": GOOD.astype(np.int64), "test": GOOD}, "'train' is of type int64; expected uint8"),
    ({"train": GOOD > 100, "test": GOOD}, "'train' is of type bool; expected uint8"),
    ({"train": (GOOD > 100).astype(np.uint8), "test": GOOD}, "holds nothing above 1"),
    ({"train": np.array([[["a"]]], dtype=object), "test": GOOD}, "Pickled objects are refused"),
]


@pytest.mark.slow
@pytest.mark.parametrize(("arrays", "reason"), BAD_NPZ)
def test_a_bad_npz_is_refused_with_its_reason(tmp_path, arrays, reason):
    path = write_npz(tmp_path / "bad.npz", **arrays)
    with pytest.raises(DataError, match=reason) as error:
        datasets.npz(path=path)
    assert f"dataset.path={path}" in str(error.value)


@pytest.mark.parametrize("channels", [1, 3, 4])
def test_channels_last_are_refused_with_the_remedy(tmp_path, channels):
    last = pixels(6, 9, 8, channels)
    with pytest.raises(DataError, match="channels last") as error:
        datasets.npz(path=write_npz(tmp_path / "last.npz", train=last, test=last))
    for part in ("'train'", f"(6, 9, 8, {channels})", "expected [n, channels, height, width]"):
        assert part in str(error.value)
    mended = last.transpose(0, 3, 1, 2)
    assert "array.transpose(0, 3, 1, 2)" in str(error.value)
    splits = datasets.npz(path=write_npz(tmp_path / "first.npz", train=mended, test=mended))
    assert splits.shape == (channels, 9, 8)


@pytest.mark.slow
@pytest.mark.parametrize("shape", [(3, 9, 3), (1, 9, 1), (4, 4, 3), (9, 3, 3), (9, 1, 4), (9, 8, 2)])
def test_ambiguous_shapes_are_accepted(tmp_path, shape):
    images = pixels(6, *shape)
    assert datasets.npz(path=write_npz(tmp_path / "a.npz", train=images, test=images)).shape == shape


@pytest.mark.parametrize(
    "content", [b"", b"text", b"PK\x03\x04 broken", pickle.dumps([1]), b"\x93NUMPY\x01\x00"], ids=repr
)
def test_a_file_that_is_no_npz_is_refused(tmp_path, content):
    path = tmp_path / "a.npz"
    path.write_bytes(content)
    with pytest.raises(DataError, match=r"not an \.npz file") as error:
        datasets.npz(path=str(path))
    assert "allow_pickle" not in str(error.value)


def test_a_single_array_or_a_truncated_npz_is_refused(tmp_path):
    np.save(tmp_path / "a.npy", GOOD)
    whole = Path(write_npz(tmp_path / "a.npz", train=GOOD, test=GOOD)).read_bytes()
    (tmp_path / "half.npz").write_bytes(whole[: len(whole) // 2])
    flipped = bytearray(whole)
    flipped[200] ^= 0xFF
    (tmp_path / "flipped.npz").write_bytes(flipped)
    for name in ("a.npy", "half.npz", "flipped.npz"):
        with pytest.raises(DataError, match=r"not an \.npz file"):
            datasets.npz(path=str(tmp_path / name))


def npy(header, content=b"\0" * 64, version=1):
    text = (repr(header) + "\n").encode()
    size = len(text).to_bytes(2 if version == 1 else 4, "little")
    return b"\x93NUMPY" + bytes([version, 0]) + size + text + content


def pickled(shape):
    return {"descr": "|O", "fortran_order": False, "shape": shape}


def plain(shape, kind="|u1"):
    return {"descr": kind, "fortran_order": False, "shape": shape}


NPY_THAT_LIES = {
    "gigabytes": (
        npy(plain((10**6, 100, 100))),
        r"says \[1000000, 100, 100\] of uint8, 10,000,000,000 bytes, .* has 64",
    ),
    "more than integers": (npy(plain((2**62, 2**62, 4))), "bytes, but it has 64"),
    "negative": (npy(plain((-8, -8, 1))), r"says \[-8, -8, 1\]"),
    "fewer": (npy(plain((1, 2, 2))), "4 bytes, but it has 64"),
    "wide text": (npy(plain((2, 2, 2), "<U100000000")), "bytes, but it has 64"),
    "objects": (npy(pickled((8, 1, 1))), "train.npy holds Python objects"),
    "objects within": (npy(plain((8, 1, 1), [("a", "|O")])), "train.npy holds Python objects"),
    "a pickle": (pickle.dumps([1]), "magic string"),
    "another version": (npy(plain((8, 8, 1)), version=9), r"version \(9, 0\)"),
    "a header of megabytes": (npy(plain((8, 8, 1)) | {"x": " " * 10**6}, version=2), "Header info length"),
    "code in the header": (npy("__import__('os').system('false')"), "not a dictionary|Cannot parse header"),
}


@pytest.mark.parametrize(("content", "reason"), NPY_THAT_LIES.values(), ids=NPY_THAT_LIES)
def test_a_false_header_is_refused_before_its_array_is_read(tmp_path, content, reason, monkeypatch):
    monkeypatch.setattr(npz.npy, "read_array", lambda *_, **__: pytest.fail("an array was read"))
    path = tmp_path / "a.npz"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("train.npy", content)
        archive.writestr("test.npy", npy(plain((4, 4, 4))))
    with pytest.raises(DataError, match=rf"not an \.npz file of plain arrays, .*{reason}"):
        datasets.npz(path=str(path))


def test_arrays_beyond_the_memory_are_refused_unread(tmp_path, monkeypatch):
    monkeypatch.setattr(npz, "available_memory", lambda: 10**6)
    path = tmp_path / "bomb.npz"
    np.savez_compressed(path, train=np.zeros((1000, 100, 100), np.uint8), test=GOOD)
    assert path.stat().st_size < 100_000
    with pytest.raises(
        DataError, match=r"its arrays need 10,000,\d+ bytes of memory, of which 1,000,000 are available"
    ):
        datasets.npz(path=str(path))


def test_a_duplicate_array_is_refused(tmp_path):
    path = tmp_path / "a.npz"
    with zipfile.ZipFile(path, "w") as archive, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for _ in range(2):
            archive.writestr("train.npy", npy(plain((4, 4, 4))))
    with pytest.raises(DataError, match=r"train\.npy is in it twice"):
        datasets.npz(path=str(path))


def test_a_file_that_is_no_npz_is_named_by_its_kind(tmp_path):
    tmp_path.joinpath("a.npz").write_bytes(gzip.compress(b"x"))
    with pytest.raises(DataError, match=r"File is not a zip file; it is a gzip archive"):
        datasets.npz(path=str(tmp_path / "a.npz"))


def test_an_npz_needs_an_existing_path(tmp_path):
    with pytest.raises(DataError, match=r"dataset\.path: expected your \.npz file"):
        datasets.npz()
    with pytest.raises(DataError, match="there is no such file"):
        datasets.npz(path=str(tmp_path / "missing.npz"))


def test_an_npz_that_changed_since_the_run_started_is_refused(tmp_path):
    path = write_npz(tmp_path / "a.npz", train=GOOD, test=GOOD)
    digest = hashlib.sha256(Path(path).read_bytes()).hexdigest()
    assert len(datasets.npz(path=path, sha256=digest, validation_size=0).train) == 5
    write_npz(path, train=GOOD[::-1], test=GOOD)
    with pytest.raises(DataError, match=rf"not the file this run was started with: .* expected {digest}"):
        datasets.npz(path=path, sha256=digest)


def test_a_truncated_npz_is_not_called_a_zip_to_unpack(tmp_path):
    file = tmp_path / "images.npz"
    np.savez(file, train=np.zeros((9, 8, 8), np.uint8), test=np.zeros((9, 8, 8), np.uint8))
    file.write_bytes(file.read_bytes()[:-50])
    with pytest.raises(DataError, match=r"it is a truncated \.npz file"):
        datasets.npz(path=str(file))
