# SPDX-License-Identifier: Apache-2.0
"""Escalations: taken in once, shown, answered."""
