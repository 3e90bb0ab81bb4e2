"""Arms against each other: SciPy's paired t, the correction done by hand, and curves read by eye."""

import math

import numpy as np
import pytest
from scipy import stats

from keras_ssl.evaluation import labels_saved, paired_differences

pytestmark = pytest.mark.no_backend


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
    assert (last["low"], last["high"], half["low"], half["high"]) == (None,) * 4


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
    assert all(row["low"] is row["high"] is None and row["pairs"] == 1 for row in rows)


def test_runs_weigh_alike_when_a_fall_is_levelled():
    baseline = {0.1: [0.6, 0.6, 0.6], 0.2: [0.2], 1.0: [0.8]}
    rows = labels_saved(_lines({0.1: [0.5], 0.2: [0.65]}, baseline), resamples=5)
    assert [row["reached_at"] for row in rows] == pytest.approx([0.1, 0.2 * 5**0.5])
    assert [row["beyond"] for row in rows] == ["below", ""]


FRACTIONS = np.array([0.1, 0.2, 0.5, 1.0])


def _noisy(pairs, size, seed=0, gain=0.0):
    """Values `(2, fractions, pairs)` of an arm and a baseline that rise along the logarithm."""
    means = 0.6 + 0.25 * np.log10(FRACTIONS)
    noise = np.random.default_rng(seed).normal(0, size, (2, len(FRACTIONS), pairs))
    return np.stack([means + gain, means])[:, :, None] + noise


def _records(curves, **more):
    lines = (dict(zip(FRACTIONS.tolist(), curve.tolist(), strict=True)) for curve in curves)
    return [{**run, **more} for run in _lines(*lines)]


def _by_tests(arm, baseline, confidence=0.95, overlap=0.0):
    """Ends by one-sided Student tests of each pair of fractions, SciPy's quantiles, no drawing."""
    found = []
    for ours in arm:
        told = []
        for theirs in baseline:
            both = ~np.isnan(ours - theirs)
            difference = (ours - theirs)[both]
            error = difference.std(ddof=1) * np.sqrt(1 / both.sum() + overlap)
            reach = stats.t.ppf((1 + confidence) / 2, both.sum() - 1) * error
            told.append(1 if difference.mean() > reach else -1 if difference.mean() < -reach else 0)
        low, high = FRACTIONS[0], math.inf
        for fraction, sign in zip(FRACTIONS, told, strict=True):
            if sign != 1:
                break
            low = fraction
        for fraction, sign in zip(FRACTIONS[::-1], told[::-1], strict=True):
            if sign != -1:
                break
            high = fraction
        found.append((math.inf if told == [1] * len(told) else low, high))
    return found


@pytest.mark.parametrize("pairs", [2, 3, 8])
@pytest.mark.parametrize(("size", "gain"), [(0.01, 0.0), (0.02, 0.1), (0.01, -0.1)])
def test_interval_of_labels_saved_is_that_of_paired_tests(pairs, size, gain):
    """Drawn together, several fractions widen the interval a little, and never make it narrower."""
    same = 0
    for seed in range(4):
        curves = _noisy(pairs, size, seed, gain)
        rows = labels_saved(_records(curves), resamples=20_000)
        narrower = _by_tests(*curves, confidence=0.945)
        for row, (low, high), inner in zip(rows, _by_tests(*curves), narrower, strict=True):
            assert row["low"] <= inner[0]
            assert row["high"] >= inner[1]
            same += (row["low"], row["high"]) == (low, high)
    assert same >= 12


def test_runs_that_are_missing_cost_their_pairs_only():
    curves = _noisy(6, 0.005)
    curves[0, 1, :2] = curves[1, 2, 0] = math.nan
    records = [run for run in _records(curves) if not math.isnan(run["qw_kappa"])]
    rows = labels_saved(records, resamples=4000)
    assert [row["pairs"] for row in rows] == [5, 4, 5, 5]
    assert [(row["low"], row["high"]) for row in rows] == _by_tests(*curves)


