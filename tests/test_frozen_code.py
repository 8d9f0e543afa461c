"""The frozen code: all of it, as it was, found by its content."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from recorded import container, stopped

import vlae
from vlae.experiment.frozen_run import FAILED, work
from vlae.launching.launch_lock import hold_launch_lock
from vlae.launching.slurm_submission import code_setup
from vlae.launching.slurm_task import FIRST_LINES
from vlae.launching.sweep_index import record_sweep
from vlae.runs import snapshot, snapshot_check
from vlae.runs.directory import RunDirectory
from vlae.system import files
from vlae.system.disk import RecordError
from vlae.training.loop import Training


@pytest.fixture
def checkout(tmp_path, monkeypatch):
    """A small project under git, which is taken for the one that is being executed by a process that began now."""
    root = tmp_path / "project"
    (root / "vlae").mkdir(parents=True)
    root.joinpath("launch.py").write_text("print(1)\n")
    root.joinpath("vlae", "model.py").write_text("x = 1\n")
    root.joinpath(".gitignore").write_text("runs/\n")
    for words in (["init", "-q"], ["add", "-A"], ["commit", "-qm", "first"]):
        git(root, *words)
    monkeypatch.setattr(snapshot, "SOURCE", root)
    snapshot.executed_code.cache_clear()
    yield root
    snapshot.executed_code.cache_clear()


def git(root: Path, *words: str) -> None:
    who = ["-c", "user.name=a", "-c", "user.email=a@b"]
    subprocess.run(["git", "-C", root, *who, *words], check=True)


def names_in(copy: Path) -> set[str]:
    return {file.relative_to(copy).as_posix() for file in copy.rglob("*") if file.is_file()} - {
        ".commit.json"
    }


@pytest.fixture(
    params=["git", "no git", "no checkout", "another user's", "a worktree", "another repository's GIT_DIR"]
)
def kind_of_checkout(request, checkout, tmp_path, monkeypatch):
    """The same files, by way of everything that can change what git says of them."""
    if request.param == "no git":
        monkeypatch.setenv("PATH", str(tmp_path))
    elif request.param == "no checkout":
        shutil.rmtree(checkout / ".git")
    elif request.param == "another user's":
        if os.geteuid() != 0:
            pytest.skip("only root can give files away")
        for path in (checkout, *checkout.rglob("*")):
            os.chown(path, 12345, 12345)
    elif request.param == "a worktree":
        worktree = tmp_path / "worktree"
        git(checkout, "worktree", "add", "-q", str(worktree))
        for name in ("mine.py", "notes.txt", "vlae/new.py", "vlae/ignored.log"):
            shutil.copy(checkout / name, worktree / name)
        monkeypatch.setattr(snapshot, "SOURCE", worktree)
    elif request.param == "another repository's GIT_DIR":
        monkeypatch.setenv("GIT_DIR", str(other_repository(tmp_path)))
    return request.param


def other_repository(tmp_path: Path) -> Path:
    place = tmp_path / "other"
    place.mkdir()
    git(place, "init", "-q")
    git(place, "commit", "-q", "--allow-empty", "-m", "other")
    return place / ".git"


@pytest.fixture
def with_more_files(checkout):
    """Files before `kind_of_checkout`: tracked, unknown and ignored by git, in and beside the places of code."""
    for name in (
        "mine.py",
        "notes.txt",
        "vlae/new.py",
        "vlae/ignored.log",
        "vlae/.hidden.py",
        "vlae/old.py~",
    ):
        checkout.joinpath(name).write_text(f"{name}\n")
    (checkout / "package").mkdir()
    (checkout / "docs").mkdir()
    for name in ("package/__init__.py", "package/inner.py", "docs/README.md", "docs/draw.py", "README.md"):
        checkout.joinpath(name).write_text(f"{name}\n")
    checkout.joinpath(".gitignore").write_text("runs/\n*.log\n")
    git(checkout, "add", "package", "docs", "README.md", ".gitignore")
    git(checkout, "commit", "-qm", "second")


@pytest.mark.slow
def test_the_hash_depends_on_files_not_on_git(with_more_files, kind_of_checkout, tmp_path):
    copy = snapshot.freeze(tmp_path / "runs")
    assert names_in(copy) == {
        *("launch.py", "mine.py", "vlae/model.py", "vlae/new.py", "vlae/ignored.log"),
        *("package/__init__.py", "package/inner.py"),
    }
    assert copy.name == "b2731078005e"


@pytest.mark.slow
def test_the_commit_is_that_of_the_checkout(checkout, tmp_path, monkeypatch):
    before = snapshot.code_description()
    assert before["commit"] == head(checkout)
    other = other_repository(tmp_path)
    for name, value in (
        ("GIT_DIR", other),
        ("GIT_WORK_TREE", other.parent),
        ("GIT_INDEX_FILE", other / "index"),
        ("GIT_COMMON_DIR", other),
        ("GIT_OBJECT_DIRECTORY", other / "objects"),
        ("GIT_NAMESPACE", "other"),
        ("GIT_CEILING_DIRECTORIES", checkout.parent),
        ("GIT_EXTERNAL_DIFF", "false"),
        ("GIT_LITERAL_PATHSPECS", "1"),
        ("GIT_CONFIG_PARAMETERS", "'core.bare=true'"),
    ):
        with monkeypatch.context() as patch:
            patch.setenv(name, str(value))
            assert snapshot.code_description() == before, name


def test_the_commit_of_another_users_checkout_is_recorded(checkout):
    if os.geteuid() != 0:
        pytest.skip("only root can give files away")
    commit = head(checkout)
    for path in (checkout, *checkout.rglob("*")):
        os.chown(path, 12345, 12345)
    assert snapshot.code_description()["commit"] == commit


def head(checkout: Path) -> str:
    return subprocess.check_output(["git", "-C", checkout, "rev-parse", "HEAD"], text=True).strip()


def test_settings_of_git_change_neither_hash_nor_commit(checkout):
    before = snapshot.code_description()
    for setting in ("core.quotepath=true", "core.autocrlf=true", "diff.external=false", "diff.noprefix=true"):
        git(checkout, "config", *setting.split("="))
        assert snapshot.code_description() == before, setting


def test_other_files_are_no_change_of_the_code(checkout):
    git(checkout, "rm", "-q", "--cached", ".gitignore")
    checkout.joinpath("notes.txt").write_text("")
    assert not snapshot.code_description()["changed"]
    checkout.joinpath("launch.py").unlink()
    assert snapshot.code_description()["changed"]


def test_other_installed_packages_are_not_code(checkout, tmp_path):
    for name in (
        *("vlae/conf/config.yaml", "hydra_plugins/vlae_launching/grids.py", "hydra_plugins/other/x.py"),
        *("torch/__init__.py", "six.py", "conf/other.yaml", "sweeps/other.yaml", "pyproject.toml"),
    ):
        checkout.joinpath(name).parent.mkdir(parents=True, exist_ok=True)
        checkout.joinpath(name).write_text("")
    names = {"vlae/model.py", "vlae/conf/config.yaml", "hydra_plugins/vlae_launching/grids.py"}
    assert names_in(snapshot.freeze(tmp_path / "runs")) == names


def test_file_names_outside_utf_8_are_hashed(checkout, tmp_path):
    before = snapshot.code_description()["hash"]
    name = os.fsdecode(b"caf\xe9.txt")
    checkout.joinpath("vlae", name).write_text("an old archive")
    git(checkout, "add", "-A")
    copy = snapshot.freeze(tmp_path / "runs")
    assert copy.joinpath("vlae", name).read_text() == "an old archive"
    assert copy.name == snapshot.code_description()["hash"] != before
    assert snapshot_check.damage(str(copy)) is None
    copy.joinpath("vlae", name).write_text("edited")
    assert snapshot_check.damage(str(copy)) == "vlae/caf\\udce9.txt changed"


def test_a_copy_equals_the_current_code(checkout, tmp_path):
    checkout.joinpath("vlae", "model.py").write_text("x = 2\n")
    checkout.joinpath("vlae", "mine.py").write_text("y = 1\n")
    checkout.joinpath("launch.py").unlink()
    (checkout / "runs").mkdir()
    checkout.joinpath("runs", "big.pt").write_text("no code")
    copy = snapshot.freeze(tmp_path / "runs")
    assert copy.parent == tmp_path / "runs" / ".code"
    assert names_in(copy) == {"vlae/model.py", "vlae/mine.py"}
    assert copy.joinpath("vlae", "model.py").read_text() == "x = 2\n"
    recorded = json.loads(copy.joinpath(".commit.json").read_text())
    assert recorded["changed"]
    assert "-x = 1\n+x = 2" in recorded["difference"]
    assert "deleted file" in recorded["difference"]
    assert recorded["added"] == ["vlae/mine.py"]


def test_a_copy_is_found_by_its_content(checkout, tmp_path):
    first = snapshot.freeze(tmp_path / "runs")
    assert snapshot.freeze(tmp_path / "runs") == first
    checkout.joinpath("launch.py").write_text("print(2)\n")
    second = snapshot.freeze(tmp_path / "runs")
    assert second != first
    assert snapshot.code_description() == {
        "hash": second.name,
        "commit": snapshot.code_description()["commit"],
        "changed": True,
    }
    checkout.joinpath("launch.py").write_text("print(1)\n")
    assert snapshot.code_description()["hash"] == first.name
    assert not snapshot.code_description()["changed"]


def test_a_new_file_alone_is_a_change(checkout):
    checkout.joinpath("vlae", "mine.py").write_text("")
    assert snapshot.code_description()["changed"]


@pytest.mark.slow
@pytest.mark.parametrize("with_git", [True, False])
@pytest.mark.parametrize("runs_dir", ["mine", "results/mine", "sweeps/mine"])
def test_runs_and_notes_are_not_code(checkout, runs_dir, with_git):
    if not with_git:
        shutil.rmtree(checkout / ".git")
    runs_dir = checkout / runs_dir
    with hold_launch_lock(runs_dir):
        record_sweep(runs_dir, "s", {}, [])
        copy = snapshot.freeze(runs_dir)
    before = snapshot.code_description()
    RunDirectory.create(runs_dir, "a", {})
    checkout.joinpath("notes.txt").write_text("no code")
    assert snapshot.code_description() == before
    assert snapshot.freeze(runs_dir) == copy
    assert names_in(copy) == {"launch.py", "vlae/model.py"}


def test_a_link_is_copied_as_its_target(checkout, tmp_path):
    tmp_path.joinpath("shared.py").write_text("z = 1\n")
    for name, target in (("linked.py", "shared.py"), ("dangling.py", "nothing.py"), ("round.py", "round.py")):
        place = checkout / "vlae"
        place.joinpath(name).symlink_to(place / name if name == "round.py" else tmp_path / target)
    git(checkout, "add", "-A")
    copy = snapshot.freeze(tmp_path / "runs")
    assert {file.name for file in (copy / "vlae").iterdir()} == {"model.py", "linked.py"}
    assert not (copy / "vlae" / "linked.py").is_symlink()
    assert (copy / "vlae" / "linked.py").read_text() == "z = 1\n"


def test_a_vanished_file_is_left_out(checkout, tmp_path, monkeypatch):
    real = files.read_bytes

    def read_bytes(path, *most):
        if path.name == "model.py":
            path.unlink()
        return real(path, *most)

    monkeypatch.setattr(files, "read_bytes", read_bytes)
    copy = snapshot.freeze(tmp_path / "runs")
    assert copy.joinpath("launch.py").exists()
    assert not copy.joinpath("vlae").exists()


def test_a_file_that_cannot_be_read_is_named(checkout, tmp_path, monkeypatch):
    """Permission bits do not bind root, so the refusal is the test's."""

    def refuse(path, *words, **keys):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(files, "open", refuse, raising=False)
    for act in (snapshot.code_description, lambda: snapshot.freeze(tmp_path / "runs")):
        with pytest.raises(RecordError, match=r"cannot read \S+/project/\S+: Permission denied"):
            act()
    assert not (tmp_path / "runs").exists()


