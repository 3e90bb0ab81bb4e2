"""Bootstrap intervals against SciPy's bootstrap and against loops."""

import numpy as np
import pytest
from scipy import stats
from sklearn.metrics import cohen_kappa_score

from keras_ssl.evaluation import kappa_intervals
from keras_ssl.evaluation.statistics import bootstrap_kappa

pytestmark = pytest.mark.no_backend


def _graded(rows, seed=0, num_grades=5):
    rng = np.random.default_rng(seed)
    true = rng.integers(0, num_grades, rows)
    return true, np.clip(true + rng.integers(-2, 3, rows), 0, num_grades - 1)


def _kappa(true, predicted):
    return cohen_kappa_score(true, predicted, labels=range(5), weights="quadratic")


def _record(rows, true, predicted, **more):
    lists = {"test_rows": rows, "test_grades": true, "test_predictions": predicted}
    lists = {name: np.asarray(values).tolist() for name, values in lists.items()}
    return {"arm": "random", "fraction": 0.1, **lists, **more}


def test_interval_is_that_of_scipy():
    true, predicted = _graded(120)
    ours = bootstrap_kappa(true, predicted, 5, confidence=0.9, resamples=20_000)
    theirs = stats.bootstrap(
        (true, predicted),
        _kappa,
        paired=True,
        vectorized=False,
        n_resamples=1000,
        method="percentile",
        confidence_level=0.9,
        random_state=np.random.default_rng(0),
    ).confidence_interval
    # Ends of 1000 resamples scatter by some 0.006 where kappa does by 0.04.
    assert ours == pytest.approx(tuple(theirs), abs=0.02)
    assert ours.high - ours.low > 0.1


def test_whole_groups_are_drawn():
    """Images that come twice, in one group, tell as much as once; drawn alone they seem to tell more."""
    true, predicted = _graded(60)
    once = bootstrap_kappa(true, predicted, 5, resamples=4000)
    twice = np.tile(true, 2), np.tile(predicted, 2), 5
    grouped = bootstrap_kappa(*twice, groups=[f"patient {i}" for i in range(60)] * 2, resamples=4000)
    assert grouped == pytest.approx(once, abs=1e-6)
    alone = bootstrap_kappa(*twice, resamples=4000)
    assert alone.high - alone.low == pytest.approx((once.high - once.low) / np.sqrt(2), rel=0.1)


def test_groups_of_several_sizes_against_a_loop():
    true, predicted = _graded(60)
    groups = np.random.default_rng(0).integers(0, 55, 60)
    names = np.unique(groups)
    rng = np.random.default_rng(1)
    kappas = []
    for _ in range(800):
        rows = np.concatenate([np.flatnonzero(groups == group) for group in rng.choice(names, len(names))])
        kappas.append(_kappa(true[rows], predicted[rows]))
    ours = bootstrap_kappa(true, predicted, 5, groups=groups, resamples=10_000)
    # Further out than 0.025 and 0.975: Student's quantile, and n - 1 for n; and without the bias.
    reach = np.sqrt(len(names) / (len(names) - 1)) * stats.t.ppf(0.975, len(names) - 1)
    bias = np.mean(kappas) - _kappa(true, predicted)
    expected = np.quantile(kappas, stats.norm.cdf([-reach, reach])) - bias
    assert ours == pytest.approx(expected, abs=0.03)


def test_interval_is_repeatable():
    true, predicted = _graded(50)
    assert bootstrap_kappa(true, predicted, 5, seed=3) == bootstrap_kappa(true, predicted, 5, seed=3)
    assert bootstrap_kappa(true, predicted, 5, seed=3) != bootstrap_kappa(true, predicted, 5, seed=4)


def test_no_interval_where_none_holds():
    """A test without an error cannot tell how rare errors are, and few images give intervals too narrow."""
    assert bootstrap_kappa([0, 1, 2] * 20, [0, 1, 2] * 20, 3) == (None, None)
    assert bootstrap_kappa([1] * 30, [1] * 30, 3) == (None, None)
    true, predicted = _graded(60)
    assert bootstrap_kappa(true[:29], predicted[:29], 5) == (None, None)
    assert None not in bootstrap_kappa(true[:30], predicted[:30], 5)
    patients = np.arange(60) // 2
    assert None not in bootstrap_kappa(true, predicted, 5, groups=patients)
    assert bootstrap_kappa(true[:58], predicted[:58], 5, groups=patients[:58]) == (None, None)
    grouped = _record(np.arange(58), true[:58], predicted[:58], test_groups=patients[:58].tolist())
    (row,) = kappa_intervals([grouped])
    assert (row["low"], row["high"]) == (None, None)
    # By the run with the fewest images, however many there are in all.
    few = _record(np.arange(60, 89), true[:29], predicted[:29])
    (row,) = kappa_intervals([_record(np.arange(60), true, predicted), few])
    assert (row["images"], row["low"]) == (89, None)


