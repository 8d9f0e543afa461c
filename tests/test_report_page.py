"""The report of a sweep: its content, names that stay text, and its display in an offline browser."""

import base64
import io
import json
import os
import re
import struct
import subprocess
import sys
import zlib
from html.parser import HTMLParser
from importlib import import_module
from types import SimpleNamespace
from typing import ClassVar

import numpy as np
import pytest
from PIL import Image
from programs import do_without
from recorded import container, done, stopped

from benchmarks.browser import HOW_TO_GET_IT, Browser, program
from vlae.config.run_id import run_id
from vlae.errors import UserError
from vlae.launching import sweep_index
from vlae.report.html import content as shown_content
from vlae.report.html import curves as drawn_curves
from vlae.report.html import images
from vlae.report.html.content import content
from vlae.report.html.details import metrics_in_words
from vlae.report.html.page import FILES, LICENCES, SCRIPTS, page
from vlae.report.metric_values import metrics_of_results
from vlae.report.plots.frame import Captioned
from vlae.report.plots.style import on_screen, style_of
from vlae.report.runs import Run
from vlae.report.sources.run_directories import collect_runs
from vlae.report.tables.formats import FORMATS
from vlae.runs.directory import RunDirectory

VAE, VLAE, HF = "model=vae", "model=vlae", "model=hf"
MARKUP = "<script>document.documentElement.dataset.broken = 1</script>"
HOSTILE = f"{MARKUP}<img src=x onerror='document.documentElement.dataset.broken = 1'>'\"&amp;</pre>{{{{ 7919*7919 }}}}"


def content_of(runs_dir, name=None):
    return content(runs_dir, collect_runs(name, runs_dir))


def written(runs_dir, name=None):
    return page(content_of(runs_dir, name))


def metrics(place, epochs=5, **more):
    for epoch in range(1, epochs + 1):
        elbo = -1.0 / epoch
        RunDirectory(place).append_metrics(
            {"epoch": epoch, "validation/elbo_nats": elbo, "seconds": 0.1, **more}
        )


def picture(place, name, size=(40, 20), noisy=False):
    pixels = np.random.default_rng(0).integers(0, 256 if noisy else 2, (*size[::-1], 3), dtype=np.uint8)
    place.joinpath("images").mkdir(exist_ok=True)
    Image.fromarray(pixels).save(place / "images" / f"{name}.png")


def fails(runs_dir, cfg, message):
    place = stopped(runs_dir, cfg)
    try:
        with RunDirectory(place).claim():
            raise RuntimeError(message)
    except RuntimeError:
        return place


@pytest.fixture
def sweep(tmp_path):
    """Three models, three seeds; runs that fail; labels, messages, metrics and a title that are markup."""
    labels = {}
    for model in (VAE, VLAE, HF):
        for seed in range(3):
            cfg = container(model, seed=seed)
            place = done(tmp_path, cfg, level=len(model) + seed / 10)
            metrics(place, 30, **{HOSTILE: 1.0})
            picture(place, "data")
            picture(place, "reconstructions")
            labels[run_id(cfg)] = f"{HOSTILE} {model} seed={seed}"
    for seed in (3, 4):
        cfg = container(VAE, seed=seed)
        fails(tmp_path, cfg, f"{HOSTILE} in step {seed}")
        labels[run_id(cfg)] = HOSTILE
    labels[stopped(tmp_path, container("model=iaf")).name] = "model=iaf seed=0"
    sweep_index.record_sweep(tmp_path, "<b>sweep", labels, ["launch.py", f"++model={HOSTILE}", "-m"])
    return tmp_path


class Elements(HTMLParser):
    """Every tag with its attributes."""

    def __init__(self, text):
        super().__init__()
        self.found, self.text = [], ""
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.found.append((tag, dict(attrs)))

    def handle_data(self, data):
        self.text += data


# --- one file that is safe --------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_the_report_loads_nothing_from_elsewhere(sweep):
    text = written(sweep, "<b>sweep")
    for _, attrs in Elements(text).found:
        for name in ("src", "href", "srcset", "action", "data", "poster"):
            assert attrs.get(name, "#").startswith(("#", "data:"))
    styles = "".join(re.findall(r"<style>.*?</style>", text, re.DOTALL))
    assert "url(" not in styles
    assert "@import" not in styles
    policy = next(attrs["content"] for _, attrs in Elements(text).found if "http-equiv" in attrs)
    assert policy.startswith("default-src 'none'; script-src 'sha256-")
    assert "http" not in policy


@pytest.mark.slow
def test_names_and_messages_are_text(sweep):
    elements = Elements(written(sweep, "<b>sweep"))
    scripts = [attrs for tag, attrs in elements.found if tag == "script"]
    assert scripts == [{"type": "application/json", "id": "curves-data"}, *[{}] * len(SCRIPTS)]
    assert not [attrs for _, attrs in elements.found for name in attrs if name.startswith("on")]
    assert all(attrs["src"].startswith("data:") for tag, attrs in elements.found if tag == "img")
    assert "b" not in {
        tag for tag, attrs in elements.found[: [tag for tag, _ in elements.found].index("main")]
    }
    assert elements.text.count(HOSTILE) > 11
    assert str(7919 * 7919) not in elements.text


