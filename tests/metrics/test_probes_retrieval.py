"""Which queries find their own key: against NumPy, and none where all are alike."""

import numpy as np
from keras import ops

from keras_ssl.metrics.probes import nearest_is_own

RNG = np.random.default_rng(0)


def test_it_is_the_least_distance_between_unit_vectors():
    queries = RNG.normal(size=(40, 3))
    keys = queries + 0.5 * RNG.normal(size=(40, 3))
    directions = [vectors / np.linalg.norm(vectors, axis=1, keepdims=True) for vectors in (queries, keys)]
    distances = np.linalg.norm(directions[0][:, None] - directions[1], axis=-1)
    expected = distances.argmin(axis=1) == np.arange(40)
    assert 0 < expected.sum() < 40
    found = nearest_is_own(queries.astype("float32"), keys.astype("float32"))
    np.testing.assert_array_equal(ops.convert_to_numpy(found), expected.astype("float32"))


def test_of_vectors_that_are_all_alike_none_is_found():
    found = nearest_is_own(np.ones((4, 3), "float32"), np.ones((4, 3), "float32"))
    assert not ops.convert_to_numpy(found).any()