@pytest.mark.slow
def test_results_name_the_code_at_the_start_of_the_run(checkout, tmp_path, monkeypatch):
    before = snapshot.code_description()
    real = Training.run

    def run(training, *arguments):
        real(training, *arguments)
        checkout.joinpath("vlae", "model.py").write_text("edited\n")

    monkeypatch.setattr(Training, "run", run)
    tiny = ("model=vae", "dataset.sizes.latent_dim=2", "dataset.sizes.hidden_dims=[3]", "trainer.epochs=1")
    fast = ("evaluate.num_samples=2", "evaluate.proposals=[own]", "evaluate.num_gap_images=0", "device=cpu")
    results = vlae.run([*tiny, *fast, f"runs_dir={tmp_path / 'runs'}"], quiet=True)
    assert snapshot.code_description() != before
    assert results["environment"]["code"] == before


def test_freezing_frozen_code_changes_nothing(checkout, tmp_path, monkeypatch):
    before = snapshot.code_description()
    copy = snapshot.freeze(tmp_path / "runs")
    monkeypatch.setattr(snapshot, "SOURCE", copy)
    assert snapshot.freeze(tmp_path / "elsewhere") == copy
    assert snapshot.code_description() == before
    (copy / "vlae" / "__pycache__").mkdir()  # what is compiled there changes nothing
    assert snapshot.code_description() == before


