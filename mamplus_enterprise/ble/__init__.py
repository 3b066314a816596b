# SPDX-License-Identifier: Apache-2.0
"""The list at its origin: written, imported, signed, published, carried."""
