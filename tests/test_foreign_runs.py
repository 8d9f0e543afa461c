"""Run directories of other users: links out of them are not followed, and their claims are checked."""

import os
import zipfile
from pathlib import Path

import numpy as np
import pytest
from recorded import container, done, stopped

from vlae.experiment.load import load
from vlae.launching.display import reason_of
from vlae.launching.logs import log_of
from vlae.report.html.images import _pictures
from vlae.report.html.provenance import _traceback
from vlae.report.runs import read_array
from vlae.report.sources.run_rows import read_rows
from vlae.runs.directory import RunDirectory
from vlae.system.disk import RecordError
from vlae.system.files import check_links
from vlae.trackers.run_history import RunHistory
from vlae.trackers.sync import _sync_one

DIRECTORIES = (
    "attempts",
    "attempts/1",
    "checkpoints",
    "images",
    "tracking",
    "evaluations",
    "images/epoch-000001",
)
FILES = (
    *("config.yaml", "results.json", "metrics.jsonl", "test_log_likelihood.npz", "checkpoints/last.pt"),
    *("images/data.png", "attempts/1/log.txt", "attempts/1/claim.json", "tracking/wandb.json", "notes.txt"),
)


@pytest.fixture
def run(tmp_path):
    """A run that was interrupted, with something in each of its places."""
    path = stopped(tmp_path / "runs", container("model=vae"), state="interrupted", attempt=1)
    for name in ("attempts/1", "checkpoints", "images/epoch-000001", "tracking", "evaluations"):
        path.joinpath(name).mkdir(parents=True, exist_ok=True)
    path.joinpath("metrics.jsonl").write_text('{"epoch": 1}\n')
    return RunDirectory(path)


def linked(run: RunDirectory, name: str, place: Path) -> Path:
    """Makes ``name`` in the run a link to ``place``, with what was there."""
    path = run.path / name
    place.parent.mkdir(parents=True, exist_ok=True)
    if path.exists():
        path.rename(place)
    path.symlink_to(place)
    return path


def contents(place: Path) -> dict[str, bytes | None]:
    return {str(p.relative_to(place)): p.read_bytes() if p.is_file() else None for p in place.rglob("*")}


@pytest.mark.slow
@pytest.mark.parametrize("name", [*DIRECTORIES, *FILES])
def test_a_run_with_a_link_to_the_outside_is_not_claimed(run, tmp_path, name):
    path = linked(run, name, tmp_path / "elsewhere" / "target")
    before = contents(tmp_path / "elsewhere")
    with pytest.raises(RecordError) as error:
        run.claim()
    assert f"{path} is a link to {tmp_path}/elsewhere/target" in str(error.value)
    assert contents(tmp_path / "elsewhere") == before


def test_a_broken_link_is_not_written_through(run, tmp_path):
    run.path.joinpath("images", "data.png").symlink_to(tmp_path / "new.png")
    with pytest.raises(RecordError, match=r"data.png is a link to .*new.png"):
        run.claim()
    assert not tmp_path.joinpath("new.png").exists()


@pytest.mark.parametrize("name", ["status.json", "results.json", "config.yaml", "metrics.jsonl"])
def test_records_are_never_written_through_a_link(run, tmp_path, name):
    real = run.path / "real"
    if run.path.joinpath(name).exists():
        run.path.joinpath(name).rename(real)
    else:
        real.write_text("{}")
    before = real.read_bytes()
    run.path.joinpath(name).symlink_to("real")
    acts = {
        "status.json": lambda: run.write_status(state="failed"),
        "results.json": lambda: run.write_results({"test": {"elbo": 1.0}}),
        "config.yaml": lambda: run.carry_out_as(container("model=vae", device="cpu")),
        "metrics.jsonl": lambda: run.append_metrics({"epoch": 2}),
    }
    if name == "metrics.jsonl":
        with pytest.raises(RecordError, match=r"cannot write .*metrics.jsonl"):
            acts[name]()
    else:
        acts[name]()
        assert not run.path.joinpath(name).is_symlink()
    assert real.read_bytes() == before


