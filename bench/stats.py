# SPDX-License-Identifier: Apache-2.0
"""Medians, spread, and whether two samples differ at all."""

import math
from collections import Counter
from statistics import NormalDist, median, quantiles
from typing import Any


def summary(values: list[float]) -> dict[str, float]:
    """Return median and quartiles; of one value they are that value, and `repetitions` says so."""
    low, _, high = quantiles(values, n=4, method="inclusive") if len(values) > 1 else values * 3
    return {"median": median(values), "quartile_1": low, "quartile_3": high, "repetitions": len(values)}


def mann_whitney(first: list[float], second: list[float]) -> float:
    """Return the two-sided p of the Mann-Whitney U test: normal approximation, ties corrected.

    Good from about eight values a side. 1.0 when all values are the same.
    """
    ranks = _ranks(first + second)
    n_1, n_2 = len(first), len(second)
    n = n_1 + n_2
    u = sum(ranks[value] for value in first) - n_1 * (n_1 + 1) / 2
    ties = sum(count**3 - count for count in Counter(first + second).values())
    variance = n_1 * n_2 / 12 * (n + 1 - ties / (n * (n - 1)))
    if variance == 0:
        return 1.0
    z = max(0.0, abs(u - n_1 * n_2 / 2) - 0.5) / math.sqrt(variance)
    return 2 * (1 - NormalDist().cdf(z))


def _ranks(values: list[float]) -> dict[float, float]:
    """Return the rank of each value, from 1; equal values share the mean of their ranks."""
    ranks, below = {}, 0
    for value, count in sorted(Counter(values).items()):
        ranks[value] = below + (count + 1) / 2
        below += count
    return ranks


def compared(values: dict[str, list[float]], *, peer: str) -> dict[str, dict[str, Any]]:
    """Return a summary of each series, with its ratio to `peer` and the p of their difference."""
    base = median(values[peer])
    result: dict[str, dict[str, Any]] = {}
    for name, series in values.items():
        result[name] = summary(series) | {"ratio": median(series) / base, "p": mann_whitney(series, values[peer])}
    return result
