"""The ``vlae`` command on a finished run: the output, the files, and the refusals."""

import json
import math
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image
from recorded import container, done

import vlae
from vlae.config.compose import compose
from vlae.config.run_id import run_id
from vlae.launching.rescore import CHANGEABLE
from vlae.runs.directory import RunDirectory

TINY = (
    "model=vae", "dataset.sizes.latent_dim=3", "dataset.sizes.hidden_dims=[6,5]", "trainer.epochs=2",
    "evaluate.num_samples=20", "device=cpu",
)  # fmt: skip


@pytest.fixture(scope="module")
def runs(tmp_path_factory) -> Path:
    runs_dir = tmp_path_factory.mktemp("runs")
    vlae.run([*TINY, f"runs_dir={runs_dir}"], quiet=True)
    unfinished = compose([*TINY, "seed=1"])
    directory = RunDirectory.create(runs_dir, run_id(unfinished), unfinished)
    directory.write_status(
        state="interrupted", reason="SIGTERM", progress={"epoch": 1, "epochs": 2, "step": 13}
    )
    return runs_dir


@pytest.fixture
def finished(runs) -> Path:
    return next(runs.glob("vae-*-s0-*"))


def results(run: Path) -> dict[str, object]:
    return json.loads((run / "results.json").read_text())


# --- show ---------------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("how", ["id", "prefix", "path"])
def test_show_finds_a_run_by_id_prefix_or_path(how, command, runs, finished, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    if how == "path":
        words = [str(finished)]
    else:
        words = [finished.name if how == "id" else "vae-digits-gaussian-s0", "--runs-dir", str(runs)]
    status, out, err = command("show", *words)
    assert (status, err) == (0, "")
    assert finished.name in out
    own = results(finished)["test"]["log_likelihood"]["own"]
    assert f"{own['mean']:.2f} ± {own['standard_error']:.2f} nats" in out
    assert list(tmp_path.iterdir()) == []


def test_show_reports_the_progress_of_an_unfinished_run(command, runs):
    status, out, err = command("show", "vae-digits-gaussian-s1", "--runs-dir", str(runs))
    assert (status, err) == (0, "")
    for word in ("interrupted", "SIGTERM", "epoch", "13"):
        assert word in out
    assert "log-likelihood" not in out


def test_no_command_is_a_usage_error(command):
    assert command("--") == (2, "", "vlae: missing command (see vlae --help)\n")


@pytest.mark.parametrize("words", [["show"], ["evaluate"], ["sample"]])
def test_an_unknown_run_is_one_message_with_a_suggestion(words, command, runs):
    status, out, err = command(*words, "vae-digits-gausian-s1", "--runs-dir", str(runs))
    assert (status, out) == (2, "")
    assert err.startswith("vlae: no run 'vae-digits-gausian-s1'")
    assert "did you mean vae-digits-gaussian-s1" in err.replace("s0", "s1")
    assert "Traceback" not in err


def test_a_prefix_of_several_runs_lists_them(command, runs):
    status, _, err = command("show", "vae", "--runs-dir", str(runs))
    assert status == 2
    names = [path.name for path in runs.glob("vae-*")]
    assert len(names) == 2
    assert all(name in err for name in names)


def test_missing_runs_dirs_and_other_folders_are_reported(command, runs, tmp_path):
    status, _, err = command("show", "vae", "--runs-dir", str(tmp_path / "none"))
    assert (status, "no directory" in err) == (2, True)
    status, _, err = command("show", str(tmp_path))
    assert (status, "is not a run" in err) == (2, True)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"cost": None}, "NoneType"),
        ({"cost": {}}, "it has no 'train_seconds'"),
        ({"test": {"elbo": 1.0, "elbo_standard_error": 0.1, "log_likelihood": [1]}}, "items"),
    ],
)
def test_incomplete_results_are_one_message(command, finished, tmp_path, change, said):
    broken = tmp_path / finished.name
    shutil.copytree(finished, broken)
    broken.joinpath("results.json").write_text(json.dumps(results(finished) | change))
    status, out, err = command("show", str(broken))
    assert (status, out) == (2, "")
    assert err.startswith(f"vlae: {broken / 'results.json'} does not hold the metrics")
    assert said in err
    assert err.count("\n") == 1


