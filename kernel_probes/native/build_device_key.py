# SPDX-License-Identifier: Apache-2.0
"""Builds `mamplus_host.outbox._device_key`: Ed25519 by the system's libcrypto (cffi, API mode)."""

from pathlib import Path

from cffi import FFI

HERE = Path("kernel_probes/native")  # setup.py runs in the project's root
DECLARATIONS = (HERE / "device_key.h").read_text().split("/* cffi: begin */")[1].split("/* cffi: end */")[0]

ffibuilder = FFI()
ffibuilder.cdef(DECLARATIONS)
ffibuilder.set_source(
    "mamplus_host.outbox._device_key",
    '#include "device_key.h"',
    sources=[str(HERE / "device_key.c")],
    include_dirs=[str(HERE)],
    libraries=["crypto"],
    extra_compile_args=["-O2", "-Wall", "-Wextra", "-Werror", "-Wno-unused-parameter"],
)
