# SPDX-License-Identifier: Apache-2.0
"""The Black List Enterprise on the device: entries, file format, trust, update."""
