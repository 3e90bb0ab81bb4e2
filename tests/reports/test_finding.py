"""What is said in words is what the intervals show, also where nothing was gained."""

import pytest
from records import failed, study

from keras_ssl.evaluation import paired_differences
from keras_ssl.reports import finding

WOBBLE = (0.0, 0.01, -0.01)


def runs(frozen, random, fractions=(0.1, 1.0), wobble=WOBBLE):
    return [
        {"arm": arm, "fraction": fraction, "labels": 9, "repetition": number, "qw_kappa": kappa + own * noise}
        for arm, kappas, own in (("frozen", frozen, 1), ("random", random, -0.1))
        for fraction, kappa in zip(fractions, kappas, strict=True)
        for number, noise in enumerate(wobble)
    ]


def test_gain():
    said = finding(runs((0.6, 0.8), (0.4, 0.6))).splitlines()
    assert said[0].startswith(
        "Self-supervised pretraining helped: of 2 comparisons, it was better in 2 (at 10 % and 100 % of the "
        "labels), worse in none. Of these intervals, widened for being 2, 2 still exclude 0."
    )
    assert said[1].startswith(
        "frozen: better than random at 10 % (+0.200, interval +0.173 to +0.227) and 100 %"
    )
    assert said[2].startswith("Labels saved by frozen: with 10 % as good as random with 100 %")
    assert said[2].endswith("with 100 % better than random with any share that was measured.")


def test_harm():
    said = finding(runs((0.4, 0.6), (0.5, 0.8))).splitlines()
    assert said[0].startswith(
        "Self-supervised pretraining did not help: of 2 comparisons, it was better in none, "
    )
    assert "worse in 2 (at 10 % and 100 % of the labels)" in said[0]
    assert said[2] == "Labels saved by frozen: none are shown."


def test_gain_and_harm():
    said = finding(runs((0.7, 0.6), (0.5, 0.8))).splitlines()[0]
    assert "better in 1 (at 10 % of the labels), worse in 1 (at 100 % of the labels)" in said


def test_no_difference():
    said = finding(runs((0.501, 0.6), (0.5, 0.6))).splitlines()
    assert said[0] == (
        "Self-supervised pretraining is not shown to help or to hurt: in none of 2 comparisons does the "
        "interval of the difference exclude 0. With 3 pairs of runs, only a large difference would."
    )
    assert said[1].startswith("frozen: not shown to differ from random at 10 %")


def test_a_gain_that_many_comparisons_give_by_chance_is_said_to_be_one():
    said = finding(study(gain=False)).splitlines()[0]
    assert said.startswith("Self-supervised pretraining may have helped")
    assert said.endswith("widened for being 5, none still exclude 0.")


@pytest.mark.parametrize("wobble", [(0.0,), ()])
def test_too_few_runs(wobble):
    if not wobble:
        with pytest.raises(ValueError, match="at least one run"):
            finding(runs((0.6, 0.8), (0.4, 0.6), wobble=wobble))
        return
    said = finding(runs((0.6, 0.8), (0.4, 0.6), wobble=wobble)).splitlines()
    assert said[0].startswith("Too few runs to tell")
    assert said[2] == "Labels saved by frozen: too few runs to tell."


def test_other_arms_are_not_called_self_supervised():
    records = study(arms=("imagenet", "random"))
    said = finding(records)
    assert "Self-supervised" not in said
    assert said.startswith("imagenet: ")


def test_nothing_to_compare_with():
    records = study()
    assert 'No run of the arm "random" ended well' in finding(
        [failed(run) if run["arm"] == "random" else run for run in records]
    )
    assert "nothing to compare it with" in finding([run for run in records if run["arm"] == "random"])
    assert finding(records + records).startswith(
        "Arms cannot be compared run by run: `records` must hold one run"
    )


def test_failed_runs_are_told():
    records = study()
    records[3] = failed(records[3])
    assert finding(records).splitlines()[-1].startswith("1 of 45 runs failed")


def test_labels_are_saved_only_where_the_arm_is_shown_to_be_better():
    records = study()
    rows = [row for row in paired_differences(records) if row["arm"] == "frozen"]
    unsure = [f"with {100 * row['fraction']:g} %" for row in rows if row["low"] <= 0]
    assert unsure
    saved = next(line for line in finding(records).splitlines() if line.startswith("Labels saved by frozen"))
    assert not any(f"{share} as good" in saved or f"{share} better" in saved for share in unsure)
