# SPDX-License-Identifier: Apache-2.0
"""docs/protocol.md over HTTP."""
