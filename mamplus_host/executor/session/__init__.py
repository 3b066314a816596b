# SPDX-License-Identifier: Apache-2.0
"""Who sits at this device, and the D-Bus through which they are told, their screens locked and radios switched."""