def test_samples_are_a_png_or_nothing(command, finished, tmp_path):
    status, _, err = command("sample", str(finished), "--out", str(tmp_path / "grid.jpg"))
    assert (status, "ends in .png" in err) == (2, True)
    assert list(tmp_path.iterdir()) == []


# --- evaluate -----------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_evaluate_makes_a_run_that_trains_nothing(command, runs, finished):
    before = {path: path.read_bytes() for path in finished.iterdir() if path.is_file()}
    words = ["evaluate", finished.name, "--runs-dir", str(runs), "device=cpu", "evaluate.num_images=50"]
    found = []
    for samples in (20, 40, 20):
        there = set(runs.glob("[!.]*"))
        status, out, err = command(*words, f"evaluate.num_samples={samples}")
        assert status == 0, err
        assert "test log-likelihood" in out
        found.append(set(runs.glob("[!.]*")) - there)
    [one], [other], none = found
    assert not none  # the same settings are the same run
    for run, samples in ((one, 20), (other, 40)):
        results = json.loads((run / "results.json").read_text())
        assert results["taken_over"]["training"]["run"] in (finished.name, one.name)
        own = results["test"]["log_likelihood"]["own"]
        assert (own["num_samples"], own["num_images"]) == (samples, 50)
    assert before == {path: path.read_bytes() for path in finished.iterdir() if path.is_file()}


@pytest.mark.slow
@pytest.mark.parametrize(
    "override", ["trainer.epochs=3", "model.latent_dim=4", "optimizer.lr=1", "evaluate.samples=3"]
)
def test_evaluate_refuses_keys_of_training(override, command, finished):
    before = {path: path.stat().st_mtime_ns for path in finished.rglob("*")}
    status, out, err = command("evaluate", str(finished), override)
    assert (status, out) == (2, "")
    assert override.split("=")[0] in err
    assert "Traceback" not in err
    assert {path: path.stat().st_mtime_ns for path in finished.rglob("*")} == before


@pytest.mark.slow
@pytest.mark.parametrize(
    "override",
    ["evaluate.num_samples=0", "evaluate.num_samples=many", "evaluate.num_images=298", "seed=-1", "seed"],
)
def test_evaluate_checks_values(override, command, finished):
    status, out, err = command("evaluate", str(finished), override)
    assert (status, out) == (2, "")
    assert override.split("=")[0] in err
    assert "Traceback" not in err


def test_evaluate_refuses_a_run_that_was_never_trained(command, runs):
    status, _, err = command("evaluate", "vae-digits-gaussian-s1", "--runs-dir", str(runs))
    assert (status, "has no trained model yet" in err) == (2, True)


# --- sample -------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_sample_writes_images_that_follow_from_the_seed(command, finished, tmp_path):
    pictures, sizes = {}, {}
    for name, words in {"a": [], "again": [], "b": ["--seed", "1"], "few": ["--num", "5"]}.items():
        out = tmp_path / f"{name}.png"
        status, printed, err = command("sample", str(finished), "--out", str(out), *words)
        assert (status, printed.strip(), err) == (0, str(out), "")
        pictures[name] = out.read_bytes()
        with Image.open(out) as picture:
            sizes[name] = picture.size
    assert pictures["a"] == pictures["again"] != pictures["b"]
    scale = 56 // 8
    for name, num in (("a", 64), ("few", 5)):
        columns = math.ceil(math.sqrt(num))
        rows = math.ceil(num / columns)
        assert sizes[name] == (scale * (columns * 9 + 1), scale * (rows * 9 + 1))  # a pixel between images


def test_the_help_of_sample_limits_laplace_to_inference(command):
    status, out, _ = command("sample", "--help")
    assert (status, "Laplace part of a VLAE is for inference only" in " ".join(out.split())) == (0, True)


