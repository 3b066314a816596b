# SPDX-License-Identifier: Apache-2.0
"""The listening port: TLS and, for development on loopback, plain HTTP beside it."""
