# SPDX-License-Identifier: Apache-2.0
"""Builds `mamplus_host.kernel._native`: the C that the agent's Python calls (cffi, API mode).

Named in setup.py (`cffi_modules`), so a wheel and a working tree get it the same way.
The declarations are read from the headers: they stand in one place.
"""

from pathlib import Path

from cffi import FFI

HERE = Path("kernel_probes/native")  # setup.py runs in the project's root
SOURCES = (
    "bpf_calls.c", "brake.c", "brake_heads.c", "brake_spared.c", "lru.c", "past.c", "ring_reader.c", "rules_about.c",
    "table_build.c", "table_fill.c", "table_keys.c", "table_masks.c", "table_place.c", "table_settle.c",
)  # fmt: skip
HEADERS = ("mamplus_native.h", "brake.h", "past.h", "table_build.h")
DECLARATIONS = "".join(
    (HERE / name).read_text().split("/* cffi: begin */")[1].split("/* cffi: end */")[0] for name in HEADERS
)

ffibuilder = FFI()
ffibuilder.cdef(DECLARATIONS)
ffibuilder.set_source(
    "mamplus_host.kernel._native",
    "".join(f'#include "{name}"\n' for name in HEADERS),
    sources=[str(HERE / name) for name in SOURCES],
    include_dirs=[str(HERE), "kernel_probes/include"],
    depends=[str(path) for path in (*HERE.glob("*.h"), *Path("kernel_probes/include").glob("*.h"))],
    extra_compile_args=["-O2", "-Wall", "-Wextra", "-Werror", "-Wno-unused-parameter", "-D_GNU_SOURCE", "-pthread"],
    extra_link_args=["-pthread"],
)