@pytest.mark.slow
def test_the_same_runs_give_the_same_bytes(sweep):
    assert written(sweep, "<b>sweep") == written(sweep, "<b>sweep")


TWICE = """
import sys
from vlae.cli import app
for words in {commands!r}:
    sys.argv = ["vlae", *words, "--runs-dir", {runs_dir!r}]
    try:
        app.main()
    except SystemExit as end:
        assert not end.code, (words, end.code)
"""


@pytest.mark.slow
def test_the_same_runs_give_the_same_bytes_in_another_process(sweep):
    """Tables in all formats and the page, whatever the order of its sets: all that can be said of runs is said."""
    _of_two_outputs(sweep)
    _of_other_code(sweep)
    for number in (2, 3):
        words = (
            "model.num_updates",
            "trainer.epochs",
            "trainer.patience",
            "trainer.batch_size",
            "evaluate.num_samples",
        )
        done(sweep, container(VLAE, "output_dist=bernoulli", *(f"{key}={number}" for key in words)))
    for seed, file in enumerate(("test_log_likelihood.npz", "results.json", "config.yaml")):
        (done(sweep, container(HF, "output_dist=bernoulli", seed=seed)) / file).write_text("[")
    sweep.joinpath("no-run").mkdir()
    written_by = []
    for seed in ("1", "2"):
        out = sweep / f".out{seed}"  # hidden: no run
        out.mkdir()
        commands = [["report", "--out", str(out / "page.html")]]
        commands += [["table", "--format", name, "--out", str(out / name)] for name in ("terminal", *FORMATS)]
        code = TWICE.format(commands=commands, runs_dir=str(sweep))
        environment = {**os.environ, "PYTHONHASHSEED": seed}
        ran = subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, env=environment, check=False
        )
        assert ran.returncode == 0, ran.stderr
        written_by.append(
            {file.name: file.read_bytes() for file in out.iterdir()} | {"said": ran.stderr.encode()}
        )
    assert written_by[0].keys() == {"page.html", "said", "terminal", *FORMATS}
    assert [name for name, content in written_by[0].items() if content != written_by[1][name]] == []
    for sentence in (b"Left out: ", b"Rows of one column also differ in ", b"Compared without the results"):
        assert sentence in written_by[0]["markdown"]


@pytest.mark.slow
def test_licences_of_what_is_embedded_are_in_the_file(sweep):
    elements = Elements(written(sweep))
    for file in LICENCES.values():
        text = (FILES / "third_party" / file).read_text()
        assert text.splitlines()[0] in elements.text


# --- facts, cautions and failures -------------------------------------------------------------------------------------


@pytest.mark.slow
def test_the_best_model_has_its_estimator_and_its_equals(tmp_path):
    for seed in range(3):
        done(tmp_path, container(VAE, seed=seed), level=-3)
        done(tmp_path, container(VLAE, seed=seed), level=2)
        done(tmp_path, container(HF, seed=seed), level=2 - (1e-3 * seed - 1e-3))
    (verdict,) = content_of(tmp_path).verdicts
    best, other = ("HF", "VLAE") if "HF is best" in verdict.sentence else ("VLAE", "HF")
    assert re.fullmatch(rf"digits, Gaussian: {best} is best with \d\.\d\d ± 0\.\d\d\.", verdict.sentence)
    assert (
        "Test log-likelihood with a proposal fitted to p(z | x); 3 seeds, mean ± standard error."
        in verdict.explanation
    )
    assert re.search(
        rf"Not significantly worse: {other} \(\d\.\d\d ± 0\.\d\d, p = [\d.]+\)", verdict.explanation
    )
    assert "VAE (" not in verdict.explanation


@pytest.mark.slow
def test_each_set_of_test_images_has_its_best_model(tmp_path):
    for seed in range(3):
        for model, level in ((VAE, 0), (VLAE, 2)):
            done(tmp_path, container(model, seed=seed), level=level)
            done(tmp_path, container(model, "evaluate.num_images=10", seed=seed), level=30 - level, images=10)
    few, all_images = sorted(verdict.sentence for verdict in content_of(tmp_path).verdicts)
    assert few.startswith(
        "digits, Gaussian, evaluate.num_images = 10: VAE, evaluate.num_images = 10 is best with "
    )
    assert re.match(r"digits, Gaussian, evaluate.num_images = [^:]*: VLAE is best with ", all_images)


@pytest.mark.slow
@pytest.mark.parametrize("seeds", [1, 2])
def test_fewer_than_three_seeds_claim_no_difference(tmp_path, seeds):
    for seed in range(seeds):
        for model, level in ((VAE, 0), (VLAE, 2)):
            done(tmp_path, container(model, seed=seed), level=level)
    (verdict,) = content_of(tmp_path).verdicts
    assert "VLAE has the highest mean, " in verdict.sentence
    assert "Too few seeds to compare: " in verdict.explanation
    assert "significant" not in verdict.explanation


