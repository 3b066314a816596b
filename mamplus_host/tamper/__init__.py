# SPDX-License-Identifier: Apache-2.0
"""Notices what is done to the agent, its responder, and what they have in the kernel; puts back what can be.

Journey: kernel, /proc, bpffs -> [tamper] -> pipeline, as `Tamper` events.

Where the kernel has BPF LSM most of it is refused before it happens (kernel_probes/bpf/lsm_guard.bpf.c);
this is the same look on every kernel. docs/self-protection.md has the table of both.
"""
