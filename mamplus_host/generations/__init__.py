# SPDX-License-Identifier: Apache-2.0
"""From installed to in force: shadow load, swap, dead-man timer, age ladder; `generations` is the door."""
