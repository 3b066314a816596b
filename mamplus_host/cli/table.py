# SPDX-License-Identifier: Apache-2.0
"""Tables that fit the terminal: a name is never broken, and a pipe gets one line a row."""

from collections.abc import Iterable, Sequence

from rich.table import Table

from mamplus_host.cli.state import OUT, safe

_MIN_PROSE = 24
_GAPS = (2, 1)  # between two columns; 1 where a hash and what is said of it would not fit otherwise


def print_table(
    columns: Sequence[str], rows: Iterable[Sequence[object]], *, expendable: Sequence[str] = (), prose: str = ""
) -> None:
    """Print untrusted `rows`; where the terminal is too narrow, columns go in the order of `expendable`.

    `prose` is the one column whose text may go on in the next line.
    """
    texts = [[safe(cell) for cell in row] for row in rows]
    widths = {name: max(len(cell) for cell in (name, *(row[at] for row in texts))) for at, name in enumerate(columns)}
    wanted = {name: min(width, _MIN_PROSE) if name == prose else width for name, width in widths.items()}
    shown = _fitting(columns, wanted, expendable) if OUT.is_terminal else list(columns)
    kept = [[cell for name, cell in zip(columns, row, strict=True) if name in shown] for row in texts]
    gap = next((gap for gap in _GAPS if _needed(shown, wanted, gap) <= OUT.width), 0)
    if gap and OUT.is_terminal:
        OUT.print(_table(shown, kept, gap, prose))
    else:
        _print_lines(shown, kept, widths)


def _needed(shown: Sequence[str], wanted: dict[str, int], gap: int) -> int:
    return sum(wanted[name] + gap for name in shown) - gap


def _fitting(columns: Sequence[str], wanted: dict[str, int], expendable: Sequence[str]) -> list[str]:
    shown = list(columns)
    for name in expendable:
        if _needed(shown, wanted, _GAPS[0]) <= OUT.width:
            break
        shown.remove(name)
    return shown


def _table(columns: Sequence[str], rows: Iterable[Sequence[str]], gap: int, prose: str) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, gap, 0, 0))
    for name in columns:
        table.add_column(name, no_wrap=name != prose, overflow="fold")
    for row in rows:
        table.add_row(*row)
    return table


def _print_lines(columns: Sequence[str], rows: Iterable[Sequence[str]], widths: dict[str, int]) -> None:
    """Print one line a row, however long: in a terminal it goes on in the next line, with nothing lost."""
    for row in (columns, *rows):
        padded = (cell.ljust(widths[name]) for name, cell in zip(columns, row, strict=True))
        OUT.print("  ".join(padded).rstrip(), soft_wrap=True)
