"""The teacher: the closed form of its averages, what it never does, and that it is saved with its model."""

import keras
import numpy as np
import pytest
import tiny
from keras import ops

from keras_ssl import BYOLTask, SelfSupervisedModel
from keras_ssl.layers import EMATeacher

MOMENTUM = 0.8


def student_of(*layers, shape=tiny.SHAPE):
    return keras.Sequential([keras.Input(shape), *layers])


def network_of(student, momentum=MOMENTUM):
    """A network that trains its student and asks its teacher, too."""
    images = student.inputs[0]
    teacher = EMATeacher(student, momentum, name="teacher")
    return keras.Model(images, {"student": student.outputs[0], "teacher": teacher(images)})


@pytest.mark.compiled
@pytest.mark.parametrize("run_eagerly", [False, True])
def test_after_n_steps_it_is_the_closed_form_of_the_moving_average(run_eagerly):
    images = tiny.images(6)
    student = tiny.functional_encoder()
    network = network_of(student)
    network.compile(
        keras.optimizers.SGD(0.1),
        loss={"student": "mean_squared_error", "teacher": None},
        run_eagerly=run_eagerly,
        jit_compile=not run_eagerly and keras.backend.backend() == "jax",
    )
    targets = {"student": np.ones((6, 4, 4, 4), "float32")}
    before = [tiny.weights(student)]
    for _ in range(4):
        network.fit(images, targets, batch_size=6, verbose=0)
        before.append(tiny.weights(student))
    assert tiny.differ(before[0], before[-1])
    average = tiny.weights(network.get_layer("teacher").average)
    for place, variable in enumerate(student.weights):
        expected = before[4][place]
        if variable.trainable:
            # Of the weights as they were before each step.
            expected = MOMENTUM**4 * before[0][place] + (1 - MOMENTUM) * sum(
                MOMENTUM ** (3 - step) * before[step][place] for step in range(4)
            )
        np.testing.assert_allclose(average[place], expected, rtol=1e-5, atol=1e-7)


def test_averages_are_float32_under_mixed_precision_and_small_moves_are_not_lost():
    keras.config.set_dtype_policy("mixed_float16")
    try:
        student = student_of(keras.layers.Dense(2, kernel_initializer="ones"), shape=(2,))
        network = network_of(student, momentum=0.999)
        student.layers[0].kernel.assign(np.full((2, 2), 1.001))
        outputs = network(np.ones((1, 2), "float32"), training=True)
    finally:
        keras.config.set_dtype_policy("float32")
    average = network.get_layer("teacher").average
    assert {variable.dtype for variable in average.variables} == {"float32"}
    # In half precision the number after 1 is 1.001.
    np.testing.assert_allclose(average.get_weights()[0] - 1, 1e-6, rtol=0.1)
    assert keras.backend.standardize_dtype(outputs["teacher"].dtype) == "float16"


def test_nothing_of_it_is_trainable_and_the_student_stays_as_it_was():
    frozen = keras.layers.Dense(3, trainable=False)
    student = student_of(frozen, keras.layers.Dense(2, kernel_regularizer="l2"), shape=(4,))
    network = network_of(student)
    teacher = network.get_layer("teacher")
    assert not teacher.trainable_variables
    assert len(teacher.non_trainable_variables) == 4
    assert not keras.Model(network.inputs, network.outputs[1]).trainable_variables
    assert [layer.trainable for layer in student.layers] == [False, True]
    assert len(network.trainable_variables) == 2
    # What its weights weigh is no loss.
    assert len(network.losses) == 1


@pytest.mark.filterwarnings("ignore:Gradients do not exist")
def test_no_gradient_passes():
    inputs = keras.Input((3,))
    hidden = keras.layers.Dense(4, name="before")(inputs)
    outputs = EMATeacher(student_of(keras.layers.Dense(2), shape=(4,)), MOMENTUM)(hidden)
    model = keras.Model(inputs, outputs + keras.layers.Dense(1, name="beside")(inputs))
    model.compile(keras.optimizers.SGD(1.0), "mean_squared_error")
    before = {name: tiny.weights(model.get_layer(name)) for name in ("before", "beside")}
    model.fit(np.ones((2, 3)), np.ones((2, 2)), verbose=0)
    tiny.assert_same(before["before"], tiny.weights(model.get_layer("before")))
    assert tiny.differ(before["beside"], tiny.weights(model.get_layer("beside")))


