# SPDX-License-Identifier: Apache-2.0
"""MAM+ enterprise: the company's side. docs/protocol.md is what it and the devices agreed on."""
