"""The summary agrees with the intervals, also without any gain."""

import numpy as np
import pytest
from records import failed, study

from keras_ssl.evaluation import paired_differences
from keras_ssl.reports import summary_text
from keras_ssl.reports.summary import gains_of_pretraining

pytestmark = pytest.mark.no_backend

NOISE = (0.0, 0.01, -0.01)


def runs(frozen, random, fractions=(0.1, 1.0), noise=NOISE):
    return [
        {
            "arm": arm,
            "fraction": fraction,
            "labels": 9,
            "repetition": number,
            "qw_kappa": kappa + own * offset,
        }
        for arm, kappas, own in (("frozen", frozen, 1), ("random", random, -0.1))
        for fraction, kappa in zip(fractions, kappas, strict=True)
        for number, offset in enumerate(noise)
    ]


def test_gain():
    lines = summary_text(runs((0.6, 0.8), (0.4, 0.6))).splitlines()
    assert lines[0].startswith("Self-supervised pretraining helped: of 2 comparisons")
    assert "better in 2 (at 10 % and 100 % of the labels), significantly worse in none" in lines[0]
    assert "correction for 2 comparisons, 2 remain significant" in lines[0]
    assert "10 % (+0.200, interval +0.173 to +0.227) and 100 %" in lines[1]
    assert lines[1].startswith("pretrained, frozen: better than training from scratch at")
    assert "with 10 % as good as training from scratch with 100 % (interval 10 % to not reached)" in lines[2]
    assert "with 100 % better than training from scratch with any measured fraction" in lines[2]


@pytest.mark.parametrize("size", [0.004, 0.007, 0.01, 0.013, 0.2])
def test_losses_follow_the_rule_of_gains(size):
    """The same values with the names of arm and baseline exchanged: "hurt" wherever it was "helped"."""
    kinder = runs((0.5 + size, 0.7 + size), (0.5, 0.7), noise=(0.0, 0.01, -0.01, 0.004))
    other = {"frozen": "random", "random": "frozen"}
    gain, loss = summary_text(kinder), summary_text([{**run, "arm": other[run["arm"]]} for run in kinder])
    for good, bad in (("may have helped", "may have hurt"), (" helped", " hurt"), ("saved by", "lost by")):
        assert (good in gain) == (bad in loss) or "Labels saved by pretrained, frozen: no" in loss
        assert bad not in gain
    assert ("No significant difference" in gain) == ("No significant difference" in loss)
    assert gain.splitlines()[0].split("After")[1:] == loss.splitlines()[0].split("After")[1:]


def test_nominal_gains_and_losses_may_have_helped_and_hurt():
    """Of five comparisons one is significant by itself, and not after the correction."""
    fractions = (0.1, 0.2, 0.3, 0.5, 1.0)
    for sign, word in ((1, "helped"), (-1, "hurt")):
        means = [0.5 + sign * 0.03, *[0.5] * 4]
        said = summary_text(runs(means, [0.5] * 5, fractions)).splitlines()[0]
        assert said.startswith(f"Self-supervised pretraining may have {word}: of 5 comparisons")
        assert said.endswith("After Bonferroni correction for 5 comparisons, none remain significant.")


def test_harm():
    lines = summary_text(runs((0.4, 0.6), (0.5, 0.8))).splitlines()
    assert lines[0].startswith("Self-supervised pretraining hurt: of 2 comparisons")
    assert "better in none, significantly worse in 2 (at 10 % and 100 % of the labels)" in lines[0]
    assert lines[2].startswith("Labels lost by pretrained, frozen: with 10 % as good as")
    assert "with 10 % or less (interval" in lines[2]


def test_gain_and_harm():
    lines = summary_text(runs((0.7, 0.6), (0.5, 0.8))).splitlines()
    assert lines[0].startswith("Self-supervised pretraining helped and hurt: ")
    assert (
        "better in 1 (at 10 % of the labels), significantly worse in 1 (at 100 % of the labels)" in lines[0]
    )
    assert [line.split(" by")[0] for line in lines[2:4]] == ["Labels saved", "Labels lost"]


def test_no_difference():
    lines = summary_text(runs((0.501, 0.6), (0.5, 0.6))).splitlines()
    assert lines[0].startswith("No significant difference found")
    assert "With 3 pairs of runs" in lines[0]
    assert "no significant difference from training from scratch at 10 %" in lines[1]
    assert lines[2] == "Labels saved by pretrained, frozen: no significant difference found."


def test_validation_labels_are_counted():
    records = [dict(run, validation_labels=40) for run in runs((0.6, 0.8), (0.4, 0.6))]
    assert "Not counted: up to 40 validation labels that runs used" in summary_text(records)
    assert "validation" not in summary_text(runs((0.6, 0.8), (0.4, 0.6)))


@pytest.mark.parametrize("noise", [(0.0,), ()])
def test_too_few_runs(noise):
    if not noise:
        with pytest.raises(ValueError, match="at least one completed run"):
            summary_text(runs((0.6, 0.8), (0.4, 0.6), noise=noise))
        return
    said = summary_text(runs((0.6, 0.8), (0.4, 0.6), noise=noise)).splitlines()
    assert said[0].startswith("Too few runs")
    assert said[2] == "Labels saved by pretrained, frozen: too few runs to compare."


def test_other_arms_are_not_called_self_supervised():
    records = study(arms=("imagenet", "random"))
    said = summary_text(records)
    assert "Self-supervised" not in said
    assert said.startswith("ImageNet, fine-tuned: ")


def test_pretraining_from_given_weights_is_judged_against_these_weights():
    records = study(arms=("imagenet", "imagenet+rotation", "random"), repetitions=5)
    said = summary_text(records).splitlines()
    assert said[0].startswith("Self-supervised pretraining helped: of 5 comparisons")
    lines = [line for line in said if line.startswith("ImageNet + rotation, fine-tuned: ")]
    assert [line.split(" than ")[1].split(" at ")[0] for line in lines] == [
        "training from scratch",
        "ImageNet, fine-tuned",
    ]
    rows = gains_of_pretraining(records)
    assert {row["arm"] for row in rows} == {"initialized (imagenet+rotation)"}
    own, start = (
        {(r["repetition"], r["fraction"]): r["qw_kappa"] for r in records if r["task"] == task}
        for task in ("imagenet+rotation", "imagenet")
    )
    for row in rows:
        differences = [own[key] - start[key] for key in own if key[1] == row["fraction"]]
        assert row["mean"] == pytest.approx(np.mean(differences))


def test_nothing_to_compare_with():
    records = study()
    assert 'No run of the arm "from scratch" completed' in summary_text(
        [failed(run) if run["arm"] == "random" else run for run in records]
    )
    assert "nothing to compare it with" in summary_text([run for run in records if run["arm"] == "random"])
    assert summary_text(records + records).startswith(
        "Paired differences cannot be computed: `records` must hold one"
    )


def test_failed_runs_are_counted():
    records = study()
    records[3] = failed(records[3])
    assert summary_text(records).splitlines()[-1].startswith("1 of 45 runs failed")


def test_labels_are_saved_only_where_the_arm_is_shown_to_be_better():
    records = study()
    rows = [row for row in paired_differences(records) if row["arm"] == "frozen"]
    unsure = [f"with {100 * row['fraction']:g} %" for row in rows if row["low"] <= 0]
    assert unsure
    saved = next(
        line
        for line in summary_text(records).splitlines()
        if line.startswith("Labels saved by pretrained, frozen")
    )
    assert not any(f"{share} as good" in saved or f"{share} better" in saved for share in unsure)