@pytest.mark.slow
def test_one_model_alone_is_not_called_the_best(tmp_path):
    done(tmp_path, container(VAE))
    (verdict,) = content_of(tmp_path).verdicts
    assert re.fullmatch(r"digits, Gaussian: VAE has -?\d\.\d\d\.", verdict.sentence)
    assert "No other model has a result to compare it with." in verdict.explanation


@pytest.mark.slow
@pytest.mark.parametrize("seeds", [1, 3])
def test_different_training_budgets_are_named_beside_the_best(tmp_path, seeds):
    for seed in range(seeds):
        for epochs, level in ((2, 0), (20, 2)):
            done(tmp_path, container(VAE, f"trainer.epochs={epochs}", seed=seed), level=level)
        done(tmp_path, container(VLAE, "trainer.epochs=2", "trainer.batch_size=7", seed=seed), level=1)
        done(tmp_path, container(VAE, "output_dist=bernoulli", seed=seed))
        done(tmp_path, container(VLAE, "output_dist=bernoulli", seed=seed))
    bernoulli, gaussian = content_of(tmp_path).verdicts
    budgets = "trainer.epochs: 2, 20; trainer.batch_size: 7, 128"
    assert gaussian.sentence.endswith(f", among different training budgets ({budgets}).")
    assert "budget" not in bernoulli.sentence
    assert "configuration" in gaussian.explanation or seeds == 1


@pytest.mark.slow
def test_models_and_configurations_are_counted_separately(tmp_path):
    for updates in (1, 2, 4):
        done(tmp_path, container(VLAE, f"model.num_updates={updates}"))
    assert content_of(tmp_path).facts[:3] == [("3", "runs"), ("1", "model"), ("3", "configurations")]
    done(tmp_path / "one", container(VAE))
    assert content_of(tmp_path / "one").facts[:3] == [("1", "run"), ("1", "model"), ("1", "done")]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("best", "said"),
    [
        (4, "it was still improving in its last epoch (4); train longer"),
        (3, "best in epoch 3 of 4, so the training diverged"),
    ],
)
def test_only_a_model_that_stopped_improving_is_called_diverged(tmp_path, best, said):
    place = done(tmp_path, container(VAE)) / "results.json"
    results = json.loads(place.read_text())
    results["best_epoch"] = best
    results["test"] |= {"bits_per_dim": 8.5, "uniform_bits_per_dim": 8.0}
    place.write_text(json.dumps(results))
    (caution,) = [text for text in content_of(tmp_path).cautions if "Worse than uniform noise" in text]
    assert said in caution
    assert ("diverged" in caution) == (best < 4)


@pytest.mark.slow
def test_a_curve_that_lacks_epochs_is_named(tmp_path):
    path = done(tmp_path, container(VAE))  # of 4 epochs
    (path / "metrics.jsonl").write_text(
        "".join(f'{{"epoch": {i}, "train/elbo_nats": -1}}\n' for i in (1, 2, 3))
    )
    (left,) = content_of(tmp_path).curves.left_out
    assert left == (path.name, "metrics.jsonl has 3 of 4 epochs, so its curve is cut")


@pytest.mark.slow
def test_what_a_run_took_over_is_not_counted_as_its_computation(tmp_path):
    for seed in range(2):  # 2 and 3 seconds of training
        file = done(tmp_path, container(VAE, seed=seed)) / "results.json"
        results = json.loads(file.read_text())
        results["cost"] |= {"evaluate_seconds": 7.0, "evaluate_seconds_taken_over": 7.0 * seed}
        results["cost"] |= {"train_seconds_taken_over": 1.0 * seed}
        file.write_text(json.dumps(results))
    found = content_of(tmp_path)
    assert ("11.0 s", "of computation") in found.facts  # 2 + 7, and 3 - 1 + 7 - 7
    times = [dict(each.metrics)["time"] for each in found.details]
    assert "by other runs" not in times[0]
    assert (
        times[1] == "3.0 s training (1.0 s of it by other runs), 7.0 s evaluation (7.0 s of it by other runs)"
    )


@pytest.mark.slow
def test_details_show_the_stages_of_a_fit(tmp_path):
    """The same words as in the summary of the run."""
    file = done(tmp_path, container(VAE)) / "results.json"
    results = json.loads(file.read_text())
    fit = {"components_mean": 1.5, "stages": {"fit": 12, "longer": 2, "annealed": 1}}
    fit["unreliable_images"] = {"number": 1, "positions": "7"}
    results["test"]["log_likelihood"]["fitted"] |= fit
    results["cost"]["seconds_by_stage"] = {"fitted": {"fit": 3.0, "longer": 1.0, "annealed": 2.0}}
    file.write_text(json.dumps(results))
    [detail] = content_of(tmp_path).details
    assert dict(detail.metrics)["fitted, stages"] == (
        "1.5 modes per image; 12 images fitted in 3.0 s, 2 with longer chains in 1.0 s, 1 annealed in 2.0 s; "
        "k-hat is bad on 1 image: 7"
    )