def test_dropout_is_off_and_batch_statistics_are_not_used():
    student = student_of(
        keras.layers.Conv2D(4, 3), keras.layers.BatchNormalization(), keras.layers.Dropout(0.5)
    )
    images = tiny.images(6)
    for _ in range(3):
        student(images, training=True)
    teacher = EMATeacher(student, momentum=1.0)
    expected = ops.convert_to_numpy(student(images, training=False))
    answers = ops.convert_to_numpy(teacher(images, training=True))
    np.testing.assert_allclose(answers, expected, rtol=1e-6)
    alone = ops.convert_to_numpy(teacher(images[:1], training=True))
    np.testing.assert_allclose(alone, expected[:1], rtol=1e-4, atol=1e-6)


def test_batch_statistics_are_those_of_the_batch_in_training_alone():
    student = student_of(keras.layers.Conv2D(4, 3), keras.layers.BatchNormalization())
    images = tiny.images(6)
    teacher = EMATeacher(student, momentum=1.0, batch_statistics=True)
    expected = ops.convert_to_numpy(student(images, training=False))
    np.testing.assert_allclose(ops.convert_to_numpy(teacher(images)), expected, rtol=1e-5, atol=1e-6)
    answers = ops.convert_to_numpy(teacher(images, training=True))
    np.testing.assert_allclose(answers.mean(axis=(0, 1, 2)), 0, atol=1e-5)
    assert not teacher.trainable_variables


def test_outside_training_it_stays():
    student = student_of(keras.layers.Dense(2), shape=(4,))
    teacher = EMATeacher(student, MOMENTUM)
    before = tiny.weights(teacher)
    student.layers[0].kernel.assign(np.ones((4, 2)))
    teacher(np.ones((1, 4), "float32"))
    tiny.assert_same(before, tiny.weights(teacher))
    teacher(np.ones((1, 4), "float32"), training=True)
    assert tiny.differ(before, tiny.weights(teacher))


def test_an_adapted_normalization_and_its_count_come_along():
    images = 100 * tiny.images(6)
    normalization = keras.layers.Normalization()
    normalization.adapt(images)
    student = student_of(normalization, keras.layers.Conv2D(2, 3))
    teacher = EMATeacher(student, MOMENTUM)
    expected = ops.convert_to_numpy(student(images))
    for training in (False, True):
        answers = ops.convert_to_numpy(teacher(images, training=training))
        np.testing.assert_allclose(answers, expected, rtol=1e-4, atol=1e-5)
    tiny.assert_same(tiny.weights(normalization), tiny.weights(teacher.average.layers[0]))


ENCODERS = {
    "functional": tiny.functional_encoder,
    "subclassed": tiny.SubclassedEncoder,
    "unbuilt sequential": lambda: keras.Sequential(
        [keras.layers.Conv2D(4, 3), keras.layers.BatchNormalization(), keras.layers.Dropout(0.3)]
    ),
}


@pytest.mark.compiled
@pytest.mark.parametrize("kind", ENCODERS)
def test_it_is_saved_and_loaded_with_its_model_and_follows_the_loaded_student(kind, tmp_path):
    task = BYOLTask(momentum=MOMENTUM, hidden_units=(4,), projection_dim=3)
    model = SelfSupervisedModel(task, ENCODERS[kind](), input_shape=tiny.SHAPE, seed=0)
    model.compile(keras.optimizers.SGD(0.1), jit_compile=keras.backend.backend() == "jax")
    model.fit_pretext(tiny.images(6), batch_size=3, epochs=2, verbose=0)
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    tiny.assert_same(tiny.weights(model), tiny.weights(loaded))
    images = tiny.images(4, seed=1)
    answers = zip(*(keras.tree.flatten(each.network(images)) for each in (model, loaded)), strict=True)
    for one, other in answers:
        one, other = ops.convert_to_numpy(one), ops.convert_to_numpy(other)
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-6)
    average = loaded.network.get_layer("teacher").average
    kernel, kernels = tiny.weights(loaded.encoder)[0], [tiny.weights(average)[0]]
    # At the end of a run the teacher moves no more.
    loaded.clock.start(None)
    loaded.network(images, training=True)
    kernels.append(tiny.weights(average)[0])
    assert tiny.differ(*([values] for values in kernels))
    expected = MOMENTUM * kernels[0] + (1 - MOMENTUM) * kernel
    np.testing.assert_allclose(kernels[1], expected, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("momentum", [-0.1, 1.1, float("nan")])
def test_momentum_out_of_range_is_refused(momentum):
    with pytest.raises(ValueError, match=r"`momentum` must be within 0 and 1\. Received"):
        EMATeacher(student_of(keras.layers.Dense(2), shape=(4,)), momentum)