def test_a_fraction_with_too_few_pairs_is_neither_above_nor_reached():
    curves = _noisy(4, 0.001, gain=0.02)
    curves[1, [0, 3], 1:] = math.nan
    rows = labels_saved([run for run in _records(curves) if not math.isnan(run["qw_kappa"])], resamples=200)
    # Of the arm with all labels, 0.2 and 0.5 are known to be too few; nothing is known of 0.1 and 1.0.
    assert (rows[-1]["low"], rows[-1]["high"]) == (0.1, math.inf)


def test_folds_widen_the_interval_and_without_counts_there_is_none():
    curves = _noisy(5, 0.02, gain=0.05)
    folds = [{**run, "fold": run["repetition"], "repetition": 0} for run in _records(curves)]
    with pytest.warns(UserWarning, match=r"No interval of labels saved .* Received 20 of 20 runs without"):
        rows = labels_saved(folds)
    assert {row["low"] for row in rows} == {None}
    assert labels_saved(folds, corrected=False) == labels_saved(_records(curves))
    counted = [{**run, "test_images": 100, "train_images": 400} for run in folds]
    wide = labels_saved(counted, resamples=4000)
    plain = labels_saved(counted, resamples=4000, corrected=False)
    assert all(
        one["low"] <= other["low"] and one["high"] >= other["high"]
        for one, other in zip(wide, plain, strict=True)
    )
    assert [(row["low"], row["high"]) for row in wide] != [(row["low"], row["high"]) for row in plain]
    with pytest.raises(ValueError, match="`test_images` and `train_images`"):
        labels_saved(folds, corrected=True)


@pytest.mark.parametrize("pairs", [3, 5])
@pytest.mark.parametrize("gain", [0.0, 0.25 * math.log10(3)])
def test_the_interval_contains_the_truth(pairs, gain):
    """A small version of benchmarks/coverage.py; percentiles of pairs drawn anew covered 0.7 and 0.83."""
    truth = FRACTIONS * (3 if gain else 1)
    hits = []
    for seed in range(60):
        curves = _noisy(pairs, 0.04, seed, gain)
        rows = labels_saved(_records(curves), resamples=200, seed=seed)
        hits += [
            row["low"] <= right <= row["high"] for row, right in zip(rows, truth, strict=True) if right <= 1
        ]
    assert np.mean(hits) >= 0.93


def test_seeds_and_resamples_decide_the_draws():
    records = _records(_noisy(3, 0.05))
    assert labels_saved(records) == labels_saved(records)
    # One draw is one pair of curves.
    ends = {tuple(row["low"] for row in labels_saved(records, resamples=1, seed=seed)) for seed in range(9)}
    assert len(ends) > 1


def test_an_arm_saves_nothing_against_itself():
    """Pairs are of the same runs, hence there is no scatter at the fraction itself."""
    curves = _noisy(5, 0.001)
    for place, row in enumerate(labels_saved(_records([curves[0], curves[0]]), resamples=200)):
        assert row["factor"] == pytest.approx(1)
        assert row["low"] == FRACTIONS[max(0, place - 1)]
        assert row["high"] == FRACTIONS[place]


@pytest.mark.parametrize("function", [paired_differences, labels_saved])
def test_refused(function):
    records = _lines({0.1: OURS}, {0.1: THEIRS})
    with pytest.raises(ValueError, match="at least one completed run"):
        function([])
    with pytest.raises(
        ValueError, match=r"`baseline` must be one of \['initialized', 'random'\]. Received 'x'"
    ):
        function(records, baseline="x")
    with pytest.raises(ValueError, match="Received 5 runs of 4 pairs for 'initialized'"):
        function([*records, records[0]])
    with pytest.raises(ValueError, match="`confidence` must be in"):
        function(records, confidence=1)


def test_refused_arm():
    with pytest.raises(ValueError, match=r"`arm` must be one of .* Received 'frozen'"):
        labels_saved(_lines({0.1: OURS}, {0.1: THEIRS}), arm="frozen")
