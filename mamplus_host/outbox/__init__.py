# SPDX-License-Identifier: Apache-2.0
"""What this device has to say to its enterprise: identity, spool, retry timing, client."""