@pytest.mark.parametrize(
    ("error", "said"),
    [
        ({"total": 0.042}, ", estimator error 0.042 nats,"),
        ({"total": None}, ", estimator error unknown,"),
        (None, ""),
    ],
)
def test_details_show_the_estimator_error(error, said):
    proposal = {"mean": -1.5, "standard_error": 0.1, "ess_median": 90.0, "k_hat_unreliable": 0.0}
    if error:
        proposal["estimator_error"] = {"monte_carlo": 0.01, "bias": error["total"], **error}
    results = {"test": {"log_likelihood": {"fitted": proposal}}, "best_epoch": 1, "epochs": 1}
    shown = dict(metrics_in_words(Run("vae-0", "", {}, "done", "", metrics_of_results(results))))
    assert (
        (said in shown["log-likelihood, fitted"])
        if said
        else ("error" not in shown["log-likelihood, fitted"])
    )


@pytest.mark.slow
def test_varied_settings_have_one_row_each(tmp_path):
    for lr in (1e-3, 1e-4):
        done(tmp_path, container(VAE, optimizer__lr=lr))
    found = content_of(tmp_path)
    assert [model.name for model in found.models] == [
        "VAE, optimizer.lr = 0.0001",
        "VAE, optimizer.lr = 0.001",
    ]
    assert len(found.table.rows) == 2
    assert "optimizer.lr" not in dict(found.common)
    assert [dict(each.settings) for each in found.details] == [
        {"seed": "0", "optimizer.lr": lr} for lr in ("0.0001", "0.001")
    ]


def _reliable(runs_dir):
    for seed in range(2):
        done(runs_dir, container(VAE, seed=seed))


def _without_a_seed(runs_dir):
    _reliable(runs_dir)
    done(runs_dir, container(VLAE))
    stopped(runs_dir, container(VLAE, seed=1))


def _of_other_code(runs_dir):
    _reliable(runs_dir)
    place = done(runs_dir, container(VAE, seed=2)) / "results.json"
    place.write_text(place.read_text().replace("0123456789ab", "ba9876543210").replace("false", "true"))


def _trained_by_other_code(runs_dir):
    for seed in range(2):
        file = done(runs_dir, container(VAE, seed=seed)) / "results.json"
        results = json.loads(file.read_text())
        training = {"code": "ba9876543210" if seed else "0123456789ab", "torch": "1.0"}
        results["environment"] |= {"torch": "1.0", "training": training}
        file.write_text(json.dumps(results))


def _damaged(runs_dir):
    _reliable(runs_dir)
    (done(runs_dir, container(VLAE)) / "results.json").write_text("{")


def _without_images(runs_dir):
    _reliable(runs_dir)
    for seed in range(2):
        (done(runs_dir, container(VLAE, seed=seed)) / "test_log_likelihood.npz").write_text("damaged")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("make", "expected"),
    [
        (_reliable, []),
        (
            lambda d: [done(d, container(VAE, seed=s), unreliable=0.5) for s in range(2)],
            [r"own q.* and with a proposal fitted to p\(z \| x\) is unreliable in all runs"],
        ),
        (
            lambda d: [done(d, container(VAE, seed=s, trainer__selection="test")) for s in range(2)],
            ["2 runs of 2 chose the best epoch on the test images"],
        ),
        (_without_a_seed, [r"VLAE has 1 of 2 \(1 never started\)"]),
        (lambda d: done(d, container(VAE)), ["One seed each"]),
        (
            _of_other_code,
            [r"2 versions of code: 0123456789ab \(2 runs\), ba9876543210 \(1 run\)", "uncommitted"],
        ),
        (
            _trained_by_other_code,
            [r"^1 run took over a training that other code had computed: vae-digits-gaussian-s1-"],
        ),
        (_without_images, [r"cannot be read: vlae-digits-\S+ \(test_log_likelihood.npz.*, vlae-digits"]),
        (
            _damaged,
            [r"Left out: vlae-digits.*holds no JSON"],
        ),
    ],
)
def test_only_the_necessary_warnings_are_shown(tmp_path, make, expected):
    make(tmp_path)
    found = content_of(tmp_path).cautions
    assert len(found) == len(expected)
    for text, pattern in zip(found, expected, strict=True):
        assert re.search(pattern, text)


@pytest.mark.slow
def test_a_damaged_run_is_named_and_shows_no_metrics(tmp_path):
    done(tmp_path, container(VAE))
    place = done(tmp_path, container(VLAE))
    metrics(place)
    picture(place, "reconstructions")
    (place / "results.json").write_text("{")
    found = content_of(tmp_path)
    assert [(run.model, run.run.state) for run in found.details] == [("VAE", "done")]
    assert (found.curves.data["runs"], found.gallery.models) == ([], ())
    assert "results.json holds no JSON" in written(tmp_path)


