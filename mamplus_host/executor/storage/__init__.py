# SPDX-License-Identifier: Apache-2.0
"""Where files lie and how they are kept from people: mounts, LUKS, fscrypt, boxes of quarantined files, wiping."""
