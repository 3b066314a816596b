# SPDX-License-Identifier: Apache-2.0
"""The only package that touches BPF: features, objects, pins, tables, ring, responder."""