@pytest.mark.slow
def test_failures_of_one_cause_share_a_traceback(tmp_path):
    done(tmp_path, container(VLAE))
    for seed in range(3):
        fails(tmp_path, container(VAE, seed=seed), f"NaN in step {seed}")
    fails(tmp_path, container(HF), "no space left")
    stopped(tmp_path, container(HF, seed=1), state="interrupted", reason="SIGTERM")
    first, second, third = content_of(tmp_path).failures
    assert [run.value("seed") for run in first.runs] == [0, 1, 2]
    assert "RuntimeError: NaN in step 0" in first.traceback
    assert (tmp_path / first.place).read_text() == first.traceback
    assert "no space left" in second.message
    assert (third.state, third.reason, third.traceback) == ("interrupted", "SIGTERM", "")


@pytest.mark.slow
def test_the_launch_command_is_shown_as_typed(tmp_path):
    labels = {done(tmp_path, container(VAE)).name: ""}
    command = ["launch.py", "++seed=0", "hydra.sweeper.file=sweeps/a b.yaml", "--multirun"]
    sweep_index.record_sweep(tmp_path, "mine", labels, command)
    found = content_of(tmp_path, "mine")
    assert [launch.command for launch in found.launches] == [
        "python launch.py seed=0 'sweeps=sweeps/a b.yaml'"
    ]
    assert [(code.digest, code.commit, code.runs) for code in found.codes] == [("0123456789ab", "c" * 40, 1)]


@pytest.mark.slow
def test_a_launch_by_vlae_launch_is_shown_as_such(tmp_path):
    labels = {done(tmp_path, container(VAE)).name: ""}
    sweep_index.record_sweep(tmp_path, "mine", labels, ["vlae launch", "++seed=0", "-m"])
    (launch,) = content_of(tmp_path, "mine").launches
    assert launch.command == "vlae launch seed=0 -m"


@pytest.mark.slow
def test_a_metric_that_is_no_number_is_reported(tmp_path):
    place = done(tmp_path, container(VAE)) / "results.json"
    results = json.loads(place.read_text())
    results["cost"]["train_seconds"] = "long"
    results["test"]["elbo"] = "good"
    place.write_text(json.dumps(results))
    assert "results.json has a value that is no number" in written(tmp_path)


# --- curves -----------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_long_curves_show_fewer_epochs(tmp_path, monkeypatch):
    monkeypatch.setattr(drawn_curves, "POINTS", 10)
    monkeypatch.setattr(drawn_curves, "FEWEST", 10)
    metrics(done(tmp_path, container(VAE)), 95, extra=None)
    metrics(stopped(tmp_path, container(VAE, seed=1)), 7)
    found = content_of(tmp_path).curves
    data = found.data
    assert (found.every, data["epochs"]) == (10, [1, *range(10, 91, 10)])
    assert data["metrics"] == ["validation/elbo_nats", "extra"]
    long, short = data["runs"]
    assert long["values"] == [[float(f"{-1 / epoch:.5g}") for epoch in data["epochs"]], []]
    assert short["values"] == [[-1.0], []]


@pytest.mark.slow
def test_curves_have_a_colour_per_model_and_dashes_per_setting(tmp_path):
    for words in ([VAE], [VLAE, "model.num_updates=1"], [VLAE, "model.num_updates=2"]):
        metrics(done(tmp_path, container(*words)))
    drawn = json.loads(re.search(r'id="curves-data"[^>]*>(.*?)</script>', written(tmp_path), re.DOTALL)[1])
    grey, blue = (on_screen(style_of(name).color) for name in ("vae", "vlae"))
    assert (drawn["colours"], drawn["variants"]) == ([grey, blue, blue], [0, 0, 1])


@pytest.mark.slow
@pytest.mark.parametrize("line", ["no JSON", "3", '{"epoch": "first"}'])
def test_a_curve_that_cannot_be_read_is_named(tmp_path, line):
    metrics(done(tmp_path, container(VAE)))
    place = done(tmp_path, container(VLAE))
    (place / "metrics.jsonl").write_text(line + "\n")
    (left,) = content_of(tmp_path).curves.left_out
    assert left.name == place.name
    assert place.name in written(tmp_path).partition('id="curves"')[2]


@pytest.mark.slow
def test_nan_is_a_gap_in_a_curve(tmp_path):
    place = done(tmp_path, container(VAE))
    (place / "metrics.jsonl").write_text('{"epoch": 1, "a": NaN}\n{"epoch": 2, "a": 1}\n{"epoch": 3, "a"')
    assert content_of(tmp_path).curves.data["runs"][0]["values"] == [[None, 1.0]]
    written(tmp_path)


def _of_two_outputs(runs_dir):
    """Four models: probabilities of binary images, and densities, which are higher whatever the model."""
    for model, binary, real in ((VAE, -100.0, 5.0), (VLAE, -90.0, 1.0)):
        for output, level, epochs in (("bernoulli", binary, 5), ("gaussian", real, 30)):
            place = done(runs_dir, container(model, f"output_dist={output}"), level=level)
            metrics(place, epochs)
            picture(place, "reconstructions")


