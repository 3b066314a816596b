# SPDX-License-Identifier: Apache-2.0
"""From rules to marks and hashes: what is marked, what is said of what cannot be found, and bits as C computes them."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from mamplus_host.events import File
from mamplus_host.kernel.fileguards import OWN, numbered, rules_of
from mamplus_host.kernel.filemarks import Identity, Marks, Resolver, device_bit, filter_bit, hash_of
from mamplus_host.kernel.fileprograms import Programs
from mamplus_host.kernel.filewatch import records
from mamplus_host.policy.files import DataFolder, FileRules, Guarded, Program

INCLUDE = Path(__file__).resolve().parents[2] / "kernel_probes" / "include"
RULE = 4


def identify(_path: str, about: os.stat_result, _directory_dev: int) -> Identity:
    return Identity(about.st_dev, about.st_ino, 7)


def marks_of(path: Path) -> Marks:
    resolver = Resolver(identify)
    resolver.add(str(path), RULE)
    return resolver.marks


def words(marks: Marks, path: Path) -> tuple[int, int, int, int]:
    about = path.lstat()
    mark = marks.inodes.get((about.st_dev, about.st_ino))
    return (mark.own, mark.tree, mark.way, mark.named) if mark else (0, 0, 0, 0)


def test_a_file_its_name_and_the_way_to_it_are_marked(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.touch()

    marks = marks_of(file)

    assert words(marks, file) == (RULE, 0, 0, 0)
    assert words(marks, tmp_path) == (0, 0, RULE, 1)
    assert words(marks, tmp_path.parent) == (0, 0, RULE, 0)
    directory = tmp_path.stat()
    assert marks.names == {(directory.st_dev, directory.st_ino, hash_of(b"file")): RULE}
    assert not marks.absent and not marks.unresolved  # noqa: PT018


def test_a_tree_is_marked_once_and_names_from_elsewhere_each(tmp_path: Path) -> None:
    tree = tmp_path / "tree"
    (tree / "below").mkdir(parents=True)
    alone, linked = tree / "alone", tree / "below" / "linked"
    alone.touch()
    linked.touch()
    (tmp_path / "elsewhere").hardlink_to(linked)

    marks = marks_of(tree)

    assert words(marks, tree) == (0, RULE, 0, 0)
    assert words(marks, tmp_path / "elsewhere") == (RULE, 0, 0, 0)
    assert words(marks, alone) == (0, 0, 0, 0)


def test_links_on_the_way_are_followed_and_marked(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    file = tmp_path / "real" / "file"
    file.touch()
    (tmp_path / "absolute").symlink_to(tmp_path / "real")
    (tmp_path / "relative").symlink_to("absolute/../real")

    marks = marks_of(tmp_path / "relative" / "file")

    for link in ("absolute", "relative"):
        assert words(marks, tmp_path / link) == (0, 0, RULE, 0), link
    assert words(marks, file) == (RULE, 0, 0, 0)


def test_a_name_that_is_not_there_is_guarded_and_said(tmp_path: Path) -> None:
    marks = marks_of(tmp_path / "missing" / "file")

    directory = tmp_path.stat()
    assert marks.names == {(directory.st_dev, directory.st_ino, hash_of(b"missing")): RULE}
    assert "is not there" in marks.absent[str(tmp_path / "missing" / "file")]


def test_links_that_lead_in_a_circle_are_said(tmp_path: Path) -> None:
    (tmp_path / "a").symlink_to("b")
    (tmp_path / "b").symlink_to("a")

    assert "more than 40 links" in marks_of(tmp_path / "a").unresolved[str(tmp_path / "a")]


def test_bits_and_hashes_are_those_of_the_kernels_side(tmp_path: Path) -> None:
    cases = [(0, 1), (0x800001, 2), (0xFE00000, (1 << 63) + 12345), (0x100001, 0xFFFFFFFF)]
    lines = "".join(
        f'printf("%u %u\\n", mamplus_device_bit({dev}ULL), mamplus_filter_bit({dev}ULL, {ino}ULL));'
        for dev, ino in cases
    )
    source, program = tmp_path / "ask.c", tmp_path / "ask"
    source.write_text(f'#include <stdio.h>\n#include "mamplus_files.h"\nint main(void) {{ {lines} }}\n')
    subprocess.run(["gcc", "-I", INCLUDE, "-o", program, source], check=True)
    printed = subprocess.run([program], check=True, capture_output=True, text=True).stdout.split()

    assert [int(word) for word in printed] == [
        bit for dev, ino in cases for bit in (device_bit(dev), filter_bit(dev, ino))
    ]
    assert hash_of(b"") == 0xCBF29CE484222325
    assert hash_of(b"foobar") == 0x85944171F73967E8  # from the FNV reference


def test_a_rule_keeps_its_number_while_its_path_is_named() -> None:
    first = numbered(_rules("/srv/a", "/srv/b"), {})
    second = numbered(_rules("/srv/c", "/srv/b"), first)

    assert first[OWN] == second[OWN] == 0
    assert second["guarded /srv/b"] == first["guarded /srv/b"]
    assert second["guarded /srv/c"] not in first.values(), "marks of the old rule stand until the new ones do"


def test_as_many_rules_as_a_policy_may_have_are_numbered_twice_over() -> None:
    full = rules_of(
        FileRules(
            guarded=tuple(Guarded(path=f"/srv/{n}") for n in range(40)),
            readable=tuple(DataFolder(path=f"/data/{n}", readers=()) for n in range(20)),
        ),
        Path("/var/lib/mamplus"),
    )
    other = rules_of(FileRules(guarded=tuple(Guarded(path=f"/opt/{n}") for n in range(40))), Path("/var/lib/mamplus"))

    numbers = numbered(full, {})
    again = numbered(other, numbers)

    assert sorted(numbers.values()) == list(range(61))
    assert len(set(again.values())) == 41
    assert max(again.values()) <= 62


def _rules(*paths: str) -> list:  # type: ignore[type-arg]
    return rules_of(FileRules(guarded=tuple(Guarded(path=path) for path in paths)), Path("/var/lib/mamplus"))


@pytest.fixture
def remembered() -> list[tuple[File, str]]:
    return []


def test_a_package_is_its_elf_programs_without_interpreters(tmp_path: Path, remembered: list[tuple[File, str]]) -> None:
    for name in ("tool", "bash", "data", "script"):
        shutil.copy("/bin/true", tmp_path / name)
    (tmp_path / "data").chmod(0o644)
    (tmp_path / "script").write_text("#!/bin/sh\n")
    (tmp_path / "shop:amd64.list").write_text(
        "".join(f"{tmp_path / name}\n" for name in ("tool", "bash", "data", "script"))
    )
    programs = Programs(lambda file, digest: remembered.append((file, digest)), dpkg=tmp_path)

    found = programs.hashes(Program(package="shop"))

    assert len(found) == 1
    assert [file.ino for file, _digest in remembered] == [(tmp_path / "tool").stat().st_ino]
    assert programs.hashes(Program(package="other")) == []
    assert list(programs.unresolved) == ["package other"]


def test_a_program_that_was_replaced_is_noticed_and_both_may_for_a_while(tmp_path: Path) -> None:
    tool = tmp_path / "tool"
    shutil.copy("/bin/true", tool)
    programs = Programs(lambda _file, _digest: None, dpkg=tmp_path)
    before = programs.hashes(Program(path=str(tool)))
    assert not programs.have_changed()

    shutil.copy("/bin/false", tmp_path / "new")
    (tmp_path / "new").replace(tool)

    assert programs.have_changed()
    assert len(programs.hashes(Program(path=str(tool)))) == 2
    assert programs.hashes(Program(path=str(tool)))[0] == before[0]


def test_rules_for_the_responder_end_each_with_nul() -> None:
    data = records([(2, "/srv/a\nb")], [(4, "/data")], {"ab" * 32: [6, 4]})

    assert data == b"g 2 /srv/a\nb\0f 4 /data\0p " + b"ab" * 32 + b" 6 4\0"
