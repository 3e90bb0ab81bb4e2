"""Figures show the numbers they are given: read back from the axes."""

import numpy as np
import pytest

from keras_ssl.reports import plot_confusion, plot_convergence, plot_label_efficiency, plot_pretext

RECORDS = [
    {"arm": arm, "fraction": fraction, "labels": 10, "qwk": value + fraction}
    for arm, value in (("initialized", 0.2), ("random", 0.1))
    for fraction in (0.1, 1.0)
]


@pytest.fixture(autouse=True)
def closed():
    yield
    import matplotlib.pyplot as plt

    plt.close("all")


def test_label_efficiency_draws_each_arm():
    axes = plot_label_efficiency(RECORDS).axes[0]
    lines = {line.get_label(): line for line in axes.lines}
    assert set(lines) == {"initialized", "random"}
    np.testing.assert_allclose(lines["random"].get_xydata(), [(10, 0.2), (100, 1.1)])


def test_convergence_draws_each_run_and_their_mean():
    figure = plot_convergence({("random", 0.1): [[0.1, 0.3], [0.3, 0.5]]})
    drawn = [line.get_ydata().tolist() for line in figure.axes[0].lines]
    assert drawn[:2] == [[0.1, 0.3], [0.3, 0.5]]
    assert drawn[2] == pytest.approx([0.2, 0.4])


def test_confusion_writes_the_counts():
    figure = plot_confusion({"arm": [[5, 1], [0, 3]]}, ["none", "some"])
    assert [text.get_text() for text in figure.axes[0].texts] == ["5", "1", "0", "3"]


@pytest.mark.parametrize("channels", [1, 3])
def test_pretext_draws_pairs(channels):
    images = np.random.default_rng(0).uniform(0, 255, (2, 4, 4, channels))
    assert len(plot_pretext(images, images - 100, ["0", "90"]).axes) == 4


def test_nothing_to_draw_is_refused():
    for draw in (plot_label_efficiency, plot_convergence):
        with pytest.raises(ValueError, match="at least one"):
            draw({})
    with pytest.raises(ValueError, match="at least one matrix"):
        plot_confusion({}, ["a"])
    with pytest.raises(ValueError, match=r"\(3, 3\)"):
        plot_confusion({"arm": [[1, 0], [0, 1]]}, ["a", "b", "c"])
