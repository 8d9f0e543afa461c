"""What is bold in a table of several models: the test of all of them at once, and the notes that explain it."""

import math
import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import settings as effort
from hypothesis import strategies as st
from scipy.stats import t as student
from scipy.stats import ttest_rel

from benchmarks import tables
from vlae.report.runs import Run, Runs
from vlae.report.tables import multiple_comparisons
from vlae.report.tables.formats import FORMATS
from vlae.report.tables.multiple_comparisons import compare_with_best
from vlae.report.tables.significance import LEVEL, difference
from vlae.report.tables.table import make_table

METRIC = "test.log_likelihood.fitted.mean"


def compare(worse):
    worse = np.asarray(worse, dtype=float)
    return compare_with_best(worse, [difference(row[~np.isnan(row)], None) for row in worse])


def scores(seed, models=4, seeds=4, spread=1.0):
    return np.random.default_rng(seed).normal(size=(models, seeds)) * spread


def table(of_models, **settings):
    """The table of scores [models, seeds], or [models, seeds, images]."""
    of_models, runs = np.asarray(of_models, dtype=float), []
    for model, of_seeds in enumerate(of_models):
        for seed, values in enumerate(of_seeds):
            arrays = {"log_likelihood_fitted": values} if np.ndim(values) else {}
            known = {"model.name": f"m{model}", "dataset.name": "digits", "output_dist.name": "gaussian"}
            known |= {"seed": seed} | {key: value[model] for key, value in settings.items()}
            metrics = {METRIC: float(np.mean(values))}
            runs.append(Run(f"{model}-{seed}", "", known, "done", "", metrics, arrays.get))
    return make_table(Runs("s", tuple(runs)), metric=METRIC)


def by_model(found):
    return {cell.row[0]: cell for cell in found.cells}


def bold(of_models):
    return [cell.as_good for _, cell in sorted(by_model(table(of_models)).items())]


# --- closed forms -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seeds", [3, 4, 10])
def test_two_models_are_compared_by_the_two_sided_paired_t_test(seeds):
    best, other = scores(seeds, 2, seeds)
    best = best + 2
    (found,) = compare([best - other])
    assert found.p_value == pytest.approx(ttest_rel(best, other).pvalue)
    error = (best - other).std(ddof=1) / math.sqrt(seeds)
    assert found.smallest == pytest.approx(student.ppf(0.975, seeds - 1) * error)


def test_the_images_of_two_models_count_as_in_the_test_of_a_difference():
    d = np.random.default_rng(0).normal(size=(4, 30)) + 0.5 * np.arange(30) / 30 + 1
    expected = difference(d.mean(1), d)
    (found,) = compare_with_best(d.mean(1)[None], [expected])
    assert found.p_value == pytest.approx(expected.p_value)
    assert found.smallest == pytest.approx(student.ppf(0.975, 3) * expected.standard_error)


def test_the_p_value_of_three_models_is_the_larger_of_two():
    """With four seeds the own t-test has 3 degrees of freedom; that of the table has 6, and counts three times."""
    best = np.zeros(4)
    one, other = np.array([1.0, 3.0, 1.0, 3.0]), np.array([0.0, 2.0, 5.0, 5.0])
    found = compare([one - best, other - best])
    y = np.stack([best, one, other])
    rest = y - y.mean(0) - y.mean(1)[:, None] + y.mean()
    pooled = 2 * (rest**2).sum() / (2 * 3)
    own = [one.var(ddof=1), other.var(ddof=1)]
    for row, each in zip((one, other), found, strict=True):
        error = math.sqrt(max(row.var(ddof=1), np.mean(own), pooled) / 4)
        t = row.mean() / error
        expected = max(2 * student.sf(t, 3), 3 * 2 * student.sf(t, 6))
        assert each.p_value == pytest.approx(min(1, expected))
        critical = max(student.ppf(0.975, 3), student.ppf(1 - 0.025 / 3, 6))
        assert each.smallest == pytest.approx(critical * error)


def test_twice_the_seeds_and_images_are_what_the_formula_gives():
    d = np.random.default_rng(1).normal(size=(3, 8)) + np.arange(8) * 0.7
    of_seeds, each = d.mean(1), difference(d.mean(1), d)
    (found,) = compare_with_best(of_seeds[None], [each])
    variance = of_seeds.var(ddof=1)
    error = math.sqrt(variance / 6 + each.between_images)
    assert found.with_twice_seeds == pytest.approx(student.ppf(0.975, 5) * error)
    error = math.sqrt((variance - min(variance, each.rest) / 2) / 3 + each.between_images / 2)
    assert found.with_twice_images == pytest.approx(student.ppf(0.975, 2) * error)
    assert compare([of_seeds])[0].with_twice_images is None


