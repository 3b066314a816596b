# SPDX-License-Identifier: Apache-2.0
"""Protected files as the loop follows them: whose changes are kept, and who is stopped; `protecting` is the door."""