def test_an_unfinished_copy_does_not_exist(checkout, tmp_path, monkeypatch):
    def full(path, content):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(RecordError, match="No space left"):
        snapshot.freeze(tmp_path / "runs")
    assert [p for p in (tmp_path / "runs" / ".code").rglob("*") if p.is_file()] == []


# --- a copy that was damaged ----------------------------------------------------------------------------------


def unlink(copy):
    copy.joinpath("vlae", "model.py").unlink()


def empty(copy):
    shutil.rmtree(copy)
    copy.mkdir()


def edit(copy):
    file = copy / "vlae" / "model.py"
    seen = file.stat()
    file.write_text("x = 2\n")  # of the same size and time
    os.utime(file, ns=(seen.st_atime_ns, seen.st_mtime_ns))


def truncate(copy):
    copy.joinpath("launch.py").write_bytes(b"")


def rename(copy):
    copy.joinpath("launch.py").rename(copy / "vlae" / "launch.py")


def add(copy):
    copy.joinpath("torch.py").write_text("raise SystemExit('not torch')")


def add_package(copy):
    (copy / "numpy").mkdir()
    copy.joinpath("numpy", "__init__.py").write_text("")


def add_compiled(copy):
    copy.joinpath("vlae", "more.pyc").write_bytes(b"")


