"""Requirements of every pretext task: it trains, evaluates deterministically, is saved and loaded."""

import json

import keras
import numpy as np
import pytest
import tiny
from keras import ops

import keras_ssl
from keras_ssl import PretextTask, SelfSupervisedModel
from keras_ssl.encoders import rematerialize
from keras_ssl.random import ReplaySeeds

TASKS = [
    getattr(keras_ssl, name)
    for name in keras_ssl.__all__
    if name.endswith("Task") and getattr(keras_ssl, name) is not PretextTask
]
FLAT, DEEP = (24, 24, 3), (18, 18, 18, 1)
# One of each kind: a transformation, patches, a decoder, views, masked tokens. JAX compiles longest: two.
IN_3D = [
    keras_ssl.RotationTask,
    keras_ssl.JigsawTask,
    keras_ssl.InpaintingTask,
    keras_ssl.SimCLRTask,
    keras_ssl.MAETask,
][:: 4 if keras.backend.backend() == "jax" else 1]
every_task = pytest.mark.parametrize("kind", TASKS, ids=lambda kind: kind.__name__)


def task_for(kind, shape=FLAT):
    """The task with its defaults; skipped where it raises that it has nothing to do on such images."""
    task = kind(value_range=(0, 1)) if kind is keras_ssl.ColorizationTask else kind()
    try:
        task.encoder_input_shape(shape)
    except ValueError as error:
        pytest.skip(f"refused: {error}")
    return task


def model_for(task, shape, change=lambda encoder: encoder):
    """A model on the smallest encoder that the task takes, or on what `change` makes of it."""
    encoder_shape = task.encoder_input_shape(shape)
    try:
        encoder = change(tiny.functional_encoder(encoder_shape))
        return SelfSupervisedModel(task, encoder, input_shape=shape, seed=0)
    except ValueError as error:
        if "token" not in str(error):
            raise
    encoder = keras_ssl.encoders.vit_encoder(
        encoder_shape, patch_size=6, embedding_dim=12, depth=1, mlp_ratio=2
    )
    return SelfSupervisedModel(task, encoder, input_shape=shape, seed=0)


@pytest.fixture
def half_precision():
    keras.config.set_dtype_policy("mixed_bfloat16")
    yield
    keras.config.set_dtype_policy("float32")


@pytest.mark.compiled
@pytest.mark.parametrize(
    ("kind", "shape"),
    [*((kind, FLAT) for kind in TASKS), *((kind, DEEP) for kind in IN_3D)],
    ids=lambda part: part.__name__ if isinstance(part, type) else f"{len(part) - 1}D",
)
def test_it_trains_in_half_precision_evaluates_alike_and_is_saved(kind, shape, half_precision, tmp_path):
    # Volumes with all that saves memory: gradients of two batches are added, feature maps computed again.
    saves_memory = shape == DEEP
    change = rematerialize if saves_memory else lambda encoder: encoder
    images, model = tiny.images(6, shape), model_for(task_for(kind, shape), shape, change)
    # Not batch statistics, which change without a gradient.
    before = [np.array(ops.convert_to_numpy(weight)) for weight in model.encoder.trainable_variables]
    optimizer = keras.optimizers.Adam(1e-2, gradient_accumulation_steps=2 if saves_memory else None)
    model.compile(optimizer, jit_compile=keras.backend.backend() == "jax")
    history = model.fit_pretext(images, batch_size=3, epochs=1, verbose=0).history
    assert np.isfinite(history["loss"]).all()
    assert tiny.differ(before, map(ops.convert_to_numpy, model.encoder.trainable_variables))

    first, again = (model.evaluate(images, batch_size=3, verbose=0, return_dict=True) for _ in range(2))
    assert first == again
    assert np.isfinite(list(first.values())).all()

    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    assert loaded.task == model.task
    tiny.assert_same(tiny.weights(model), tiny.weights(loaded))
    if keras.backend.backend() == "jax":
        return  # Everything would be compiled again.
    loaded.compile(run_eagerly=True)
    for name, value in loaded.evaluate(images, batch_size=3, verbose=0, return_dict=True).items():
        # Weights are equal; eager and traced arithmetic in bfloat16 differ in the third digit, and a
        # correlation over three images amplifies that.
        np.testing.assert_allclose(value, first[name], rtol=2e-2, atol=1e-2)


@every_task
def test_loss_of_float16_is_finite_float32(kind):
    model = model_for(task_for(kind, FLAT), FLAT)
    outputs = keras.tree.map_structure(np.asarray, model.predict_on_batch(tiny.images(3, FLAT)))
    # Labels stay integers.
    half = keras.tree.map_structure(lambda x: x.astype("float16") if x.dtype.kind == "f" else x, outputs)
    tensors = keras.tree.map_structure(ops.convert_to_tensor, half)
    loss = tiny.quick(lambda parts: model.task.compute_loss(**parts))(tensors)
    assert keras.backend.standardize_dtype(loss.dtype) == "float32"
    assert np.isfinite(ops.convert_to_numpy(loss)).all()


@pytest.mark.parametrize("shape", [FLAT, DEEP], ids=["2D", "3D"])
@every_task
def test_inputs_are_those_of_one_image_after_the_other(kind, shape):
    task = task_for(kind, shape)
    preprocess = tiny.quick(lambda images: task.preprocess(images, ReplaySeeds())[0])
    images = tiny.images(2, shape)
    inputs = preprocess(images)
    images = np.stack([images[0], 1 - images[1]])
    changed = preprocess(images)
    leaves = zip(keras.tree.flatten(inputs), keras.tree.flatten(changed), strict=True)
    for one, other in ((ops.convert_to_numpy(one), ops.convert_to_numpy(other)) for one, other in leaves):
        half = len(one) // 2
        np.testing.assert_array_equal(one[:half], other[:half])
        assert len(one) == 2 * half


@every_task
def test_too_few_images_for_a_batch_raise(kind):
    task = task_for(kind)
    if task.smallest_batch() > 1:
        with pytest.raises(
            ValueError, match=r"must be at least \d+, since the images of a batch are compared"
        ):
            model_for(task, FLAT).fit_pretext(tiny.images(1, FLAT), verbose=0, epochs=1)


@every_task
def test_it_is_compared_by_value_and_serialized(kind):
    task = task_for(kind)
    config = json.loads(json.dumps(keras.saving.serialize_keras_object(task)))
    assert keras.saving.deserialize_keras_object(config) == task
    assert hash(task) == hash(task_for(kind))
