# SPDX-License-Identifier: Apache-2.0
"""Builds `mamplus_host.ble._file`: the reader of a generation's file in C (cffi, API mode)."""

from pathlib import Path

from cffi import FFI

HERE = Path("kernel_probes/native")  # setup.py runs in the project's root
DECLARATIONS = (HERE / "ble_file.h").read_text().split("/* cffi: begin */")[1].split("/* cffi: end */")[0]

ffibuilder = FFI()
ffibuilder.cdef(DECLARATIONS)
ffibuilder.set_source(
    "mamplus_host.ble._file",
    '#include "ble_file.h"',
    sources=[str(HERE / "ble_file.c")],
    include_dirs=[str(HERE)],
    extra_compile_args=["-O2", "-Wall", "-Wextra", "-Werror", "-Wno-unused-parameter"],
)