def link(copy):
    file = copy / "vlae" / "model.py"
    file.rename(copy.parent / "model.py")
    file.symlink_to(copy.parent / "model.py")


def link_directory(copy):
    (copy / "vlae").rename(copy.parent / "vlae")
    (copy / "vlae").symlink_to(copy.parent / "vlae")


def directory_for_file(copy):
    copy.joinpath("launch.py").unlink()
    (copy / "launch.py").mkdir()
    copy.joinpath("launch.py", "x.py").write_text("")


def file_for_directory(copy):
    shutil.rmtree(copy / "vlae")
    copy.joinpath("vlae").write_text("")


def pipe(copy):
    copy.joinpath("launch.py").unlink()
    os.mkfifo(copy / "launch.py")


DAMAGE = {
    unlink: "vlae/model.py missing",
    empty: "its files have the hash",
    edit: "vlae/model.py changed",
    truncate: "launch.py changed",
    rename: "launch.py missing, vlae/launch.py added",
    add: "torch.py added",
    add_package: "numpy/__init__.py added",
    add_compiled: "vlae/more.pyc added",
    link: "vlae/model.py is no plain file",
    link_directory: "vlae is no plain file",
    directory_for_file: "launch.py missing, launch.py/x.py added",
    file_for_directory: "vlae/model.py missing, vlae added",
    pipe: "launch.py is no plain file",
}


@pytest.fixture(params=DAMAGE, ids=lambda damage: damage.__name__)
def damaged(request, checkout, tmp_path):
    """A copy, and what is wrong with it."""
    copy = snapshot.freeze(tmp_path / "runs")
    request.param(copy)
    return copy, DAMAGE[request.param]