# --- laws -------------------------------------------------------------------------------------------------------------

several = st.integers(0, 10**6), st.integers(3, 6), st.integers(3, 6), st.sampled_from([0.1, 1.0, 3.0])


@effort(max_examples=50, deadline=None)
@given(*several)
def test_a_difference_is_significant_from_the_smallest_one_on(seed, models, seeds, shift):
    worse = scores(seed, models - 1, seeds) + shift * np.arange(1, models)[:, None]
    for row, each in zip(worse, compare(worse), strict=True):
        assert (each.p_value < LEVEL) == (row.mean() > each.smallest)


@effort(max_examples=50, deadline=None)
@given(*several)
def test_no_difference_is_significant_that_the_paired_t_test_does_not_find(seed, models, seeds, shift):
    worse = scores(seed, models - 1, seeds) + shift * np.arange(models - 1)[:, None]
    for row, each in zip(worse, compare(worse), strict=True):
        alone = difference(row, None).p_value
        assert each.p_value >= min(1, alone) * (1 - 1e-9) or each.p_value == 1


@effort(max_examples=50, deadline=None)
@given(*several, st.randoms(use_true_random=False))
def test_the_order_and_the_level_of_the_models_and_seeds_do_not_matter(seed, models, seeds, shift, random):
    y = scores(seed, models, seeds) - shift * np.arange(models)[:, None]
    order, of_seeds = random.sample(range(models), models), random.sample(range(seeds), seeds)
    expected = bold(y)
    assert bold(y[order]) == [expected[i] for i in order]
    assert bold(y[:, of_seeds] + 64) == expected
    assert bold(y * 4 + np.arange(seeds)) == expected  # pairs of the same seed are what counts


@effort(max_examples=50, deadline=None)
@given(*several)
def test_the_best_is_bold_and_no_worse_mean_of_the_same_spread_without_a_better(seed, models, seeds, shift):
    y = scores(seed, models, seeds)
    assert bold(y)[y.mean(1).argmax()]
    means = -shift * np.sort(abs(y[:, 0]))
    from_best = np.stack([np.zeros(seeds), *[y[0] - y[0].mean()] * (models - 1)])
    found = bold(means[:, None] + from_best)
    assert found == sorted(found, reverse=True)


def test_models_that_are_much_worse_and_noisy_do_not_hide_a_difference():
    y = scores(0, 3, 5, spread=0.1) - np.array([[0.0], [1.0], [100.0]])
    y[2] += 10 * scores(1, 1, 5)[0]
    together = compare(y[0] - y[1:])
    assert together[0].p_value == pytest.approx(compare(y[:1] - y[1:2])[0].p_value)
    assert together[0].p_value < LEVEL


def test_seeds_that_one_model_lacks_are_left_out():
    worse = np.array([[1.0, 2.0, 4.0, np.nan], [3.0, 5.0, 9.0, 2.0]])
    found = compare(worse)
    for row, each in zip(worse, found, strict=True):
        assert each.p_value >= difference(row[~np.isnan(row)], None).p_value
    apart = compare([[1.0, 2.0, 4.0, *[np.nan] * 3], [*[np.nan] * 3, 3.0, 5.0, 9.0]])
    assert all(0 < each.p_value < 1 for each in apart)


def test_a_model_that_is_better_over_common_seeds_is_not_worse():
    (found,) = compare([[-5.0, -5.1, -5.2]])
    assert found.p_value == 1


def test_equal_scores_are_not_worse_and_a_constant_difference_is():
    assert [each.p_value for each in compare([[0.0] * 3, [1.0] * 3])] == [1, pytest.approx(0)]


# --- the error of a whole table ---------------------------------------------------------------------------------------

COUNT = 100
KINDS = [
    tables.Tables(10, 10, "equal"),  # needs the factor for pairs
    tables.Tables(10, 3, "equal"),  # needs the least variance
    tables.Tables(5, 4, "one larger"),
]


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_few_tables_of_equal_models_have_one_that_is_not_bold(kind):
    found = tables.shares(kind, COUNT, seed=1)
    assert not found.too_large
    assert found.found[-1] > 0.5  # and a much worse model is found


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "name", "uncorrected"),
    [
        (KINDS[0], "_pairs", lambda self, freedom, more=1: (1, freedom)),
        (KINDS[1], "least_variance", 0.0),
    ],
)
def test_without_a_part_of_the_correction_too_many_are_wrong(monkeypatch, kind, name, uncorrected):
    """The simulation notices that a part is missing."""
    monkeypatch.setattr(multiple_comparisons._Family, name, uncorrected)
    assert tables.shares(kind, COUNT, seed=1).too_large


