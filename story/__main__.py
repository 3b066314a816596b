# SPDX-License-Identifier: Apache-2.0
"""Plays the story and prints its timeline; exit 0 only if every step happened.

python -m story [--once] [--json]
"""

import argparse
import contextlib
import json
import signal
import sys
import time
from collections.abc import Callable
from types import FrameType

from story.stage import Stage, StoryFailed
from story.steps import STEPS, Play


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m story", description=__doc__)
    parser.add_argument("--once", action="store_true", help="end when the last step is done")
    parser.add_argument("--json", action="store_true", help="one JSON object a step, for machines")
    arguments = parser.parse_args()
    _on_interrupt(_interrupt)
    with contextlib.ExitStack() as stack:
        try:
            return _play(stack, once=arguments.once, as_json=arguments.json)
        except KeyboardInterrupt:
            print("\ninterrupted; cleaning up", file=sys.stderr)
            return 130
        finally:
            _on_interrupt(signal.SIG_IGN)  # what was made is taken away in peace


def _on_interrupt(handler: "Callable[[int, FrameType | None], None] | signal.Handlers") -> None:
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, handler)


def _interrupt(_signal: int, _frame: FrameType | None) -> None:
    _on_interrupt(signal.SIG_IGN)
    raise KeyboardInterrupt


def _play(stack: contextlib.ExitStack, *, once: bool, as_json: bool) -> int:
    begun = time.monotonic()
    play = Play(Stage(stack))
    for number, (name, step) in enumerate(STEPS.items(), 1):
        if not as_json:
            print(f"{time.monotonic() - begun:7.2f} s  {number:>2}/{len(STEPS)}  {name} ...", end="", flush=True)
        at = time.monotonic()
        try:
            seen, happened = step(play), True
        except (StoryFailed, OSError) as error:
            seen, happened = f"{type(error).__name__}: {error}", False
        _tell(name, seen, happened, time.monotonic() - at, as_json)
        if not happened:
            print(f"the agents' log:\n{play.enterprise.tail()}", file=sys.stderr)
            return 1
    _figures(play, as_json)
    if not once:
        token = (play.enterprise.dir / "admin.token").read_text().strip()
        print(f"\nThe enterprise's page stays open: {play.enterprise.page}  (token: {token})")
        print("Ctrl-C ends it and cleans up.", flush=True)
        signal.pause()
    return 0


def _tell(name: str, seen: str, happened: bool, took_s: float, as_json: bool) -> None:
    if as_json:
        print(json.dumps({"step": name, "happened": happened, "seen": seen, "took_s": round(took_s, 3)}), flush=True)
    else:
        print(f"  {'ok' if happened else 'FAILED'} ({took_s:.1f} s)\n{'':18}{seen}", flush=True)


def _figures(play: Play, as_json: bool) -> None:
    if as_json:
        print(json.dumps({"figures": {name: round(value, 3) for name, value in play.figures.items()}}), flush=True)
        return
    print("\nMeasured on this machine, in this run:")
    for name, value in play.figures.items():
        print(f"  {value:10.2f}  {name}")


sys.exit(main())
