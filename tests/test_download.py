"""Downloads from a server on this machine that is good, breaks off, or lies."""

import gzip
import hashlib
import http.server
import os
import socket
import threading
from collections import Counter

import numpy as np
import pytest

from vlae.data import datasets, download
from vlae.data.download import Checksum, DataError

IMAGES = np.random.RandomState(0).randint(0, 256, size=(9, 28, 28), dtype=np.uint8)


class Server:
    """Serves ``files``; ``fault`` is what it does wrong with the file named ``faulty``."""

    def __init__(self):
        self.files, self.requests, self.fault, self.faulty = {}, Counter(), None, None
        server = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def log_message(self, *_):
                pass

            def do_GET(self):
                server.answer(self)

        self.http = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.http.daemon_threads = True
        self.url = f"http://127.0.0.1:{self.http.server_address[1]}"
        self.thread = threading.Thread(target=self.http.serve_forever, kwargs={"poll_interval": 0.01})
        self.thread.start()

    def answer(self, handler):
        name = handler.path.lstrip("/")
        self.requests[name] += 1
        content, fault = self.files.get(name), self.fault if name == self.faulty else None
        if content is None or fault == "not found":
            handler.send_error(404)
        elif fault == "says nothing":
            handler.close_connection = True
        elif fault == "hangs":
            threading.Event().wait(1)
        else:
            content = b"<html>please log in</html>" if fault == "lies" else content
            handler.send_response(200)
            if fault != "breaks off, unannounced":
                handler.send_header("Content-Length", str(len(content)))
            handler.end_headers()
            handler.wfile.write(
                content[: len(content) // 2] if (fault or "").startswith("breaks off") else content
            )

    def close(self):
        self.http.shutdown()
        self.http.server_close()
        self.thread.join()


@pytest.fixture
def server():
    server = Server()
    yield server
    server.close()


def digest(content):
    return hashlib.md5(content).hexdigest()


@pytest.fixture
def mnist(server, monkeypatch):
    """A server with MNIST's four files, small; their checksums in place of the published ones."""
    from torchvision.datasets import MNIST

    for name, array in (("images-idx3", IMAGES), ("labels-idx1", IMAGES[:, 0, 0])):
        header = np.array([8 * 256 + array.ndim, *array.shape], dtype=">i4").tobytes()
        for part in ("train", "t10k"):
            server.files[f"{part}-{name}-ubyte.gz"] = gzip.compress(header + array.tobytes())
    resources = [(name, digest(content)) for name, content in server.files.items()]
    monkeypatch.setattr(MNIST, "resources", resources)
    unpacked = digest(gzip.decompress(server.files["t10k-images-idx3-ubyte.gz"]))
    names = ("train-images-idx3-ubyte", "t10k-images-idx3-ubyte")
    monkeypatch.setitem(datasets.UNPACKED, "MNIST", {name: Checksum("md5", unpacked) for name in names})
    server.faulty = "t10k-images-idx3-ubyte.gz"
    return server


@pytest.fixture
def omniglot(server, monkeypatch, tmp_path):
    """A server with a small chardata.mat."""
    from scipy.io import savemat

    path = tmp_path / "served.mat"
    savemat(path, {"data": IMAGES.reshape(9, -1).T / 255.0, "testdata": IMAGES[:4].reshape(4, -1).T / 255.0})
    server.faulty = "chardata.mat"
    server.files["chardata.mat"] = path.read_bytes()
    monkeypatch.setattr(datasets, "OMNIGLOT_CHECKSUM", Checksum("git", Checksum("git", "").of(path)))
    return server


def load_mnist(server, root):
    return datasets.mnist(root=str(root), url=server.url, validation_size=0)


def load_omniglot(server, root):
    return datasets.omniglot(root=str(root), url=f"{server.url}/chardata.mat", validation_size=0)


def left_in(root):
    """Files and directories, but for the lock."""
    return [path for path in root.rglob("*") if path.suffix != ".lock"]


FAULTS = {
    "not found": "404",
    "breaks off": r"broke off after \d+ of \d+ bytes",
    "breaks off, unannounced": r"checksum \(md5\) [0-9a-f]+, expected [0-9a-f]+",
    "lies": r"checksum \(md5\) [0-9a-f]+, expected [0-9a-f]+",
    "says nothing": "no answer",
    "hangs": "no answer .*timed out",
}


@pytest.mark.slow
@pytest.mark.parametrize(("fault", "reason"), FAULTS.items())
def test_a_failed_download_names_source_and_leaves_nothing(mnist, tmp_path, fault, reason, monkeypatch):
    monkeypatch.setattr(download, "TIMEOUT_SECONDS", 0.2 if fault == "hangs" else 10)
    mnist.fault = fault
    root = tmp_path / "root"
    with pytest.raises(DataError, match=reason) as error:
        load_mnist(mnist, root)
    source = f"{mnist.url}/{mnist.faulty}"
    for part in (
        f"could not download {mnist.faulty}",
        f"{source}: ",
        f"{source}\n    -> {root}/MNIST/raw/{mnist.faulty}",
    ):
        assert part in str(error.value)
    assert left_in(root) == []


@pytest.mark.parametrize("fault", ["breaks off", "lies"])
def test_after_a_failed_download_a_good_server_works(mnist, omniglot, tmp_path, fault):
    root = tmp_path / "root"
    for load in (load_mnist, load_omniglot):
        mnist.fault, mnist.faulty = (
            fault,
            "chardata.mat" if load is load_omniglot else "t10k-images-idx3-ubyte.gz",
        )
        with pytest.raises(DataError):
            load(mnist, root)
        mnist.fault = None
        assert len(load(mnist, root).train) == 9


def test_existing_files_need_no_network(mnist, tmp_path):
    first = load_mnist(mnist, tmp_path / "root")
    assert set(mnist.requests.values()) == {1}
    mnist.requests.clear()
    assert np.array_equal(load_mnist(mnist, tmp_path / "root").train, first.train)
    assert not mnist.requests
    assert not list((tmp_path / "root").glob(".*.partial"))


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def test_without_network_the_error_names_the_manual_download(tmp_path):
    url = f"http://127.0.0.1:{free_port()}"
    with pytest.raises(DataError, match=r"no connection .*refused") as error:
        datasets.mnist(root=str(tmp_path), url=url, validation_size=0)
    for part in ("train-images-idx3", "train-labels-idx1", "t10k-images-idx3", "t10k-labels-idx1"):
        file = f"{part}-ubyte.gz"
        assert f"{url}/{file}\n    -> {tmp_path}/MNIST/raw/{file}" in str(error.value)
    assert left_in(tmp_path) == []


def test_a_host_that_does_not_exist_is_an_error(tmp_path):
    with pytest.raises(DataError, match="no connection"):
        datasets.omniglot(root=str(tmp_path), url="http://no-such-host.invalid/chardata.mat")


def test_a_url_without_a_scheme_is_an_error(tmp_path):
    with pytest.raises(DataError, match="unknown url type"):
        datasets.omniglot(root=str(tmp_path), url="chardata.mat")


def test_a_second_mirror_is_tried_when_the_first_fails(mnist, tmp_path, monkeypatch):
    from torchvision.datasets import MNIST

    monkeypatch.setattr(MNIST, "mirrors", [f"http://127.0.0.1:{free_port()}/", f"{mnist.url}/"])
    assert len(datasets.mnist(root=str(tmp_path), validation_size=0).test) == 9


def test_files_of_a_killed_download_are_removed_unread(mnist, tmp_path):
    raw = tmp_path / ".MNIST.partial" / "MNIST" / "raw"
    raw.mkdir(parents=True)
    for name in mnist.files:
        (raw / name).write_bytes(b"half")
        (raw / name.removesuffix(".gz")).write_bytes(b"half")
    (raw / "more").write_bytes(b"half")
    assert np.array_equal(load_mnist(mnist, tmp_path).train[:, 0].numpy(), IMAGES)
    assert not raw.exists()
    assert not (tmp_path / "MNIST" / "raw" / "more").exists()


def test_a_packed_file_placed_by_hand_is_used_if_correct(mnist, tmp_path):
    place = tmp_path / "MNIST" / "raw" / mnist.faulty
    place.parent.mkdir(parents=True)
    place.write_bytes(b"something else")
    with pytest.raises(DataError, match=r"damaged or another file") as error:
        load_mnist(mnist, tmp_path)
    assert str(place) in str(error.value)
    assert place.read_bytes() == b"something else"
    place.write_bytes(mnist.files[mnist.faulty])
    mnist.requests.clear()
    assert len(load_mnist(mnist, tmp_path).train) == 9
    assert mnist.requests[mnist.faulty] == 0


def test_an_existing_file_is_never_replaced(mnist, tmp_path):
    load_mnist(mnist, tmp_path)
    raw = tmp_path / "MNIST" / "raw"
    kept = raw / "train-images-idx3-ubyte"
    before = kept.stat().st_mtime_ns, kept.stat().st_ino
    (raw / "t10k-images-idx3-ubyte").unlink()
    assert len(load_mnist(mnist, tmp_path).test) == 9
    assert (kept.stat().st_mtime_ns, kept.stat().st_ino) == before


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda path: path.mkdir(), "is a directory, expected a file"),
        (os.mkfifo, "is no plain file, expected a file"),
        (lambda path: path.symlink_to("/dev/zero"), "is no plain file, expected a file"),
        (lambda path: path.symlink_to("/gone/away"), "is a link to /gone/away, which is not there"),
        (lambda path: path.symlink_to(path.name), "cannot read|is a link to"),
    ],
)
def test_an_obstacle_is_named_before_the_download(omniglot, tmp_path, make, said):
    path = tmp_path / "OMNIGLOT" / "chardata.mat"
    path.parent.mkdir()
    make(path)
    with pytest.raises(DataError, match=f"{path}.*{said}|{said}.*{path}"):
        load_omniglot(omniglot, tmp_path)
    assert not omniglot.requests


