# SPDX-License-Identifier: Apache-2.0
"""The company's memory: devices, tokens, entries, alerts, generations and who did what."""
