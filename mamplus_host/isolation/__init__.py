# SPDX-License-Identifier: Apache-2.0
"""Isolation of the device as the loop follows it: who asks for it, and what ends it; the deed is actions/isolate."""
