"""Arms against each other: SciPy's paired t, the correction done by hand, and curves read by eye."""

import math

import numpy as np
import pytest
from scipy import stats

from keras_ssl.evaluation import labels_saved, paired_differences


def _runs(arm, fraction, values, **more):
    return [
        {"arm": arm, "fraction": fraction, "repetition": repetition, "fold": 0, "qw_kappa": value, **more}
        for repetition, value in enumerate(values)
    ]


def _lines(initialized, random):
    return [
        run
        for arm, line in {"initialized": initialized, "random": random}.items()
        for fraction, values in line.items()
        for run in _runs(arm, fraction, values)
    ]


OURS, THEIRS = [0.5, 0.61, 0.43, 0.58], [0.4, 0.45, 0.45, 0.41]


def test_differences_are_those_of_scipy():
    (row,) = paired_differences(_lines({0.1: OURS}, {0.1: THEIRS}), confidence=0.9)
    expected = stats.ttest_rel(OURS, THEIRS).confidence_interval(0.9)
    assert (row["low"], row["high"]) == pytest.approx((expected.low, expected.high))
    assert row["mean"] == pytest.approx(np.mean(OURS) - np.mean(THEIRS))
    assert (row["arm"], row["fraction"], row["pairs"], row["left_out"]) == ("initialized", 0.1, 4, 0)
    assert (row["wins"], row["corrected"]) == (3, False)


def test_several_folds_widen_the_interval_as_nadeau_and_bengio_say():
    records = _lines({0.1: OURS}, {0.1: THEIRS})
    folds = [{**run, "fold": run["repetition"], "repetition": 0} for run in records]
    with pytest.raises(ValueError, match="`test_images` and `train_images` for the corrected interval"):
        paired_differences(folds)
    counted = [{**run, "test_images": 100, "train_images": 400} for run in folds]
    (row,) = paired_differences(counted)
    differences = np.subtract(OURS, THEIRS)
    reach = stats.t.ppf(0.975, 3) * np.sqrt(differences.var(ddof=1) * (1 / 4 + 100 / 400))
    assert row["corrected"]
    assert (row["low"], row["high"]) == pytest.approx(
        (differences.mean() - reach, differences.mean() + reach)
    )
    plain = paired_differences(counted, corrected=False)
    assert plain == paired_differences(folds, corrected=False)
    assert plain[0]["high"] - plain[0]["low"] == pytest.approx(2 * reach / np.sqrt(2))
    repeated = [{**run, "repetition": run["fold"], "fold": 0} for run in counted]
    assert paired_differences(repeated, corrected=True)[0]["low"] == pytest.approx(row["low"])


def test_pairs_that_are_not_whole_are_left_out_and_counted():
    records = _lines({0.1: OURS, 1.0: [0.6], 0.5: [0.5]}, {0.1: THEIRS, 1.0: [0.7]})
    records[0] = {**records[0], "status": "failed", "qw_kappa": None}
    records.remove(next(run for run in records if run["arm"] == "random" and run["repetition"] == 2))
    first, half, last = paired_differences(records)
    assert (first["pairs"], first["left_out"], first["wins"]) == (2, 2, 2)
    assert first["mean"] == pytest.approx(np.mean([0.61 - 0.45, 0.58 - 0.41]))
    assert (half["pairs"], half["left_out"]) == (0, 1)
    assert math.isnan(half["mean"])
    assert (last["pairs"], last["wins"], last["mean"]) == (1, 0, pytest.approx(-0.1))
    assert math.isnan(last["low"])
    assert math.isnan(last["high"])


def test_text_of_a_csv_file_and_the_order_of_records_make_no_difference():
    records = [
        {**run, "test_images": 10, "train_images": 40}
        for run in _lines({0.1: OURS}, {0.1: THEIRS, 1.0: THEIRS})
    ]
    texts = [{name: str(value) for name, value in run.items()} for run in records[::-1]]
    assert paired_differences(texts) == paired_differences(records)
    assert labels_saved(texts, resamples=20) == labels_saved(records, resamples=20)


def test_several_tasks_are_lines_of_their_own():
    records = [
        run
        for task, arm, values in [
            ("rotation", "frozen", [0.5, 0.6]),
            ("jigsaw", "frozen", [0.3, 0.4]),
            ("none", "random", [0.4, 0.4]),
        ]
        for run in _runs(arm, 0.1, values, task=task)
    ]
    means = {row["arm"]: row["mean"] for row in paired_differences(records)}
    assert means == pytest.approx({"frozen (jigsaw)": -0.05, "frozen (rotation)": 0.15})
    (row,) = labels_saved(records, arm="frozen (jigsaw)", resamples=10)
    assert row["value"] == pytest.approx(0.35)