@pytest.mark.slow
def test_models_are_ranked_within_their_data_and_output(tmp_path, monkeypatch):
    _of_two_outputs(tmp_path)
    monkeypatch.setattr(shown_content, "CURVES_SHOWN", 1)
    found = content_of(tmp_path)
    names = [model.name for model in found.models]
    best = ["VLAE (digits, Bernoulli)", "VAE (digits, Gaussian)"]
    assert [names[at] for at in found.curves.data["shown"]] == best
    assert [shown.title for shown in found.gallery.models] == [
        *(best[0], "VAE (digits, Bernoulli)"),
        *(best[1], "VLAE (digits, Gaussian)"),
    ]
    monkeypatch.setattr(images, "MOST", 2)
    assert [shown.title for shown in content_of(tmp_path).gallery.models] == best
    drawn = json.loads(re.search(r'id="curves-data"[^>]*>(.*?)</script>', written(tmp_path), re.DOTALL)[1])
    assert [drawn["columns"][at] for at in drawn["column"]] == [
        re.search(r"\((.*)\)", name)[1] for name in names
    ]
    assert drawn["variants"] == [0] * 4


# --- pictures ---------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_one_seed_of_each_model_is_shown_and_common_data_once(tmp_path):
    for model in (VAE, VLAE):
        for seed in range(2):
            place = done(tmp_path, container(model, seed=seed), level=len(model))
            picture(place, "data")
            picture(place, "reconstructions")
    (place / "images" / "prior_samples.png").write_bytes(b"no picture")
    found = content_of(tmp_path).gallery
    assert len(found.data) == 1
    assert [(shown.title, shown.run.value("seed"), len(shown.pictures)) for shown in found.models] == [
        ("VLAE", 0, 1),
        ("VAE", 0, 1),
    ]


@pytest.mark.slow
def test_large_pictures_are_reduced_up_to_a_total_limit(tmp_path, monkeypatch):
    for model in (VAE, VLAE, HF):
        picture(done(tmp_path, container(model)), "reconstructions", (600, 300), noisy=True)
    (first, *_) = content_of(tmp_path).gallery.models
    (shown,) = first.pictures
    kind, _, encoded = shown.uri.partition(";base64,")
    image = Image.open(io.BytesIO(base64.b64decode(encoded)))
    assert (kind, image.size) == ("data:image/jpeg", (shown.width, shown.height))
    assert image.width == images.WIDEST
    monkeypatch.setattr(images, "ALL", 2 * len(shown.uri) + 1000)
    found = content_of(tmp_path).gallery
    assert (len(found.models), found.more) == (2, 1)


@pytest.mark.slow
@pytest.mark.parametrize("side", [12_000, 60_000])
def test_a_picture_of_gigabytes_is_not_shown(tmp_path, side):
    place = done(tmp_path, container(VAE))
    for name in ("reconstructions", "prior_samples", "data"):
        picture(place, name)
    file = place / "images" / "reconstructions.png"
    content = bytearray(file.read_bytes())
    content[16:24] = struct.pack(">II", side, side)
    content[29:33] = struct.pack(">I", zlib.crc32(content[12:29]))
    file.write_bytes(content)
    (shown,) = content_of(tmp_path).gallery.models
    assert [each.title for each in shown.pictures] == ["samples from the prior"]


# --- figures ----------------------------------------------------------------------------------------------------------


class Drawings(SimpleNamespace):
    """A stand-in for the figures of vlae.report.plots."""

    PLOTS: ClassVar = {
        "good": SimpleNamespace(shows="what is good", images=None),
        "bad": SimpleNamespace(shows="what is bad", images=None),
        "dear": SimpleNamespace(shows="what is dear", images=3),
    }

    @staticmethod
    def draw(kind, runs, narrow):
        if kind == "bad":
            raise UserError("bad: nothing can be drawn")
        figure = Captioned((3.0, 3.0))
        figure.caption = "<b>What it shows"
        return figure

    @staticmethod
    def file_content(figure, suffix):
        return b"<svg><script>good</script></svg>"


def test_figures_are_embedded_and_failures_named(tmp_path, monkeypatch):
    for name in ("PLOTS", "draw", "file_content"):
        monkeypatch.setattr(images, name, getattr(Drawings, name))
    monkeypatch.setattr(images, "LOADED", 0)
    done(tmp_path, container(VAE))
    found = content_of(tmp_path)
    shown = [(each.title, each.width, each.caption) for each in found.figures]
    assert shown == [("what is good", 288, "<b>What it shows")]
    assert [left.name for left in found.figures_left_out] == ["bad", "dear"]
    text = written(tmp_path)
    assert "<svg><script>" not in text
    assert 'src="data:image/svg+xml;base64,' in text
    assert "<figcaption>&lt;b&gt;What it shows</figcaption>" in text
    assert "bad: nothing can be drawn" in text


# --- the command ------------------------------------------------------------------------------------------------------


@pytest.fixture
def vlae(command, tmp_path):
    """``vlae report <words>``"""
    return lambda *words: command("report", *words, "--runs-dir", tmp_path)


