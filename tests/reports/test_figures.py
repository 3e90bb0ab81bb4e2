"""Curves show the numbers of the records, as read back from the axes."""

import itertools

import numpy as np
import pytest
from records import FRACTIONS, failed, study

from keras_ssl.reports import plot_convergence, plot_label_efficiency
from keras_ssl.reports.figures import plot_history

pytestmark = pytest.mark.no_backend

ARMS = ["frozen", "initialized", "random"]
LABELS = ["pretrained, frozen", "pretrained, fine-tuned", "from scratch"]


@pytest.fixture(scope="module")
def records():
    return study()


def values(records, arm, fraction, name="qw_kappa"):
    return [run[name] for run in records if (run["arm"], run["fraction"]) == (arm, fraction)]


def test_label_efficiency_draws_mean_range_and_runs(records):
    axes = plot_label_efficiency(records[::-1]).axes[0]
    assert [line.get_label() for line in axes.lines] == LABELS
    drawn = zip(axes.lines, axes.collections[::2], axes.collections[1::2], ARMS, strict=True)
    for line, band, dots, arm in drawn:
        runs = [values(records, arm, fraction) for fraction in FRACTIONS]
        expected = [
            (100 * fraction, np.mean(kappas)) for fraction, kappas in zip(FRACTIONS, runs, strict=True)
        ]
        np.testing.assert_allclose(line.get_xydata(), expected)
        edges = band.get_paths()[0].vertices[:, 1]
        assert edges.min() == min(map(min, runs))
        assert edges.max() == max(map(max, runs))
        np.testing.assert_allclose(np.sort(dots.get_offsets()[:, 1]), np.sort(np.concatenate(runs)))


def test_failed_runs_are_left_out_and_arms_keep_their_color(records):
    colors = {line.get_label(): line.get_color() for line in plot_label_efficiency(records).axes[0].lines}
    without = [failed(run) if run["arm"] == "frozen" else run for run in records]
    axes = plot_label_efficiency(without).axes[0]
    assert {line.get_label(): line.get_color() for line in axes.lines} == {
        label: colors[label] for label in LABELS[1:]
    }


def test_records_may_be_text(records):
    text = [{key: str(value) for key, value in run.items() if not isinstance(value, list)} for run in records]
    drawn, expected = (plot_label_efficiency(given).axes[0].lines for given in (text, records))
    for line, other in zip(drawn, expected, strict=True):
        np.testing.assert_allclose(line.get_xydata(), other.get_xydata())


@pytest.mark.parametrize(
    "fractions", [FRACTIONS, (0.01, 0.05, 0.1, 0.25, 0.5, 0.9, 1.0), (0.2,), np.arange(1, 101) / 100]
)
def test_labels_of_the_fraction_axis_do_not_overlap(fractions):
    figure = plot_label_efficiency(
        [{"arm": "random", "fraction": value, "labels": 9, "qw_kappa": 0.5} for value in fractions]
    )
    figure.draw_without_rendering()
    axes = figure.axes[0]
    boxes = [tick.get_window_extent() for tick in axes.get_xticklabels() if tick.get_text()]
    assert axes.get_xticklabels()[-1].get_text() == f"{100 * max(fractions):g}"
    for left, right in itertools.pairwise(boxes):
        assert left.x1 < right.x0
    assert not any(tick.label1.get_text() for tick in axes.xaxis.get_minor_ticks())


def test_all_five_fractions_of_the_thesis_are_named(records):
    labels = plot_label_efficiency(records).axes[0].get_xticklabels()
    assert [label.get_text() for label in labels] == ["5", "10", "25", "50", "100"]


@pytest.mark.parametrize("metric", ["qw_kappa", "accuracy", "loss"])
def test_convergence_draws_runs_and_their_mean(records, metric):
    figure = plot_convergence(records, metric)
    assert [axes.get_title() for axes in figure.axes] == [
        f"{percentage} % of the labels" for percentage in (5, 10, 25, 50, 100)
    ]
    for axes, fraction in zip(figure.axes, FRACTIONS, strict=True):
        lines = iter(axes.lines)
        for arm, label in zip(ARMS, LABELS, strict=True):
            curves = values(records, arm, fraction, f"curve_{metric}")
            for curve in curves:
                np.testing.assert_allclose(next(lines).get_xydata(), np.c_[np.arange(1, 9) * 25, curve])
            mean = next(lines)
            assert mean.get_label() == label
            np.testing.assert_allclose(mean.get_ydata(), np.mean(curves, axis=0))
    rows = sorted({round(axes.get_position().y0, 2) for axes in figure.axes})
    assert len(rows) == 2, "five panels must be in rows of three"


def test_convergence_says_which_accuracy_and_on_which_images(records):
    said = plot_convergence(records, "accuracy").axes[0].get_ylabel()
    assert "fraction of correct grades" in said
    assert "validation images" in said


def test_mean_of_runs_watched_at_other_steps():
    runs = [
        {"arm": "random", "fraction": 1.0, "curve_steps": steps, "curve_loss": loss}
        for steps, loss in (([0, 10], [0.0, 1.0]), ([0, 5, 20], [1.0, 1.0, 7.0]))
    ]
    mean = plot_convergence(runs, "loss").axes[0].lines[-1]
    np.testing.assert_allclose(mean.get_xydata(), [(0, 0.5), (5, 0.75), (10, (1 + 3) / 2)])


def test_names_of_arms_are_not_formulas(records):
    strange = [run | {"arm": "$\\frac & <b>\x07"} for run in records if run["arm"] == "random"]
    for figure in (plot_label_efficiency(strange), plot_convergence(strange)):
        figure.draw_without_rendering()
        assert "frac" in figure.legends[0].texts[0].get_text()


def test_history_puts_validation_beside_training():
    loss, twin, accuracy = [1.4, 1.0, 0.8], [1.5, 1.2, 1.1], [0.3, 0.5, 0.6]
    figure = plot_history(
        {"rotation": {"loss": loss, "val_loss": twin, "accuracy": accuracy}, "jigsaw": {"loss": loss[:2]}}
    )
    assert [axes.get_ylabel() for axes in figure.axes] == [
        "loss of the pretext task",
        "accuracy of the pretext task",
    ]
    first, second, third = figure.axes[0].lines
    np.testing.assert_allclose(first.get_xydata(), [(1, 1.4), (2, 1.0), (3, 0.8)])
    np.testing.assert_allclose(second.get_ydata(), twin)
    assert first.get_color() == second.get_color() != third.get_color()
    assert second.get_label() == "rotation, validation"


def test_records_without_values_raise(records):
    with pytest.raises(ValueError, match="at least one"):
        plot_label_efficiency([failed(run) for run in records])
    with pytest.raises(ValueError, match=r"`curve_steps` and `curve_dice`"):
        plot_convergence(records, "dice")
    with pytest.raises(ValueError, match=r"at least one of \('loss', 'accuracy'\).*\['lr'\]"):
        plot_history({"rotation": {"lr": [1.0]}})
