"""Splits and labeled subsets: nothing torn, nothing shared that must not be, all counted."""

import itertools

import numpy as np
import pytest

from keras_ssl import data
from keras_ssl.evaluation import Protocol
from keras_ssl.evaluation.protocol import make_runs, make_splits, run_seed

pytestmark = pytest.mark.no_backend

GRADES = np.repeat([0, 1, 2], [60, 30, 30])
GROUPS = np.arange(120) // 2


def planned(**settings):
    protocol = Protocol(**{"folds": 3, "repetitions": 2, **settings})
    splits = make_splits(GRADES, GROUPS, protocol)
    return splits, make_runs(GRADES, GROUPS, splits, protocol, ["rotation"])


def test_each_image_is_tested_once_a_repetition_and_groups_stay_whole():
    splits, _ = planned()
    assert [split.pair for split in splits] == list(itertools.product(range(2), range(3)))
    for repetition in range(2):
        tested = np.concatenate([split.test for split in splits if split.repetition == repetition])
        np.testing.assert_array_equal(np.sort(tested), np.arange(120))
    for split in splits:
        parts = [set(GROUPS[rows]) for rows in (split.train, split.validation, split.test)]
        assert not any(one & other for one, other in itertools.combinations(parts, 2))
        assert len(split.train) + len(split.validation) + len(split.test) == 120


def test_repetitions_have_other_folds_but_the_same_test_part_where_one_is_held_out():
    splits, _ = planned()
    assert not np.array_equal(splits[0].test, splits[3].test)
    held_out, _ = planned(folds=1)
    assert len(held_out) == 2
    np.testing.assert_array_equal(held_out[0].test, held_out[1].test)
    assert len(held_out[0].test) == 24


def test_subsets_are_shared_by_arms_nested_and_new_in_each_repetition():
    _, runs = planned(folds=1, fractions=(0.1, 0.5, 1.0))
    labeled = {}
    for run in runs:
        same = labeled.setdefault((run.split.pair, run.fraction), run.labeled)
        np.testing.assert_array_equal(run.labeled, same)
        assert set(run.labeled) <= set(run.split.train)
        assert set(GRADES[run.labeled]) == {0, 1, 2}
    for repetition in range(2):
        few, more, all_of_them = (labeled[(repetition, 0), fraction] for fraction in (0.1, 0.5, 1.0))
        assert set(few) < set(more) < set(all_of_them)
    assert set(labeled[(0, 0), 0.1]) != set(labeled[(1, 0), 0.1])


def test_runs_of_all_arms_and_tasks():
    protocol = Protocol(folds=1, fractions=(0.5,), arms=("frozen", "initialized", "random"))
    splits = make_splits(GRADES, GROUPS, protocol)
    runs = make_runs(GRADES, GROUPS, splits, protocol, ["rotation", "jigsaw"])
    assert [run.name for run in runs] == [
        "rotation-frozen-0.5-r0-f0",
        "jigsaw-frozen-0.5-r0-f0",
        "rotation-initialized-0.5-r0-f0",
        "jigsaw-initialized-0.5-r0-f0",
        "none-random-0.5-r0-f0",
    ]


def test_seeds_differ_by_pair_and_attempt_only():
    splits, _ = planned()
    seeds = {run_seed(0, split, attempt) for split in splits for attempt in range(3)}
    assert len(seeds) == 18
    assert run_seed(0, splits[1], 0) == run_seed(0, splits[1]._replace(train=splits[0].train), 0)


def test_a_given_test_part_is_kept():
    protocol = Protocol(folds=1)
    (split,) = make_splits(GRADES, GROUPS, protocol, np.arange(40, 80))
    np.testing.assert_array_equal(split.test, np.arange(40, 80))
    assert not set(split.test) & {*split.train, *split.validation}


