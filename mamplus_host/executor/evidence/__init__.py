# SPDX-License-Identifier: Apache-2.0
"""What the enterprise is shown: the picture in every escalation, and the sealed snapshot of actions/evidence."""
