# SPDX-License-Identifier: Apache-2.0
"""Python's mirror of the shared C structs says what gcc says."""

import re
import runpy
import subprocess
from pathlib import Path
from struct import Struct, calcsize

import pytest

from mamplus_host.kernel import layout, pins
from mamplus_host.verdicts import Verdict

INCLUDE = Path(__file__).resolve().parents[2] / "kernel_probes" / "include"
HEADERS = ("mamplus_events.h", "mamplus_tables.h", "mamplus_watch.h", "mamplus_guard.h", "mamplus_files.h")
STRUCTS = sorted(name.removesuffix("_FIELDS") for name in vars(layout) if name.endswith("_FIELDS"))
NESTED = (
    "exec_head_", "exec_file_", "hold_file_", "hold_loader_", "head_", "file_", "exec_", "hold_", "loader_", "backing_",
)  # fmt: skip
DEFINE = re.compile(r"^#define (MAMPLUS_\w+) ", re.MULTILINE)
ENUMERATOR = re.compile(r"^\t(MAMPLUS_\w+) = \d+,", re.MULTILINE)
STRUCT = re.compile(r"^struct mamplus_(\w+) \{", re.MULTILINE)


@pytest.fixture(scope="module")
def headers() -> str:
    return "".join((INCLUDE / name).read_text() for name in HEADERS)


def ask_gcc(tmp_path: Path, expressions: list[str]) -> list[int]:
    """Return the values of constant C expressions, as gcc computes them with our headers."""
    printed = "".join(f'printf("%lld\\n", (long long)({one}));' for one in expressions)
    source, program = tmp_path / "ask.c", tmp_path / "ask"
    includes = "".join(f'#include "{name}"\n' for name in HEADERS)
    source.write_text(f"#include <stddef.h>\n#include <stdio.h>\n{includes}int main(void) {{ {printed} }}\n")
    subprocess.run(["gcc", "-I", INCLUDE, "-o", program, source], check=True)
    done = subprocess.run([program], check=True, capture_output=True, text=True)
    return [int(line) for line in done.stdout.split()]


def member(field: str) -> str:
    """Return the C designator of a flattened field: exec_head_tgid -> exec.head.tgid."""
    for prefix in NESTED:
        if field.startswith(prefix):
            return prefix.replace("_", ".") + field.removeprefix(prefix)
    return field


@pytest.mark.parametrize("name", STRUCTS)
def test_every_field_lies_where_gcc_puts_it(name: str, tmp_path: Path) -> None:
    record: Struct = getattr(layout, name)
    fields: tuple[str, ...] = getattr(layout, f"{name}_FIELDS")
    codes = re.findall(r"\d*[a-zA-Z]", record.format)
    assert len(codes) == len(fields)
    ends = [calcsize("=" + "".join(codes[: index + 1])) for index in range(len(codes))]

    c_struct = f"struct mamplus_{name.lower()}"
    wanted = [f"sizeof({c_struct})"]
    for field in fields:
        wanted.append(f"offsetof({c_struct}, {member(field)}) + sizeof((({c_struct} *)0)->{member(field)})")
    size, *c_ends = ask_gcc(tmp_path, wanted)

    assert record.size == size
    assert dict(zip(fields, ends, strict=True)) == dict(zip(fields, c_ends, strict=True))


def test_no_struct_is_missing(headers: str) -> None:
    keys = {"ADDR_KEY"}  # 16 bytes and nothing else
    assert {name.upper() for name in STRUCT.findall(headers)} - keys == set(STRUCTS)


def test_every_number_is_mirrored(headers: str, tmp_path: Path) -> None:
    names = ENUMERATOR.findall(headers) + [name for name in DEFINE.findall(headers) if not name.endswith("_H")]

    values = dict(zip(names, ask_gcc(tmp_path, names), strict=True))

    assert values == {name: getattr(layout, name.removeprefix("MAMPLUS_"), None) for name in names}


def test_a_verdict_has_the_same_number_on_both_sides() -> None:
    assert {verdict.name: verdict.value for verdict in Verdict} == {
        "NOTHING": layout.NOTHING,
        "SUSPECT": layout.SUSPECT,
        "BLOCK": layout.BLOCK,
        "ALLOW": layout.ALLOW,
        "GUARD": layout.GUARD,
    }


def test_the_mirror_is_what_the_generator_makes_of_the_headers(tmp_path: Path) -> None:
    root = INCLUDE.parents[1]
    out = tmp_path / "layout.py"
    compiled = tmp_path / "layout.o"
    flags = ["-target", "bpf", "-g", "-O2", f"-I{INCLUDE}"]
    subprocess.run(["clang", *flags, "-c", root / "kernel_probes" / "layout.c", "-o", compiled], check=True)
    command: list[str | Path] = [
        "python3",
        root / "kernel_probes" / "mirror.py",
        compiled,
        *(INCLUDE / name for name in HEADERS),
    ]
    with out.open("wb") as file:
        subprocess.run(command, check=True, stdout=file)

    made = runpy.run_path(str(out))

    def numbers(names: dict[str, object]) -> dict[str, object]:
        plain = {name: value for name, value in names.items() if name.isupper()}
        return {name: value.format if isinstance(value, Struct) else value for name, value in plain.items()}

    assert numbers(made) == numbers(vars(layout))


def test_the_objects_and_the_maps_that_are_pinned_are_those_of_the_sources() -> None:
    maps = "".join((INCLUDE.parent / "bpf" / name).read_text() for name in ("maps.h", "watch.bpf.c"))
    singles = re.findall(r"^MAMPLUS_(?:SINGLE|KEYED)\((\w+)[,)]", maps, re.MULTILINE)
    plain = re.findall(r"^\} (\w+) SEC\(\"\.maps\"\);", maps, re.MULTILINE)

    assert sorted(singles + plain) == sorted(pins.MAPS)
