"""Tasks of two views: views of an image next to each other, no targets, augmentations by default."""

import numpy as np
import pytest
import tiny
from keras import ops

from keras_ssl import tasks
from keras_ssl.preprocessing import color_views, fundus_views
from keras_ssl.random import ReplaySeeds
from keras_ssl.tasks._two_views import TwoViewTask

TASKS = [kind for name in tasks.__all__ if issubclass(kind := getattr(tasks, name), TwoViewTask)]
every_task = pytest.mark.parametrize("kind", TASKS, ids=lambda kind: kind.__name__)


@every_task
def test_views_of_an_image_are_next_to_each_other_without_targets(kind):
    images = tiny.images(4, (12, 12, 3))
    views, targets = kind(views=lambda images, seed: images).preprocess(images, ReplaySeeds())
    np.testing.assert_array_equal(ops.convert_to_numpy(views), np.repeat(images, 2, axis=0))
    assert targets == {}


@every_task
def test_views_differ_and_are_by_default_those_of_color_images(kind):
    images = np.repeat(tiny.images(1, (12, 12, 3)), 3, axis=0)
    views, named = (
        ops.convert_to_numpy(task.preprocess(images, ReplaySeeds())[0])
        for task in (kind(), kind(views=color_views()))
    )
    assert len({view.tobytes() for view in views}) == 6
    np.testing.assert_array_equal(views, named)


@every_task
def test_the_choice_of_views_is_described(kind):
    assert kind().notes((12, 12, 3)) == [
        "Views: color_views(), chosen for RGB images; for fundus photographs pass views=fundus_views()."
    ]
    assert kind(views=fundus_views()).notes((12, 12, 3)) == []


def test_smallest_batch():
    smallest = {kind.__name__: kind().smallest_batch() for kind in TASKS}
    assert smallest == {kind.__name__: 1 + (kind is not tasks.MoCoTask) for kind in TASKS}
