# SPDX-License-Identifier: Apache-2.0
"""Benchmarks: each runs its peer beside it, in the same run, alternating. bench/README.md."""
