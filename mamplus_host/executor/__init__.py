# SPDX-License-Identifier: Apache-2.0
"""Carries out what the analyzer decided; every action has a journal line, and an inverse or a word that it has none."""
