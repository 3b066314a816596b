# SPDX-License-Identifier: Apache-2.0
"""The benchmarks' own test says what the textbook says."""

import pytest

from bench.stats import compared, mann_whitney, summary


def test_samples_that_do_not_overlap_differ() -> None:
    first, second = [float(n) for n in range(1, 9)], [float(n) for n in range(9, 17)]

    # U = 0 of 64: z = (32 - 0.5) / sqrt(64 * 17 / 12) = 3.308
    assert mann_whitney(first, second) == pytest.approx(0.000939, rel=1e-3)


def test_ties_lower_the_variance() -> None:
    # U = 33.5 - 21 = 12.5, five ties of two: z = (5.5 - 0.5) / sqrt(36 / 12 * (13 - 30 / 132)) = 0.8077
    first, second = [1.0, 2.0, 3.0, 4.0, 5.0, 6.0], [2.0, 3.0, 4.0, 5.0, 6.0, 7.0]

    assert mann_whitney(first, second) == pytest.approx(0.4193, abs=1e-4)


def test_a_sample_does_not_differ_from_itself() -> None:
    assert mann_whitney([1.0, 2.0, 3.0], [3.0, 1.0, 2.0]) == 1.0
    assert mann_whitney([5.0, 5.0], [5.0, 5.0]) == 1.0


def test_the_order_of_the_samples_does_not_matter() -> None:
    first, second = [1.0, 4.0, 6.0, 7.0], [2.0, 3.0, 8.0, 9.0]

    assert mann_whitney(first, second) == mann_whitney(second, first)


def test_the_spread_is_the_quartiles() -> None:
    assert summary([1.0, 2.0, 3.0, 4.0, 5.0]) == {"median": 3.0, "quartile_1": 2.0, "quartile_3": 4.0, "repetitions": 5}


def test_the_ratio_is_to_the_peer() -> None:
    result = compared({"peer": [2.0, 2.0], "ours": [3.0, 3.0]}, peer="peer")

    assert (result["peer"]["ratio"], result["ours"]["ratio"]) == (1.0, 1.5)
