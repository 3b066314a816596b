# SPDX-License-Identifier: Apache-2.0
"""For all tests: nothing timed is asserted, so hypothesis does not either."""

from hypothesis import settings

settings.register_profile("mamplus", deadline=None)
settings.load_profile("mamplus")
