# SPDX-License-Identifier: Apache-2.0
"""Who rewrites too many protected files, told from who does not."""

import os

from mamplus_host.analyzer.mass import MAX_HEADS, MassRewrites, Suspect
from mamplus_host.analyzer.scrambled import entropy_bits, looks_scrambled

S = 1_000_000_000
Touches = list[tuple[str, str, int]]


def mass(files: int = 3, window_s: int = 10) -> MassRewrites:
    return MassRewrites(files=files, window_ns=window_s * S)


def rewrites(tgid: int, *names: str, change: str = "modify") -> Touches:
    return [(name, change, tgid) for name in names]


def always(_path: str) -> bool:
    return True


def test_one_process_with_too_many_different_files_is_a_suspect() -> None:
    one = mass()
    assert one.note(rewrites(7, "a", "b"), S, always) is None
    assert one.note(rewrites(7, "c"), S, always) == Suspect(7, ("a", "b", "c"))


def test_the_same_file_again_and_again_is_one_file() -> None:
    one = mass()
    assert one.note(rewrites(7, "a", "a", "a", "a"), S, always) is None


def test_files_that_are_as_they_were_and_mere_attributes_do_not_count() -> None:
    one = mass()
    assert one.note(rewrites(7, "a", "b", "c"), S, lambda path: path != "b") is None
    assert one.note(rewrites(8, "a", "b", "c", change="attrib"), S, always) is None


def test_what_was_rewritten_long_ago_does_not_count() -> None:
    one = mass()
    one.note(rewrites(7, "a", "b"), S, always)
    assert one.note(rewrites(7, "c"), 12 * S, always) is None


def test_two_writers_are_not_one() -> None:
    one = mass()
    assert one.note(rewrites(7, "a", "b") + rewrites(8, "c", "d"), S, always) is None
    assert one.families(S, lambda _tgid: []) is None


def test_a_program_for_each_file_makes_their_nearest_common_ancestor_the_head() -> None:
    one = mass()
    parents = {11: [10, 5], 12: [10, 5], 13: [10, 5], 99: [5]}
    one.note(rewrites(99, "other"), S, always)
    for number, name in ((11, "a"), (12, "b"), (13, "c")):
        assert one.note(rewrites(number, name, change="delete"), S, always) is None
    assert one.families(S, lambda tgid: parents[tgid]) == Suspect(10, ("a", "b", "c"))


def test_ancestors_are_asked_once_for_what_was_noted() -> None:
    one, asked = mass(), []

    def ancestors(tgid: int) -> list[int]:
        asked.append(tgid)
        return []

    one.note(rewrites(11, "a"), S, always)
    one.families(S, ancestors)
    one.families(S, ancestors)
    assert asked == [11]


def test_who_was_judged_begins_anew() -> None:
    one = mass()
    one.note(rewrites(7, "a", "b", "c"), S, always)
    one.forget(7)
    assert one.note(rewrites(7, "d"), S, always) is None


def test_a_writer_whom_the_kernel_does_not_name_is_found_and_has_no_ancestors() -> None:
    one = mass()
    assert one.note(rewrites(0, "a", "b", "c"), S, always) == Suspect(0, ("a", "b", "c"))
    one.forget(0)
    one.note(rewrites(0, "a"), S, always)
    assert one.families(S, lambda _tgid: [1 // 0]) is None


def test_memory_is_bounded_by_the_processes_seen_last() -> None:
    one = mass()
    for tgid in range(1, MAX_HEADS + 100):
        one.note(rewrites(tgid, "a"), S, always)
    assert len(one._by_head) == MAX_HEADS


def test_random_bytes_look_scrambled_and_text_does_not() -> None:
    text, random = b"what was agreed upon\n" * 500, os.urandom(10_000)
    assert entropy_bits(b"") == 0
    assert entropy_bits(b"aaaa") == 0
    assert entropy_bits(random) > 7.9
    assert looks_scrambled(text, random)
    assert not looks_scrambled(text, text.upper())


def test_of_a_compressed_content_the_lost_beginning_tells() -> None:
    compressed = b"PK\x03\x04" + os.urandom(10_000)
    assert looks_scrambled(compressed, os.urandom(10_000))
    assert not looks_scrambled(compressed, b"PK\x03\x04" + os.urandom(10_000))
