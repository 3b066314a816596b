# SPDX-License-Identifier: Apache-2.0
"""Maintenance windows: for a while root may stop, trace and detach the agent, because the enterprise said so.

`code.py` what is read over the phone · `window.py` the window of this device, and which codes it has used.
docs/self-protection.md.
"""
