# SPDX-License-Identifier: Apache-2.0
"""Collector: turns ring bytes and file notifications into events, and keeps lineage facts."""
