"""DINO's loss, Sinkhorn's assignment and what assignments tell, against NumPy."""

import numpy as np
import pytest
from keras import ops

from keras_ssl.losses import assignment_information, dino, sinkhorn

RNG = np.random.default_rng(0)


@pytest.mark.parametrize("views", [2, 5])
def test_dino_is_the_cross_entropy_of_pairs_of_different_views(views):
    logits = RNG.normal(size=(3, views, 7)).astype("float32")
    assignments = RNG.dirichlet(np.ones(7), (3, 2)).astype("float32")
    expected = []
    for image in range(3):
        terms = []
        for seen in range(2):
            for view in range(views):
                if view != seen:
                    powers = np.exp(logits[image, view].astype("float64") / 0.2)
                    terms.append(-np.sum(assignments[image, seen] * np.log(powers / powers.sum())))
        expected.append(np.mean(terms))
    loss = ops.convert_to_numpy(dino(logits, assignments, 0.2))
    np.testing.assert_allclose(loss, expected, rtol=1e-5)


def test_sinkhorn_is_numpys():
    logits = RNG.normal(size=(6, 4)).astype("float32")
    shares = np.exp(logits.astype("float64") / 0.5)
    for _ in range(3):
        shares /= shares.sum(axis=0)
        shares /= shares.sum(axis=1, keepdims=True)
    ours = ops.convert_to_numpy(sinkhorn(logits, 0.5, 3))
    np.testing.assert_allclose(ours, shares, rtol=1e-5)


def test_sinkhorn_shares_prototypes_out():
    # All views prefer the first prototype, by far more than exponentials in float32 could say.
    logits = RNG.normal(size=(8, 4)).astype("float32")
    logits[:, 0] += 30
    shares = ops.convert_to_numpy(sinkhorn(logits, 0.1, 30))
    np.testing.assert_allclose(shares.sum(axis=1), 1, rtol=1e-4)
    np.testing.assert_allclose(shares.sum(axis=0), 2, rtol=0.2)


def test_information_is_0_in_a_collapse_and_the_logarithm_where_images_are_told_apart():
    rows = np.eye(4)[:, None].repeat(2, axis=1)
    one, even = np.eye(4)[[0] * 8].reshape(4, 2, 4), np.full((4, 2, 4), 0.25)
    told = [ops.convert_to_numpy(assignment_information(shares)) for shares in (one, even, rows)]
    np.testing.assert_allclose(told, np.outer([0, 0, np.log(4)], np.ones(4)), atol=1e-6)


def test_information_is_that_of_numpy():
    shares = RNG.dirichlet(np.ones(5), (6, 2))
    own = shares.mean(axis=1)
    joint = own / 6
    expected = np.sum(joint * np.log(joint / np.outer(joint.sum(axis=1), joint.sum(axis=0))))
    ours = ops.convert_to_numpy(assignment_information(shares.astype("float32")))
    assert ours.shape == (6,)
    np.testing.assert_allclose(ours.mean(), expected, rtol=1e-5)
