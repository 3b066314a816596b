# SPDX-License-Identifier: Apache-2.0
"""Parsers of feeds, a file each: text in, values or the reason why there are none out. No clock, no database."""
