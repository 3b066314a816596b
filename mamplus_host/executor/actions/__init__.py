# SPDX-License-Identifier: Apache-2.0
"""What the executor can do: one file a deed, all of the shape in `executor/shape.py`."""
