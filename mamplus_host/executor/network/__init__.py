# SPDX-License-Identifier: Apache-2.0
"""What keeps the network as it was decided: our rules and their helpers, what actions refuse, connections, roads."""
