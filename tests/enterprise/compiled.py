# SPDX-License-Identifier: Apache-2.0
"""Imported by the process whose forks are the tests' commands: what every gate needs is compiled once."""

from mamplus_enterprise.ble.warninglists import compiled

compiled()