@pytest.mark.parametrize(
    ("rows", "folds", "message"),
    [
        ([0, 1], 2, "`folds` must be 1 .*Received 2"),
        ([0, 120], 1, r"distinct rows in 0..119"),
        ([0, 0], 1, "distinct rows"),
        ([0, 1, 2], 1, "Received 1 groups that are on both sides"),
    ],
)
def test_bad_test_parts_are_refused(rows, folds, message):
    with pytest.raises(ValueError, match=message):
        make_splits(GRADES, GROUPS, Protocol(folds=folds), np.array(rows))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"fractions": ()}, "`fractions` must be ascending"),
        ({"fractions": (0.5, 0.1)}, r"`fractions` must be ascending .* Received \(0.5, 0.1\)"),
        ({"fractions": (float("nan"),)}, "`fractions`"),
        ({"fractions": (0.5, 1.5)}, "`fractions`"),
        ({"folds": 0}, "`folds` must be at least 1. Received 0"),
        ({"repetitions": 0}, "`repetitions`"),
        ({"arms": ("froze",)}, "`arms` must be distinct values of"),
        ({"arms": ("random", "random")}, "`arms`"),
        ({"steps": 100, "validations": 7}, "`validations` must be a divisor of `steps`, 100. Received 7"),
        ({"warmup_fraction": 1.0}, "`warmup_fraction`"),
        (
            {"warmup_fraction": 0.99},
            r"below 0.95.* rounded to 10 of 10 validations, the warm-up has 800 of 800 steps",
        ),
        (
            {"steps": 20, "validations": 2, "warmup_fraction": 0.2},
            r"`warmup_fraction` must be 0, or more than 0.25 .*Received 0.2: rounded to 0 of 2",
        ),
        ({"validations": 1}, r"must be 0, or more than 0.5 .*Received 0.2: .* 0 of 800 steps"),
        ({"arms": ("initialized",), "validations": 2}, "Received 0.2"),
        ({"select_by": "kapa"}, r"`select_by` must be None, one of \('loss', 'qw_kappa', .* Received 'kapa'"),
        ({"tune_by": "val_loss", "tune": True}, r"`tune_by` must be None, one of .* Received 'val_loss'"),
        ({"test_fraction": 0.0}, "`test_fraction`"),
        ({"rate_factors": ()}, "`rate_factors`"),
        ({"rate_factors": (0.0, 1.0)}, "`rate_factors`"),
        ({"learning_rate": -1.0}, "`learning_rate` must be above 0. Received -1.0"),
        ({"frozen_learning_rate": 0.0}, "`frozen_learning_rate`"),
        ({"encoder_learning_rate": 0.0}, "`encoder_learning_rate`"),
        ({"layer_decay": 1.5}, "`layer_decay`"),
        ({"weight_decay": -0.1}, "`weight_decay`"),
        ({"ema_momentum": 1.0}, "`ema_momentum`"),
        ({"pretrain_on": "some"}, "`pretrain_on`"),
        ({"seed": -1}, "`seed`"),
    ],
)
def test_settings_out_of_range_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        Protocol(**settings)


def test_a_warmup_of_no_step_is_nobodys_business_where_no_arm_warms_up():
    for settings in ({"arms": ("frozen", "random")}, {"warmup_fraction": 0}, {"warmup_fraction": 0.5}):
        Protocol(**{"steps": 20, "validations": 2, **settings})
    assert Protocol(steps=20, validations=2, warmup_fraction=0.5).warmup_steps == 10


def test_a_metric_to_tune_by_without_tuning_is_told():
    with pytest.warns(UserWarning, match="`tune_by` has no effect without `tune=True`. Received 'accuracy'"):
        Protocol(tune_by="accuracy")
    for metric in ("loss", "macro_auc", "dice_2"):
        assert Protocol(tune=True, tune_by=metric, select_by=metric).select_by == metric


def test_no_pair_of_identical_photographs_is_split(real_data):
    table = data.ImageTable.from_csv(
        real_data / "idrid" / "labels.csv",
        real_data / "idrid" / "images_128",
        image_column="file",
        label_column="dr_grade",
    ).group_duplicates()
    copies = data.duplicate_groups(np.array(table.paths))
    pairs = [rows for group in np.unique(copies) if len(rows := np.flatnonzero(copies == group)) > 1]
    assert len(pairs) == 5
    splits = make_splits(table.grades, table.groups, Protocol(folds=5, repetitions=2))
    for split, rows in itertools.product(splits, pairs):
        sides = [set(rows) <= set(part) for part in (split.train, split.validation, split.test)]
        assert sum(sides) == 1