def test_labels_saved_on_a_curve_read_by_eye():
    """The baseline falls from 0.5 to 0.3 at 0.2, is flat from 0.4 on, and never gets to 0.9."""
    baseline = {0.05: [0.2], 0.1: [0.5], 0.2: [0.3], 0.4: [0.6], 0.8: [0.6], 1.0: [0.6]}
    arm = {0.05: [0.1], 0.1: [0.3], 0.2: [0.4], 0.4: [0.5], 0.8: [0.6], 1.0: [0.9]}
    rows = labels_saved(_lines(arm, baseline), resamples=5)
    assert [row["beyond"] for row in rows] == ["below", "", "", "", "", "above"]
    # The fall is levelled to 0.4 at 0.1 and 0.2; 0.3 and 0.5 lie half-way up on the logarithm.
    expected = [0.05, math.sqrt(0.05 * 0.1), 0.1, math.sqrt(0.2 * 0.4), 0.4, math.inf]
    assert [row["reached_at"] for row in rows] == pytest.approx(expected)
    assert [row["value"] for row in rows] == pytest.approx([0.1, 0.3, 0.4, 0.5, 0.6, 0.9])
    assert [row["factor"] for row in rows] == pytest.approx(np.divide(expected, sorted(arm)))
    assert all(math.isnan(row["low"]) and math.isnan(row["high"]) for row in rows)


def test_runs_weigh_alike_when_a_fall_is_levelled():
    baseline = {0.1: [0.6, 0.6, 0.6], 0.2: [0.2], 1.0: [0.8]}
    rows = labels_saved(_lines({0.1: [0.5], 0.2: [0.65]}, baseline), resamples=5)
    assert [row["reached_at"] for row in rows] == pytest.approx([0.1, 0.2 * 5**0.5])
    assert [row["beyond"] for row in rows] == ["below", ""]


def test_interval_of_labels_saved_against_a_loop():
    rng = np.random.default_rng(0)
    fractions = [0.1, 0.2, 0.5, 1.0]
    noise = rng.normal(0, 0.03, (2, 4, 6))
    curves = np.array([[0.45, 0.5, 0.58, 0.6], [0.3, 0.4, 0.52, 0.58]])[:, :, None] + noise
    records = _lines(*(dict(zip(fractions, curve.tolist(), strict=True)) for curve in curves))
    rows = labels_saved(records, resamples=1500, confidence=0.8)
    found = []
    for _ in range(1000):
        ours, theirs = np.maximum.accumulate(curves[:, :, rng.integers(0, 6, 6)].mean(axis=2), axis=1)
        reached = np.exp(np.interp(ours, theirs, np.log(fractions)))
        found.append(np.where(ours > theirs[-1], np.inf, reached))
    expected = np.quantile(found, [0.1, 0.9], axis=0, method="inverted_cdf").T
    for row, (low, high) in zip(rows[:2], expected, strict=False):
        assert row["low"] < row["reached_at"] < row["high"]
        assert (row["low"], row["high"]) == pytest.approx((low, high), rel=0.05)
    assert rows[-1]["high"] == math.inf
    assert rows == labels_saved(records, resamples=1500, confidence=0.8)


def test_an_arm_saves_nothing_against_itself():
    """Both lines are drawn together: the same pairs, hence no scatter where none is."""
    rng = np.random.default_rng(0)
    line = {fraction: (0.3 + 0.2 * math.log10(100 * fraction) + rng.normal(0, 0.01, 5)).tolist()
            for fraction in (0.05, 0.2, 1.0)}  # fmt: skip
    for row in labels_saved(_lines(line, line), resamples=200)[1:]:
        assert (row["factor"], row["low"], row["high"]) == pytest.approx(
            (1, row["fraction"], row["fraction"])
        )


@pytest.mark.parametrize("function", [paired_differences, labels_saved])
def test_refused(function):
    records = _lines({0.1: OURS}, {0.1: THEIRS})
    with pytest.raises(ValueError, match="at least one run that ended well"):
        function([])
    with pytest.raises(
        ValueError, match=r"`baseline` must be one of \['initialized', 'random'\]. Received 'x'"
    ):
        function(records, baseline="x")
    with pytest.raises(ValueError, match="Received 5 runs of 4 pairs for 'initialized'"):
        function([*records, records[0]])
    with pytest.raises(ValueError, match="`confidence` must lie in"):
        function(records, confidence=1)


def test_refused_arm():
    with pytest.raises(ValueError, match=r"`arm` must be one of .* Received 'frozen'"):
        labels_saved(_lines({0.1: OURS}, {0.1: THEIRS}), arm="frozen")