def test_a_run_behind_links_works(run, tmp_path):
    """Links to a scratch disk: the run itself, the directory of all runs, and one above it."""
    real = tmp_path / "scratch" / "run"
    real.parent.mkdir()
    run.path.rename(real)
    run.path.symlink_to(real)
    (tmp_path / "home").symlink_to(tmp_path / "runs")
    run.path.joinpath("images", "last").symlink_to("epoch-000001")
    run.path.joinpath("images", "by-name").symlink_to(real / "images" / "epoch-000001")
    same = RunDirectory(tmp_path / "home" / run.path.name)
    with same.claim() as attempt:
        same.append_metrics({"epoch": 2})
        assert attempt.number == 2
    assert [line["epoch"] for line in run.metrics()] == [1, 2]
    assert real.joinpath("attempts", "2", "ended.json").is_file()
    check_links(same.path)


def test_nothing_is_read_through_a_link_that_leads_out(run, tmp_path):
    attempts = linked(run, "attempts", tmp_path / "elsewhere" / "attempts")
    images = linked(run, "images", tmp_path / "elsewhere" / "images")
    tmp_path.joinpath("elsewhere", "attempts", "1", "traceback.txt").write_text("secret")
    tmp_path.joinpath("elsewhere", "attempts", "1", "ended.json").write_text('{"message": "secret"}')
    linked(run, "checkpoints", tmp_path / "elsewhere" / "checkpoints")
    for act in (
        run.holder,
        lambda: log_of(run),
        lambda: run.end_attempt("killed"),
        lambda: load(str(run.path)),
    ):
        with pytest.raises(RecordError, match="outside the directory of the run"):
            act()
    assert "secret" not in _traceback(run.path.parent, run.path.name)[0]
    assert "secret" not in reason_of(run.path)
    assert list(_pictures(run.path, {"data": "data"})) == []
    with pytest.raises(RecordError, match="outside the directory of the run"):
        _sync_one(RunHistory(run), False, lambda: pytest.fail("asked for access"))
    assert attempts.is_symlink()
    assert images.is_symlink()


def test_results_linked_from_outside_count_as_damaged(tmp_path):
    path = done(tmp_path / "runs", container("model=vae"))
    linked(RunDirectory(path), "results.json", tmp_path / "elsewhere.json")
    [row] = read_rows(tmp_path / "runs", {path.name: ""})
    assert "is a link to" in row.because


def test_arrays_with_false_sizes_are_not_read(tmp_path):
    header = repr({"descr": "<f8", "fortran_order": False, "shape": (10**11,)}).encode() + b"\n"
    content = b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header + b"\0" * 8
    with zipfile.ZipFile(tmp_path / "a.npz", "w") as archive:
        archive.writestr("log_likelihood.npy", content)
    with pytest.raises(
        RecordError, match=r"a\.npz cannot be read \(the header .* 800,000,000,000 bytes, but it has 8"
    ):
        read_array(str(tmp_path / "a.npz"), "log_likelihood")
    np.savez(tmp_path / "b.npz", log_likelihood=np.array([print], dtype=object))
    with pytest.raises(RecordError, match="holds Python objects"):
        read_array(str(tmp_path / "b.npz"), "log_likelihood")


@pytest.mark.slow
@pytest.mark.parametrize("place", ["a section of its own", "another section"])
def test_a_config_that_expands_beyond_memory_is_refused(tmp_path, place):
    path = done(tmp_path / "runs", container("model=vae"))
    first = "evil: {a0: &a0 [1, 1], "
    levels = [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]" for i in range(1, 30)]
    bomb = first + ", ".join(levels) + "}\n" + ("" if place == "a section of its own" else "more: *a29\n")
    path.joinpath("config.yaml").write_text(path.joinpath("config.yaml").read_text() + bomb)
    with pytest.raises(RecordError, match="it holds more than 100,000 values"):
        RunDirectory(path).config()
    [row] = read_rows(tmp_path / "runs", {path.name: ""})
    assert "it holds more than 100,000 values" in row.because


def test_a_config_of_gigabytes_is_not_read(tmp_path):
    path = done(tmp_path / "runs", container("model=vae"))
    with path.joinpath("config.yaml").open("ab") as file:
        file.truncate(2**34)
    with pytest.raises(RecordError, match="it has 17,179,869,184 bytes, expected 1,048,576 at most"):
        RunDirectory(path).config()
    [row] = read_rows(tmp_path / "runs", {path.name: ""})
    assert "it has 17,179,869,184 bytes" in row.because


def test_a_name_that_only_looks_like_a_number_is_no_attempt(run):
    os.mkdir(run.path / "attempts" / "²")
    assert run.claim().number == 2
