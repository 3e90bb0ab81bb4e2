"""Tasks that classify transformations: loss, chance loss, accuracy, any encoder."""

import numpy as np
import pytest
import tiny
from keras import ops

from keras_ssl import JigsawTask, RelativePatchTask, RotationTask, SelfSupervisedModel

TASKS = [(RotationTask(), 4), (JigsawTask(num_permutations=5), 5), (RelativePatchTask(), 8)]
every_task = pytest.mark.parametrize(("task", "classes"), TASKS, ids=["rotation", "jigsaw", "relative_patch"])
SHAPE = (24, 24, 3)


@every_task
def test_loss_and_metric_are_cross_entropy_and_accuracy(task, classes):
    rng = np.random.default_rng(0)
    logits, labels = rng.normal(size=(6, classes)), rng.integers(0, classes, size=6)
    expected = np.log(np.exp(logits).sum(axis=1)) - logits[np.arange(6), labels]
    loss = task.compute_loss(labels, logits.astype("float32"))
    np.testing.assert_allclose(ops.convert_to_numpy(loss), expected, rtol=1e-5)
    assert task.chance_loss(SHAPE) == pytest.approx(np.log(classes))
    (metric,) = task.build_metrics()
    metric.update_state(labels, logits)
    assert float(metric.result()) == pytest.approx(np.mean(logits.argmax(axis=1) == labels))


@every_task
def test_any_encoder_will_do(task, classes):
    for encoder in (tiny.sequential_encoder(task.encoder_input_shape(SHAPE)), tiny.SubclassedEncoder()):
        model = SelfSupervisedModel(task, encoder, input_shape=SHAPE, seed=0)
        assert model(tiny.images(2, SHAPE))["outputs"].shape == (2, classes)
