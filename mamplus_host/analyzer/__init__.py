# SPDX-License-Identifier: Apache-2.0
"""Analyzer: events and facts in, decisions out; pure."""
