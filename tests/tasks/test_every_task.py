"""What every pretext task promises: it trains in 2D and 3D, evaluates alike twice, is saved and loaded."""

import json
from pathlib import Path

import keras
import numpy as np
import pytest
import tiny
from keras import ops

import keras_ssl
from keras_ssl import PretextTask, ReplaySeeds, SelfSupervisedModel
from keras_ssl.encoders import rematerialize

TASKS = [
    getattr(keras_ssl, name)
    for name in keras_ssl.__all__
    if name.endswith("Task") and getattr(keras_ssl, name) is not PretextTask
]
SHAPES = [(24, 24, 3), (18, 18, 18, 1)]
ROOT = Path(__file__).parents[2]


def task_for(kind, shape):
    """The task with its defaults; left out where it says that it has nothing to do on such images."""
    task = kind(value_range=(0, 1)) if kind is keras_ssl.ColorizationTask else kind()
    try:
        task.encoder_input_shape(shape)
    except ValueError as error:
        pytest.skip(f"refused: {error}")
    return task


def model_for(task, shape, change=lambda encoder: encoder):
    """A model on the smallest encoder that the task takes, or on what `change` makes of it."""
    encoder_shape = task.encoder_input_shape(shape)
    keras.utils.set_random_seed(0)
    convolutional = change(tiny.functional_encoder(encoder_shape))
    try:
        return SelfSupervisedModel(task, convolutional, input_shape=shape, seed=0)
    except ValueError as error:
        if "token" not in str(error):
            raise
    encoder = keras_ssl.encoders.vit_encoder(
        encoder_shape, patch_size=6, embedding_dim=12, depth=1, mlp_ratio=2
    )
    return SelfSupervisedModel(task, encoder, input_shape=shape, seed=0)


def trained_weights(model):
    # Not batch statistics, which change without a gradient.
    return [np.array(ops.convert_to_numpy(variable)) for variable in model.encoder.trainable_variables]


every_task = pytest.mark.parametrize("kind", TASKS, ids=lambda kind: kind.__name__)
every_shape = pytest.mark.parametrize("shape", SHAPES, ids=["2D", "3D"])


@every_shape
@every_task
def test_it_trains_evaluates_alike_twice_and_is_saved(kind, shape, tmp_path):
    model, images = model_for(task_for(kind, shape), shape), tiny.images(6, shape)
    before = tiny.weights(model.encoder)
    model.compile(keras.optimizers.Adam(1e-2), jit_compile=keras.backend.backend() == "jax")
    history = model.fit_pretext(images, batch_size=3, epochs=1, verbose=0).history
    assert np.isfinite(history["loss"]).all()
    assert tiny.differ(before, tiny.weights(model.encoder))
    first, again = (model.evaluate(images, batch_size=3, verbose=0, return_dict=True) for _ in range(2))
    assert first == again
    assert np.isfinite(list(first.values())).all()
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    assert loaded.task == model.task
    tiny.assert_same(tiny.weights(model), tiny.weights(loaded))
    loaded.compile(jit_compile=False)
    for name, value in loaded.evaluate(images, batch_size=3, verbose=0, return_dict=True).items():
        np.testing.assert_allclose(value, first[name], rtol=1e-4, atol=1e-5)


@every_shape
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


@pytest.mark.parametrize("policy", ["mixed_bfloat16", "mixed_float16"])
@every_task
def test_it_trains_with_half_the_memory(kind, policy):
    # In half precision, with gradients of two batches added up, and feature maps computed again.
    if (keras.backend.backend(), policy, kind.__name__) == ("jax", "mixed_float16", "MAETask"):
        pytest.skip("JAX has no float16 attention on a processor")
    images = tiny.images(8, SHAPES[0])
    keras.config.set_dtype_policy(policy)
    try:
        model = model_for(task_for(kind, SHAPES[0]), SHAPES[0], rematerialize)
    finally:
        keras.config.set_dtype_policy("float32")
    optimizer = keras.optimizers.Adam(1e-2, gradient_accumulation_steps=2)
    if policy == "mixed_float16":
        # Smaller than Keras' own, which is halved in the first steps until nothing overflows.
        optimizer = keras.optimizers.LossScaleOptimizer(optimizer, initial_scale=2.0)
    model.compile(optimizer, jit_compile=keras.backend.backend() == "jax")
    before = trained_weights(model)
    history = model.fit_pretext(images, batch_size=2, epochs=1, verbose=0).history
    assert np.isfinite(history["loss"]).all()
    assert tiny.differ(before, trained_weights(model))
    # Loss and what it is made of are float32.
    outputs = model.predict_on_batch(images[:2])
    loss = model.task.compute_loss(**keras.tree.map_structure(ops.convert_to_tensor, outputs))
    assert keras.backend.standardize_dtype(loss.dtype) == "float32"


@every_task
def test_too_few_images_for_a_batch_are_refused_and_a_small_rest_is_passed_over(kind):
    task = task_for(kind, SHAPES[0])
    if task.smallest_batch() == 1:
        return
    model = model_for(task, SHAPES[0])
    with pytest.raises(ValueError, match=r"must be at least \d+, since the images of a batch are compared"):
        model.fit_pretext(tiny.images(1, SHAPES[0]), verbose=0)


@every_task
def test_it_is_compared_by_value_and_comes_back_from_json(kind):
    task = task_for(kind, SHAPES[0])
    config = json.loads(json.dumps(keras.saving.serialize_keras_object(task)))
    assert keras.saving.deserialize_keras_object(config) == task
    assert hash(task) == hash(task_for(kind, SHAPES[0]))


@every_task
def test_it_is_one_short_file_with_a_test_a_line_in_init_and_a_line_in_the_docs(kind):
    module = kind.__module__.rpartition(".")[2]
    file = ROOT / "keras_ssl" / "tasks" / f"{module}.py"
    assert len(file.read_text().splitlines()) <= 150
    assert (ROOT / "tests" / "tasks" / f"test_{module}.py").exists()
    assert f"   {kind.__name__}\n" in (ROOT / "docs" / "api.md").read_text()
    # The paper or papers that it follows.
    assert "References:" in kind.__doc__
