# SPDX-License-Identifier: Apache-2.0
"""MAM+ host: the device's side. docs/architecture.md walks through it, one page a stage."""

__version__ = "0.1.0"