def test_two_processes_download_every_file_once(omniglot, tmp_path):
    results = []
    threads = [
        threading.Thread(target=lambda: results.append(load_omniglot(omniglot, tmp_path))) for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [len(splits.train) for splits in results] == [9] * 4
    assert omniglot.requests == {"chardata.mat": 1}


def test_an_unwritable_root_is_named(omniglot, tmp_path):
    (tmp_path / "file").write_text("not a directory")
    with pytest.raises(DataError, match="cannot write to") as error:
        load_omniglot(omniglot, tmp_path / "file" / "root")
    assert str(tmp_path / "file" / "root") in str(error.value)
    assert not omniglot.requests


def test_a_full_disk_is_an_error_that_leaves_nothing(omniglot, tmp_path, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(download, "_copy", full)
    with pytest.raises(DataError, match=r"cannot write to .*No space left on device"):
        load_omniglot(omniglot, tmp_path)
    assert left_in(tmp_path) == [tmp_path / "served.mat"]


def test_interrupting_a_download_leaves_nothing(omniglot, tmp_path, monkeypatch):
    def interrupt(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(download, "_copy", interrupt)
    with pytest.raises(KeyboardInterrupt):
        load_omniglot(omniglot, tmp_path)
    assert left_in(tmp_path) == [tmp_path / "served.mat"]


def test_download_reports_all_failures_together(mnist, tmp_path, monkeypatch, capsys):
    from torchvision.datasets import MNIST, FashionMNIST

    monkeypatch.setattr(MNIST, "mirrors", [mnist.url])
    dead = f"http://127.0.0.1:{free_port()}"
    monkeypatch.setattr(FashionMNIST, "mirrors", [dead])
    assert datasets.download(["mnist"], tmp_path) == {"mnist": tmp_path}
    assert capsys.readouterr().out == f"mnist: {tmp_path}\n"
    mnist.requests.clear()
    with pytest.raises(DataError) as error:
        datasets.download(["mnits", "fashion_mnist", "mnist", "digits"], tmp_path)
    for part in (
        "'mnits'; did you mean mnist? (choices: mnist, fashion_mnist, svhn, cifar10, omniglot)",
        dead,
        "'digits'",
    ):
        assert part in str(error.value)
    assert not mnist.requests
