# SPDX-License-Identifier: Apache-2.0
"""Processes and their cgroups: what /proc says of them, and how they are stopped, held and ended."""
