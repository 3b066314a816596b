# SPDX-License-Identifier: Apache-2.0
"""The whole loop, played with real programs and sockets: `make run`."""