def test_the_interval_contains_the_truth():
    """A small version of benchmarks/coverage.py: 30 images, each grade taken for a neighbor at times."""
    given = np.array([[0.8, 0.2, 0, 0], [0.2, 0.6, 0.2, 0], [0, 0.2, 0.6, 0.2], [0, 0, 0.2, 0.8]])
    truth = cohen_kappa_score(
        np.repeat(np.arange(4), 4), np.tile(np.arange(4), 4), weights="quadratic", sample_weight=given.ravel()
    )
    rng, hits = np.random.default_rng(0), []
    for _ in range(300):
        true = rng.integers(0, 4, 30)
        predicted = (rng.random(30)[:, None] > given[true].cumsum(axis=1)).sum(axis=1)
        low, high = bootstrap_kappa(true, np.minimum(predicted, 3), 4, resamples=300)
        hits.append(low <= truth <= high)
    assert np.mean(hits) >= 0.93


def test_one_run_has_the_interval_of_its_images():
    true, predicted = _graded(90)
    (row,) = kappa_intervals([_record(np.arange(90), true, predicted)])
    low, high = bootstrap_kappa(true, predicted, 5)
    assert (row["low"], row["high"]) == pytest.approx((low, high))
    assert row["mean"] == pytest.approx(_kappa(true, predicted))
    assert (row["arm"], row["fraction"], row["runs"], row["images"]) == ("random", 0.1, 1, 90)


def test_an_image_that_several_runs_tested_stays_one_image():
    true, predicted = _graded(90)
    run = _record(np.arange(90), true, predicted)
    one, three = kappa_intervals([run]), kappa_intervals([run] * 3)
    assert {**three[0], "runs": 1} == pytest.approx(one[0])


def test_runs_on_parts_of_the_images_against_a_loop():
    true, first = _graded(60)
    second = np.clip(true + np.random.default_rng(5).integers(-1, 2, 60), 0, 4)
    parts = (np.arange(0, 40), np.arange(20, 60)[::-1])
    records = [
        _record(part, true[part], given[part]) for part, given in zip(parts, (first, second), strict=True)
    ]
    (row,) = kappa_intervals(records, resamples=8000, confidence=0.9)
    rng = np.random.default_rng(1)
    means = []
    for _ in range(800):
        drawn = rng.integers(0, 60, 60)
        rows = [drawn[np.isin(drawn, part)] for part in parts]
        means.append(
            np.mean([_kappa(true[r], given[r]) for r, given in zip(rows, (first, second), strict=True)])
        )
    assert row["images"] == 60
    assert (row["low"], row["high"]) == pytest.approx(np.quantile(means, [0.05, 0.95]), abs=0.02)


def test_cells_go_by_fraction_and_failed_runs_are_left_out():
    true, predicted = _graded(30)
    good = _record(np.arange(30), true, predicted)
    failed = {"arm": "random", "fraction": 0.1, "status": "failed"}
    rows = kappa_intervals([{**good, "fraction": 1.0}, failed, good, {**good, "arm": "frozen"}], resamples=20)
    assert [(row["arm"], row["fraction"], row["runs"]) for row in rows] == [
        ("frozen", 0.1, 1),
        ("random", 0.1, 1),
        ("random", 1.0, 1),
    ]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"test_rows": None}, "must hold the lists test_rows, test_grades, test_predictions"),
        ({"test_rows": "[0, 1]"}, r"CSV files lack them. Received lengths \[0, 2\] in a run of arm 'random'"),
        ({"test_rows": [0]}, r"Received lengths \[1, 2\]"),
        ({"test_grades": [0, 1.5]}, "`test_grades` must be whole numbers"),
        ({"status": "failed"}, "at least one completed run"),
    ],
)
def test_refused_records(changes, message):
    with pytest.raises(ValueError, match=message):
        kappa_intervals([{**_record([0, 1], [0, 1], [0, 1]), **changes}])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"predicted_grades": [0, 3]}, r"`predicted_grades` must be whole numbers in 0\.\.2"),
        ({"groups": [0]}, r"`groups` must have shape \(2,\). Received shape \(1,\)"),
        ({"confidence": 95}, r"`confidence` must be in \(0, 1\). Received 95"),
        ({"resamples": 0}, "`resamples` must be at least 1. Received 0"),
    ],
)
def test_refused_arguments(arguments, message):
    good = {"true_grades": [0, 1], "predicted_grades": [0, 1], "num_grades": 3}
    with pytest.raises(ValueError, match=message):
        bootstrap_kappa(**{**good, **arguments})
