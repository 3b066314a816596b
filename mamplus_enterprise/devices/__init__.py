# SPDX-License-Identifier: Apache-2.0
"""Who may speak as a device: enrolment tokens, enrolment, signatures, what was last heard."""