@pytest.mark.slow
def test_the_command_writes_a_file_and_prints_its_path(vlae, tmp_path):
    done(tmp_path, container(VAE))
    out = tmp_path / "out.html"
    assert vlae("--out", out) == (0, f"{out}\n", "")
    assert out.read_text() == written(tmp_path)


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["nothing"], "no sweep and no run 'nothing'"),
        (["--out", "nowhere/x.html"], "cannot write nowhere/x.html"),
        (["--out", "x.pdf"], "--out: expected a file that ends in .html, .htm, got 'x.pdf'"),
        (["--out", ""], "--out: expected a file, got ''"),
        (["--out", "."], "--out: expected a file that ends in .html, .htm, got '.'"),
        (["--wandb"], "--wandb: expected a sweep"),
        (["--wandb", "--out", "x.html"], "--wandb writes no file: leave out --out x.html"),
    ],
)
def test_a_wrong_command_is_one_message_and_status_2(vlae, tmp_path, words, expected):
    done(tmp_path, container(VAE))
    status, out, err = vlae(*words)
    assert (status, out) == (2, "")
    assert expected in err


def test_an_unwritable_output_is_refused_before_reading(vlae, monkeypatch):
    monkeypatch.setattr(import_module("vlae.report.html.page"), "collect_runs", None)
    assert "the directory nowhere does not exist" in vlae("--out", "nowhere/x.html")[2]


def test_without_runs_there_is_no_report(vlae, tmp_path):
    (tmp_path / "x").mkdir()
    status, _, err = vlae("--out", tmp_path / "x.html")
    assert status == 2
    assert "no runs; 1 left out: x (it is no run: it has no config.yaml)" in err
    assert not (tmp_path / "x.html").exists()


# --- in a browser -----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def browser():
    if (path := program()) is None:
        do_without(HOW_TO_GET_IT)
    with Browser(path) as opened:
        yield opened


@pytest.fixture
def opened(browser, sweep, tmp_path):
    """The page of ``sweep`` in a window of a desk; afterwards nothing has gone wrong in it, or was asked for."""
    file = tmp_path / "report.html"
    file.write_text(written(sweep, "<b>sweep"))
    browser.view(1280, 900)
    browser.open(file)
    yield browser
    assert browser.problems() == []
    assert browser.requests() == [file.as_uri()]
    assert browser.evaluate("document.documentElement.dataset.broken") is None


def column(browser, table, at):
    cells = f"[...document.querySelectorAll('#{table} tbody tr:not([hidden])')].map(row => row.cells[{at}].innerText)"
    return browser.evaluate(cells)


def settled(browser, script):
    """The value of the second expression, once the first one was carried out and drawn."""
    return browser.evaluate(f"(async () => {{ {script}; await new Promise(r => setTimeout(r, 80)); }})()")


@pytest.mark.slow
def test_mouse_and_keyboard_sort_tables_by_number(opened):
    header = "document.querySelector('#table thead th:nth-child(2)')"
    settled(opened, f"{header}.click()")
    first = column(opened, "table", 0)
    assert first == ["VLAE", "VAE", "HF", "IAF"]
    opened.evaluate(f"{header}.focus()")
    opened.press("Enter")
    settled(opened, "0")
    assert column(opened, "table", 0) == ["HF", "VAE", "VLAE", "IAF"]  # what is missing stays last
    assert opened.evaluate(f"{header}.getAttribute('aria-sort')") == "ascending"


@pytest.mark.slow
def test_a_filter_shows_rows_with_all_words(opened):
    change = "input.dispatchEvent(new Event('input'))"
    script = f"const input = document.querySelector('[data-filters=runs-table]'); input.value = 'VLAE done'; {change}"
    settled(opened, script)
    assert column(opened, "runs-table", 1) == ["VLAE"] * 3
    assert opened.evaluate("document.querySelector('#runs .filter output').textContent") == "3 of 12"


@pytest.mark.slow
def test_a_link_opens_its_run(opened):
    settled(opened, "document.querySelector('#runs-table a').click()")
    assert opened.evaluate("document.querySelector(location.hash).open")


@pytest.mark.slow
def test_curves_can_be_hovered_zoomed_and_selected(opened):
    opened.evaluate("document.getElementById('chart').scrollIntoView({block: 'center'})")
    box = opened.evaluate(
        "(r => [r.x, r.y, r.width, r.height])(document.querySelector('.u-over').getBoundingClientRect())"
    )
    x, y, width, height = box
    for at in (0.5, 0.52):
        opened.mouse("mouseMoved", x + at * width, y + 5)
    settled(opened, "0")
    assert re.search(
        r"epoch 1[56]: -0\.06", opened.evaluate("document.getElementById('chart-note').textContent")
    )
    opened.mouse("mouseMoved", x + 0.5 * width, y + height / 2)
    opened.mouse("mousePressed", x + 0.5 * width, y + height / 2)
    opened.mouse("mouseMoved", x + 0.8 * width, y + height / 2)
    opened.mouse("mouseReleased", x + 0.8 * width, y + height / 2)
    settled(opened, "0")
    ends = "['from', 'to'].map(end => Number(document.getElementById(`chart-${end}`).value))"
    low, high = opened.evaluate(ends)
    assert 14 <= low <= 17
    assert 23 <= high <= 25
    settled(opened, "document.getElementById('chart-whole').click()")
    assert opened.evaluate(ends) == [1, 30]
    settled(opened, "document.querySelector('[data-models=none]').click()")
    assert "Nothing is chosen" in opened.evaluate("document.getElementById('chart-note').textContent")
    mean = "const s = document.getElementById('chart-seeds'); s.value = 'mean'; s.dispatchEvent(new Event('change'))"
    settled(opened, f"document.querySelector('[data-models=all]').click(); {mean}")


