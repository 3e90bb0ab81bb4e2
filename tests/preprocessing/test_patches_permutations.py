"""Sets of permutations: distances computed apart, and all of them where they are few."""

import numpy as np
import pytest

from keras_ssl.preprocessing import hamming_permutations

FIRST_OF_27 = [7, 16, 26, 20, 19, 3, 21, 13, 22]


def least_distance(permutations):
    """Compare every two of them, and each with the order itself, place by place."""
    rows = [list(range(len(permutations[0]))), *permutations.tolist()]
    return min(
        sum(a != b for a, b in zip(one, other, strict=True))
        for number, one in enumerate(rows)
        for other in rows[:number]
    )


@pytest.mark.parametrize(("length", "least"), [(9, 6), (27, 24)])
@pytest.mark.parametrize("seed", [0, 1])
def test_a_hundred_are_as_far_apart_as_is_said(length, least, seed):
    permutations = hamming_permutations(length, 100, seed)
    assert permutations.shape == (100, length)
    np.testing.assert_array_equal(np.sort(permutations, axis=1), np.tile(np.arange(length), (100, 1)))
    assert least_distance(permutations) == least


def test_a_set_is_that_of_its_seed_and_cannot_be_changed():
    permutations = hamming_permutations(9, 10)
    again = hamming_permutations.__wrapped__(9, 10, 0)
    np.testing.assert_array_equal(permutations, again)
    assert not np.array_equal(permutations, hamming_permutations(9, 10, 1))
    # Written down once: the logits of saved networks stand for these.
    assert hamming_permutations(27, 2)[0, :9].tolist() == FIRST_OF_27
    with pytest.raises(ValueError, match="read-only"):
        permutations[0, 0] = 1


def test_all_but_the_order_itself_can_be_asked_for():
    permutations = hamming_permutations(4, 23).tolist()
    assert len({tuple(row) for row in permutations}) == 23
    assert [0, 1, 2, 3] not in permutations


@pytest.mark.parametrize("count", [1, 24])
def test_too_few_and_too_many_are_refused(count):
    with pytest.raises(ValueError, match=rf"`num_permutations` must be from 2 to 23.*Received {count}"):
        hamming_permutations(4, count)
