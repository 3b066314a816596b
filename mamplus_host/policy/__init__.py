# SPDX-License-Identifier: Apache-2.0
"""The signed policy, as docs/policy.md has it: `policy` is the whole, the others are its fields."""