def test_the_help_of_evaluate_names_its_keys(command):
    status, out, _ = command("evaluate", "--help")
    named = " ".join(out.split())
    assert status == 0
    assert all(key in named or (key.startswith("evaluate.") and "evaluate.*" in named) for key in CHANGEABLE)


def test_sample_refuses_a_missing_folder_before_loading(command, monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "vlae.experiment.load", None)
    out = tmp_path / "none" / "samples.png"
    message = f"vlae: cannot write {out}: the directory {out.parent} does not exist\n"
    assert command("sample", "nothing", "--out", str(out)) == (2, "", message)


# --- download -----------------------------------------------------------------------------------------------------


def test_download_of_an_unknown_dataset_names_the_choices(command, tmp_path):
    status, out, err = command("download", "fashion_mnits", "digits", "--root", str(tmp_path))
    assert (status, out) == (2, "")
    assert "did you mean fashion_mnist?" in err
    assert "nothing to download for 'digits' (choices: mnist, fashion_mnist" in err
    assert "Traceback" not in err
    assert list(tmp_path.iterdir()) == []


# --- usage --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["figure", "x", "curves"], "missing option '--out' (see vlae figure --help)"),
        (["table", "--decimals", "x"], "invalid value for '--decimals': "),
        (["table", "--nope"], "no such option: --nope"),
        (["nope"], "no such command 'nope'"),
        (["status", "a", "b"], "got unexpected extra argument"),
    ],
)
def test_an_unknown_command_is_one_line(command, words, message):
    status, out, err = command(*words)
    assert (status, out) == (2, "")
    assert err.startswith(f"vlae: {message}")
    assert err.count("\n") == 1


def test_without_arguments_the_help_is_shown(command):
    _, out, err = command()
    assert out.lstrip().startswith("Usage: vlae ")
    assert (out.rstrip(), err) == (command("--help")[1].rstrip(), "")


@pytest.mark.slow
def test_the_command_is_a_module_too():
    words = [sys.executable, "-m", "vlae.cli", "--version"]
    done = subprocess.run(words, capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stdout.split()[0]) == (0, "vlae")


def _printing(words, tmp_path, **options):
    return subprocess.Popen(
        [sys.executable, "-m", "vlae.cli", *words, "--runs-dir", str(tmp_path)], **options
    )


@pytest.mark.slow
@pytest.mark.skipif(not Path("/dev/full").exists(), reason="Linux alone has it")
@pytest.mark.parametrize(
    "words", [["table"], ["table", "--format", "json"], ["status"], ["status", "--help"]]
)
def test_a_full_output_is_one_line(tmp_path, words):
    done(tmp_path, container())
    with open("/dev/full", "w") as full:
        process = _printing(words, tmp_path, stdout=full, stderr=subprocess.PIPE, text=True)
        _, err = process.communicate(timeout=120)
    assert err == "vlae: cannot write to standard output: No space left on device\n"
    assert process.returncode == 2


@pytest.mark.slow
@pytest.mark.skipif(not Path("/dev/full").exists(), reason="Linux alone has it")
@pytest.mark.parametrize("words", [["--cfg", "job"], ["--info", "defaults"], ["-c=job", "seed=1"]])
def test_a_configuration_that_cannot_be_printed_is_one_line(words):
    launch = [sys.executable, str(Path(__file__).parent.parent / "launch.py"), *words]
    with open("/dev/full", "w") as full:
        process = subprocess.run(launch, stdout=full, stderr=subprocess.PIPE, text=True, timeout=120)
    assert process.stderr == "vlae: cannot write to standard output: No space left on device\n"
    assert process.returncode == 2


@pytest.mark.slow
@pytest.mark.parametrize("words", [["table", "--format", "json"], ["status"]])
def test_a_closed_pipe_ends_the_command_silently(tmp_path, words):
    done(tmp_path, container())
    process = _printing(words, tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    process.stdout.close()
    assert process.stderr.read() == b""
    process.stderr.close()
    assert process.wait(timeout=120) != 0
