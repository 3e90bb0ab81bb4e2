"""What is said in words is what the intervals show, also where nothing was gained."""

import pytest
from records import failed, study

from keras_ssl.evaluation import paired_differences
from keras_ssl.reports import finding

pytestmark = pytest.mark.no_backend

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
    assert said[0] == (
        "Self-supervised pretraining helped: of 2 comparisons, it was significantly better in 2 (at 10 % and "
        "100 % of the labels), significantly worse in none. After Bonferroni correction for 2 comparisons, 2 "
        "remain significant."
    )
    assert said[1].startswith(
        "frozen: better than random at 10 % (+0.200, interval +0.173 to +0.227) and 100 %"
    )
    assert said[2] == (
        "Labels saved by frozen: with 10 % as good as random with 100 % (interval 10 % to not reached); with "
        "100 % better than random with any fraction that was measured."
    )


@pytest.mark.parametrize("size", [0.004, 0.007, 0.01, 0.013, 0.2])
def test_a_loss_is_told_by_the_rule_of_a_gain(size):
    """The same values with the names of arm and baseline exchanged: "hurt" wherever it was "helped"."""
    kinder = runs((0.5 + size, 0.7 + size), (0.5, 0.7), wobble=(0.0, 0.01, -0.01, 0.004))
    other = {"frozen": "random", "random": "frozen"}
    gain, loss = finding(kinder), finding([{**run, "arm": other[run["arm"]]} for run in kinder])
    for good, bad in (("may have helped", "may have hurt"), (" helped", " hurt"), ("saved by", "lost by")):
        assert (good in gain) == (bad in loss) or "Labels saved by frozen: no" in loss
        assert bad not in gain
    assert ("No significant difference" in gain) == ("No significant difference" in loss)
    assert gain.splitlines()[0].split("After")[1:] == loss.splitlines()[0].split("After")[1:]


def test_nominal_gains_and_losses_may_have_helped_and_hurt():
    """Of five comparisons one is significant by itself, and not after the correction."""
    fractions = (0.1, 0.2, 0.3, 0.5, 1.0)
    for sign, word in ((1, "helped"), (-1, "hurt")):
        means = [0.5 + sign * 0.03, *[0.5] * 4]
        said = finding(runs(means, [0.5] * 5, fractions)).splitlines()[0]
        assert said.startswith(f"Self-supervised pretraining may have {word}: of 5 comparisons")
        assert said.endswith("After Bonferroni correction for 5 comparisons, none remain significant.")


def test_harm():
    said = finding(runs((0.4, 0.6), (0.5, 0.8))).splitlines()
    assert said[0].startswith(
        "Self-supervised pretraining hurt: of 2 comparisons, it was significantly better in none, "
    )
    assert "significantly worse in 2 (at 10 % and 100 % of the labels)" in said[0]
    assert said[2].startswith(
        "Labels lost by frozen: with 10 % as good as random with 10 % or less (interval"
    )


def test_gain_and_harm():
    said = finding(runs((0.7, 0.6), (0.5, 0.8))).splitlines()
    assert said[0].startswith("Self-supervised pretraining helped and hurt: ")
    assert "better in 1 (at 10 % of the labels), significantly worse in 1 (at 100 % of the labels)" in said[0]
    assert [line.split(":")[0] for line in said[2:4]] == ["Labels saved by frozen", "Labels lost by frozen"]


def test_no_difference():
    said = finding(runs((0.501, 0.6), (0.5, 0.6))).splitlines()
    assert said[0] == (
        "No significant difference found between self-supervised pretraining and training from scratch in 2 "
        "comparisons. With 3 pairs of runs, only a large difference can be significant."
    )
    assert said[1].startswith("frozen: no significant difference from random at 10 %")
    assert said[2] == "Labels saved by frozen: no significant difference found."


def test_validation_labels_are_told():
    records = [dict(run, validation_labels=40) for run in runs((0.6, 0.8), (0.4, 0.6))]
    assert "Not counted: up to 40 validation labels that runs used" in finding(records)
    assert "validation" not in finding(runs((0.6, 0.8), (0.4, 0.6)))


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