@pytest.mark.slow
def test_curves_show_one_dataset_and_output_at_a_time(browser, tmp_path):
    _of_two_outputs(tmp_path)
    file = tmp_path / "report.html"
    file.write_text(written(tmp_path))
    browser.view(390, 844)
    browser.open(file)
    seen = """({
        chips: [...document.querySelectorAll(".chips label:not([hidden])")].map(each => each.textContent),
        last: Number(document.getElementById("chart-to").value),
        note: document.getElementById("chart-note").textContent,
    })"""
    choose = "const data = document.getElementById('chart-data'); data.selectedIndex = {}; "
    choose += "data.dispatchEvent(new Event('change'))"
    names = browser.evaluate("[...document.getElementById('chart-data').options].map(each => each.text)")
    assert names == ["digits, Bernoulli", "digits, Gaussian"]
    first = browser.evaluate(seen)
    assert (first["chips"], first["last"]) == (
        [f"{model} (digits, Bernoulli)" for model in ("VAE", "VLAE")],
        5,
    )
    settled(browser, "document.querySelector('[data-models=none]').click()")
    assert "Nothing is chosen" in browser.evaluate(seen)["note"]
    settled(browser, choose.format(1))
    second = browser.evaluate(seen)
    assert (second["chips"], second["last"]) == (
        [f"{model} (digits, Gaussian)" for model in ("VAE", "VLAE")],
        30,
    )
    assert "Nothing is chosen" not in second["note"]  # only models in sight were put away
    settled(browser, choose.format(0))
    assert "Nothing is chosen" in browser.evaluate(seen)["note"]
    assert browser.evaluate("document.documentElement.scrollWidth") <= 390
    assert browser.problems() == []


@pytest.mark.slow
@pytest.mark.parametrize("dark", [False, True])
def test_the_page_fits_a_phone_and_has_a_dark_mode(opened, dark):
    opened.view(390, 844, dark)
    settled(opened, "0")
    assert opened.evaluate("document.documentElement.scrollWidth") <= 390
    red = opened.evaluate("getComputedStyle(document.body).backgroundColor.match(/\\d+/)[0]")
    assert (int(red) < 60) == dark


@pytest.mark.slow
def test_the_printed_page_has_no_controls(opened):
    opened.view(1280, 900, media="print")
    visible = (
        "[...document.querySelectorAll('nav, button, input, select')].map(each => each.checkVisibility())"
    )
    assert set(opened.evaluate(visible)) == {False}
    opened.view(1280, 900)


@pytest.mark.slow
def test_the_first_tab_skips_the_navigation(opened):
    opened.press("Tab")
    assert opened.evaluate("document.activeElement.className") == "skip"


@pytest.mark.slow
@pytest.mark.parametrize("window", [1280, 800, 390, 320])
def test_drawings_are_legible_in_every_window(browser, sweep, tmp_path, window):
    file = tmp_path / "report.html"
    file.write_text(written(sweep))
    browser.view(window, 900)
    browser.open(file)
    scales = browser.evaluate(
        "Promise.all([...document.querySelectorAll('.drawing')].map(async image => { image.loading = 'eager'; "
        "await image.decode(); return image.getBoundingClientRect().width / image.getAttribute('width') }))"
    )
    assert len(scales) == 2
    assert min(scales) > 0.8
    wider = (
        "[...document.querySelectorAll('#figures *')].filter(each => each.scrollWidth > each.clientWidth + 1)"
    )
    assert browser.evaluate(f"{wider}.length") == 0
    assert browser.evaluate("document.documentElement.scrollWidth") <= window


@pytest.mark.slow
@pytest.mark.parametrize("window", [1280, 390, 320])
def test_every_navigation_link_is_visible(browser, sweep, tmp_path, window):
    file = tmp_path / "report.html"
    file.write_text(written(sweep))
    browser.view(window, 844)
    browser.open(file)
    names = ["Summary", "Results", "Figures", "Curves", "Images", "Runs", "Failures", "Reproduce"]
    seen = browser.evaluate(
        "[...document.querySelectorAll('nav a')].filter(link => { const box = link.getBoundingClientRect(); "
        "return box.left >= 0 && box.right <= innerWidth "
        "&& document.elementFromPoint(box.left + 2, box.top + 5) === link}).map(link => link.textContent)"
    )
    assert seen == names


@pytest.mark.slow
def test_an_unreliable_estimator_is_reported_once(tmp_path):
    for seed in range(2):
        for model in (VAE, VLAE):
            done(tmp_path, container(model, seed=seed), unreliable=0.5)
    text = Elements(written(tmp_path)).text.partition("Learning curves")[0]
    assert text.count("k-hat") == 2  # a warning before it is believed, and the caption of the table
    assert text.count("are unreliable") == 1
