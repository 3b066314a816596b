# SPDX-License-Identifier: Apache-2.0
"""The console: pages made here, which work without scripts."""