@pytest.mark.slow
def test_a_damaged_copy_is_repaired_before_it_is_used(damaged, tmp_path, capsys):
    copy, reason = damaged
    if "launch.py/x.py" in reason:
        with pytest.raises(RecordError, match=f"cannot write {copy}/launch.py: Is a directory"):
            snapshot.freeze(tmp_path / "runs")
        return
    assert snapshot.freeze(tmp_path / "runs") == copy
    assert f"the frozen code {copy} was damaged ({reason}" in capsys.readouterr().err
    assert names_in(copy) == {"launch.py", "vlae/model.py"}
    assert copy.joinpath("vlae", "model.py").read_text() == "x = 1\n"
    assert not any(path.is_symlink() for path in copy.rglob("*"))
    assert snapshot_check.damage(str(copy)) is None
    assert (
        json.loads(copy.joinpath(".commit.json").read_text())["commit"]
        == snapshot.code_description()["commit"]
    )


@pytest.mark.slow
def test_damaged_code_is_neither_executed_nor_launched(damaged, tmp_path, monkeypatch):
    copy, reason = damaged
    monkeypatch.setattr(snapshot, "SOURCE", copy)
    for act in (snapshot.executed_code, lambda: snapshot.freeze(tmp_path / "elsewhere")):
        with pytest.raises(RecordError) as error:
            act()
        assert f"the frozen code {copy} is damaged ({reason}" in str(error.value)


@pytest.mark.slow
def test_a_worker_starts_no_run_from_damaged_code(damaged, tmp_path, monkeypatch, capsys):
    copy, reason = damaged
    run = RunDirectory(stopped(tmp_path / "runs", container("model=vae")))
    monkeypatch.setattr(snapshot, "SOURCE", copy)
    snapshot.executed_code.cache_clear()
    assert work(run.path, 0) == FAILED
    assert f"not started: the frozen code {copy} is damaged ({reason}" in capsys.readouterr().err
    assert (run.state(), list((run.path / "attempts").iterdir())) == ("new", [])


@pytest.mark.slow
def test_a_batch_job_verifies_the_copy_before_importing_it(damaged):
    copy, reason = damaged
    done = batch_script(copy)
    assert (done.returncode, done.stdout) == (1, "")
    assert f"vlae: not started: the frozen code {copy} is damaged ({reason}" in done.stderr
    assert done.stderr.count("\n") == 1


def batch_script(copy: Path) -> subprocess.CompletedProcess:
    lines = [*FIRST_LINES, *code_setup(str(copy)), f"exec {sys.executable} -c 'import launch'"]
    return subprocess.run(["bash"], input="\n".join(lines), capture_output=True, text=True, cwd=copy.parent)


def test_a_copy_of_another_user_is_used_only_if_whole(checkout, tmp_path):
    if os.geteuid() != 0:
        pytest.skip("only root can give files away")
    copy = snapshot.freeze(tmp_path / "runs")
    for path in (copy, *copy.rglob("*")):
        os.chown(path, 12345, 12345)
    assert snapshot.freeze(tmp_path / "runs") == copy
    copy.joinpath("launch.py").write_text("print(2)\n")
    with pytest.raises(
        RecordError, match=r"launch.py changed\) and belongs to user 12345: ask them to delete it"
    ):
        snapshot.freeze(tmp_path / "runs")
    assert copy.joinpath("launch.py").read_text() == "print(2)\n"


def test_the_record_of_a_copy_follows_the_last_launch(checkout, tmp_path):
    checkout.joinpath("launch.py").write_text("print(2)\n")
    copy = snapshot.freeze(tmp_path / "runs")
    git(checkout, "commit", "-qam", "second")
    assert json.loads(copy.joinpath(".commit.json").read_text())["changed"]
    for damage in (lambda: None, copy.joinpath(".commit.json").unlink):
        damage()
        assert snapshot.freeze(tmp_path / "runs") == copy
        recorded = json.loads(copy.joinpath(".commit.json").read_text())
        assert (recorded["commit"], recorded["changed"]) == (head(checkout), False)


def test_a_directory_of_runs_has_one_name_everywhere():
    assert snapshot_check.RUNS == files.STAGING
