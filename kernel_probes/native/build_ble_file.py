# SPDX-License-Identifier: Apache-2.0
"""Builds `mamplus_host.ble._file`: what reads, sums and merges lists and their values in C (cffi, API mode)."""

from pathlib import Path

from cffi import FFI

HERE = Path("kernel_probes/native")  # setup.py runs in the project's root
HEADERS = (
    "ble_file.h", "ble_limits.h", "ble_mapped.h", "ble_root.h", "ble_stack.h", "ble_merge.h", "ble_order.h",
    "value_text.h", "path_globs.h",
)  # fmt: skip
SOURCES = sorted(source for name in ("ble_*.c", "path_*.c", "value_*.c") for source in HERE.glob(name))


def declarations(header: str) -> str:
    """Return what stands between the marks in `header`."""
    return (HERE / header).read_text().split("/* cffi: begin */")[1].split("/* cffi: end */")[0]


ffibuilder = FFI()
ffibuilder.cdef("".join(map(declarations, HEADERS)))
ffibuilder.set_source(
    "mamplus_host.ble._file",
    "".join(f'#include "{header}"\n' for header in HEADERS),
    sources=[str(source) for source in SOURCES],
    include_dirs=[str(HERE)],
    libraries=["crypto"],
    # SHA256_Update() and its like are "deprecated", but EVP costs twice as much for one block.
    extra_compile_args=["-O2", "-Wall", "-Wextra", "-Werror", "-Wno-unused-parameter", "-Wno-deprecated-declarations"],
)
