# SPDX-License-Identifier: Apache-2.0
"""The local socket through which the command line talks to the agent."""
