# SPDX-License-Identifier: Apache-2.0
"""What a benchmark leaves: a table on stdout, a JSON file and a plot in bench/results."""

import json
import os
import platform
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, TypeVar
from xml.sax.saxutils import escape

from bench.stats import compared

RESULTS = Path(__file__).parent / "results"
WIDTH, ROW, LEFT, RIGHT, TOP = 760, 44, 190, 30, 50  # pixels of the plot
Item = TypeVar("Item")


def progress(items: Iterable[Item], what: str, total: int) -> Iterator[Item]:
    """Yield `items`, showing how far we are on stderr."""
    is_terminal = sys.stderr.isatty()
    for number, item in enumerate(items, 1):
        if is_terminal or number == total:
            print(f"\r{what}: {number}/{total}", end="", file=sys.stderr, flush=True)
        yield item
    print(file=sys.stderr)


def write(name: str, *, title: str, unit: str, values: dict[str, list[float]], peer: str, **facts: Any) -> None:
    """Print and keep the result; the first series but `peer` is ours."""
    series = compared(values, peer=peer)
    document = {"benchmark": name, "title": title, "unit": unit, "peer": peer, "machine": machine(), "facts": facts}
    _keep(f"{name}.json", json.dumps(document | {"series": series, "values": values}, indent=1) + "\n")
    _keep(f"{name}.svg", plot(f"{title} ({unit})", values))
    print(f"{title} ({unit})")
    for label, row in series.items():
        spread = f"{row['quartile_1']:.4g} to {row['quartile_3']:.4g}"
        sure = f"p={row['p']:.2g}" if row["repetitions"] > 1 else "once"
        print(f"  {label:28} {row['median']:10.4g}  {spread:24} x{row['ratio']:.3f}  {sure}")
    for key, value in facts.items():
        print(f"  {key}: {value}")


def table(name: str, title: str, figures: dict[str, dict[str, float]], **facts: Any) -> None:
    """Print and keep single readings, one row a subject."""
    document = {"benchmark": name, "title": title, "machine": machine(), "facts": facts, "figures": figures}
    _keep(f"{name}.json", json.dumps(document, indent=1) + "\n")
    print(title)
    for label, row in figures.items():
        print(f"  {label:14}" + "".join(f"  {key} {value:.2f}" for key, value in row.items()))


def machine() -> dict[str, Any]:
    """Return what figures depend on."""
    return {
        "kernel": platform.release(),
        "arch": platform.machine(),
        "cpus": os.cpu_count(),
        "load": os.getloadavg()[0],
    }


def plot(title: str, values: dict[str, list[float]]) -> str:
    """Return an SVG: one row a series, a dot for each repetition, a bar at the median."""
    top = max(max(series) for series in values.values()) or 1.0
    scale = (WIDTH - LEFT - RIGHT) / top
    height = TOP + ROW * len(values) + 30
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{height}" font-family="sans-serif">',
        f'<rect width="{WIDTH}" height="{height}" fill="white"/>',
        f'<text x="12" y="26" font-size="16">{escape(title)}</text>',
    ]
    for row, (label, series) in enumerate(values.items()):
        y = TOP + ROW * row + ROW / 2
        middle = LEFT + sorted(series)[len(series) // 2] * scale
        parts.append(f'<text x="12" y="{y + 4}" font-size="13">{escape(label)}</text>')
        parts += [
            f'<circle cx="{LEFT + v * scale:.1f}" cy="{y}" r="4" fill="#2a6" fill-opacity="0.35"/>' for v in series
        ]
        parts.append(f'<rect x="{middle - 1.5:.1f}" y="{y - 14}" width="3" height="28" fill="#135"/>')
    base = TOP + ROW * len(values) + 4
    parts.append(f'<line x1="{LEFT}" y1="{base}" x2="{WIDTH - RIGHT}" y2="{base}" stroke="#888"/>')
    for tick in (0.0, top / 2, top):
        x = LEFT + tick * scale
        parts.append(f'<text x="{x:.1f}" y="{base + 18}" font-size="12" text-anchor="middle">{tick:.4g}</text>')
    return "\n".join([*parts, "</svg>", ""])


def _keep(name: str, text: str) -> None:
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / name).write_text(text)
