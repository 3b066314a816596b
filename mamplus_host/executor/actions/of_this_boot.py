# SPDX-License-Identifier: Apache-2.0
"""What all deeds on processes share: process ids and cgroups mean nothing after a restart of the device."""

from mamplus_host.executor.processes import tasks
from mamplus_host.executor.shape import Facts


def same_boot(facts: Facts) -> bool:
    """Say whether the device has not restarted since `prepare` wrote these facts."""
    return bool(facts["boot"] == tasks.boot_id())
