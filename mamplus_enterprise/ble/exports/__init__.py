# SPDX-License-Identifier: Apache-2.0
"""The list for other tools, a file each: entries in, lines out. What a tool cannot say is left out and counted."""
