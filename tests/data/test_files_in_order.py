"""Jobs in threads, of which few wait."""

from concurrent.futures import ThreadPoolExecutor

import pytest

from keras_ssl.data.files import in_order

pytestmark = pytest.mark.no_backend


def test_results_come_in_order_and_items_are_taken_as_they_are_needed():
    taken = []

    def items():
        for item in range(2000):
            taken.append(item)
            yield item

    with ThreadPoolExecutor(3) as executor:
        results = in_order(executor, lambda item: 2 * item, items())
        assert next(results) == 0
        assert len(taken) < 300
        assert list(results) == list(range(2, 4000, 2))
    assert list(in_order(executor, str, [])) == []


def test_an_error_is_raised_where_its_item_stands():
    with ThreadPoolExecutor(2) as executor:
        results = in_order(executor, lambda item: 1 / item, [2, 0])
        assert next(results) == 0.5
        with pytest.raises(ZeroDivisionError):
            next(results)
