# SPDX-License-Identifier: Apache-2.0
"""Golden copies of protected files; `vault` is the door, the others are its rooms."""