@pytest.mark.slow
def test_the_command_counts_and_fails_on_too_many(monkeypatch, capsys):
    monkeypatch.setattr(tables, "MODELS", (3,))
    monkeypatch.setattr(tables, "SEEDS", (3,))
    assert tables.main(["--count", "40"]) == 0
    printed = capsys.readouterr().out
    assert "4 of 4 kinds of tables in " in printed
    assert printed.count("\n│ ") == len(tables.SPREADS)
    monkeypatch.setattr(tables, "bold", lambda scores: [False] * len(scores))
    assert tables.main(["--count", "40"]) == 1
    assert "100.0% too many" in capsys.readouterr().out
    with pytest.raises(SystemExit):
        tables.main(["--count", "0"])


# --- notes ------------------------------------------------------------------------------------------------------------


def notes_on(found, words):
    return [note for note in found.notes if words in note]


def test_the_smallest_difference_is_printed_with_what_lowers_it_most():
    y = scores(0, 3, 3) - np.array([[0.0], [1.0], [2.0]])
    found = table(y)
    (note,) = notes_on(found, "Smallest significant difference from the best: ")
    sizes = [cell.smallest_difference for cell in found.cells if cell.tested]
    assert re.search(
        rf" {min(sizes):.2g}(?: to [\d.]+)? nats with 3 seeds, lowered most by more seeds \(6: about ", note
    )
    cell = next(cell for cell in found.cells if cell.tested)
    assert (cell.seeds_in_common, cell.with_twice_images) == (3, None)
    assert cell.with_twice_seeds < cell.smallest_difference
    for write in ("markdown", "html", "latex", "json"):
        assert "Smallest significant difference" in FORMATS[write](found, 2, False)
    assert "smallest_difference" in FORMATS["csv"](found, 2, False)


def test_more_images_lower_it_most_where_seeds_hardly_differ():
    generator = np.random.default_rng(0)
    y = generator.normal(size=(3, 1, 40)) + 0.001 * generator.normal(size=(3, 4, 40))
    (note,) = notes_on(table(y, **{"evaluate.num_images": [40] * 3}), "Smallest significant")
    assert "lowered most by more test images (twice as many: about " in note
    (note,) = notes_on(table(y), "Smallest significant")  # there are no more
    assert "lowered most by more seeds (8: about " in note


def test_every_column_has_its_smallest_difference():
    y = np.concatenate([scores(0, 2), 100 * scores(1, 2)])
    of_two = {"model.name": ["a", "b", "a", "b"], "dataset.name": ["mnist", "mnist", "svhn", "svhn"]}
    (note,) = notes_on(table(y, **of_two), "Smallest significant")
    assert re.search(
        r"nats with 4 seeds \(MNIST, Gaussian\), .*; \d+ nats with 4 seeds \(SVHN, Gaussian\), ", note
    )


def test_too_few_seeds_have_no_smallest_difference():
    assert notes_on(table(scores(0, 3, 2)), "Smallest") == []
    assert len(notes_on(table(scores(0, 3, 2)), "Too few seeds to compare")) == 1


def test_the_best_of_several_settings_is_said_to_be_chosen():
    lr = {"model.name": ["a", "a", "a", "b"], "optimizer.lr": [0.1, 0.2, 0.3, 0.1]}
    (note,) = notes_on(table(scores(0), **lr), "best of several settings")
    assert "of a model (a 3) is chosen on these test images" in note
    of_updates = {"model.name": ["a"] * 4, "model.num_updates": [1, 2, 3, 4]}  # four models in the table
    scored = {
        "model.name": ["a"] * 4,
        "evaluate.num_samples": [1, 2, 3, 4],
    }  # one training, scored in four ways
    for settings in ({}, of_updates, scored):
        assert notes_on(table(scores(0), **settings), "best of several settings") == []


def test_no_sentence_is_in_the_caption_and_in_a_note():
    for y in (scores(0, 3, 1), scores(0, 3, 2), scores(0, 3, 3)):
        found = table(y)
        sentences = [s.strip(". ") for text in (found.caption, *found.notes) for s in text.split(". ")]
        assert len(sentences) == len(set(sentences))
