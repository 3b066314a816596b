# SPDX-License-Identifier: Apache-2.0
"""Plays attacks, and writes down what came of them.

    python -m tests.attacks.play [--write] [--vm SERIES]... [TIER...]

Prints one line for each attack; `--write` renews tests/attacks/outcomes/ and docs/attacks.md. `--vm 6.1`
plays in a virtual machine on that stock kernel instead of here. Ends with 1 when an outcome is not the
expected one.
"""

import argparse
import os
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import msgspec

from tests.attacks import table
from tests.attacks.attack import TIERS, Attack, Missing, all_attacks
from tests.attacks.ground import Ground, ground
from tests.attacks.outcome import Outcome, Seen, Told, Unexplained, classify
from tests.attacks.subjects import SUBJECTS, WITH_TWIN, Subject

VM_TIMEOUT_S = 600.0


class Result(msgspec.Struct, frozen=True, kw_only=True):
    """What came of one attack on one tier."""

    outcome: str  # an Outcome, "missing", or "unexplained"
    seen: str = ""  # by the attacker
    told: str = ""  # by the agent: kinds of records
    after_ms: float | None = None  # from the beginning of the attack to the first record about it
    why: str = ""  # missing: what; unexplained: what does not fit


def play(attack: Attack, on: Ground) -> Result:
    """Play one attack twice: against what nothing is held against, and against what is listed or guarded."""
    try:
        if not attack.is_innocent and attack.subject in WITH_TWIN:
            _check_that_it_works(attack, on)
        seen, is_done, told = _once(attack, on, is_guarded=not attack.is_innocent)
        outcome = classify(seen, is_done, told, is_innocent=attack.is_innocent)
    except Missing as missing:
        return Result(outcome="missing", why=str(missing))
    except Unexplained as error:
        return Result(outcome="unexplained", why=str(error))
    first = min(told, key=lambda one: (not one.is_refusal, one.after_ms), default=None)
    return Result(
        outcome=outcome, seen=str(seen), told=first.what if first else "", after_ms=first.after_ms if first else None
    )


def _check_that_it_works(attack: Attack, on: Ground) -> None:
    """Unexplained when the attack fails where nothing is against it: then its refusal proves nothing."""
    seen, is_done, told = _once(attack, on, is_guarded=False)
    outcome = classify(seen, is_done, told, is_innocent=True)
    if outcome is not Outcome.RUNS and not (attack.is_alike and outcome is not Outcome.NOT_COVERED):
        raise Unexplained(f"with nothing against it, it was {outcome}: the attacker saw {seen}, the agent told {told}")


def _once(attack: Attack, on: Ground, *, is_guarded: bool) -> tuple[Seen, bool, list[Told]]:
    with SUBJECTS[attack.subject](attack, on, is_guarded) as subject:
        started_ns = on.forget_the_past()
        seen = subject.attack()
        is_done = subject.is_done()
        return seen, is_done, _await_told(subject, started_ns, attack.settle_s if is_guarded else 0.0)


def _await_told(subject: Subject, started_ns: int, settle_s: float) -> list[Told]:
    """Return what the agent told of it; wait for the first of it, up to `settle_s`."""
    end = time.monotonic() + settle_s
    while not (told := subject.told(started_ns)) and time.monotonic() < end:
        time.sleep(0.01)
    return told


def is_expected(attack: Attack, on: Ground, result: Result) -> bool:
    return result.outcome in ("missing", *attack.expects(on.tier, on.hooks))


def play_all(on: Ground, tell: Callable[[Attack, Result], None], only: str = "") -> dict[str, Result]:
    results = {}
    for name, attack in all_attacks().items():
        if only not in f"{attack.family} {name}":
            continue
        results[name] = play(attack, on)
        tell(attack, results[name])
    return results


def main() -> int:
    parser = argparse.ArgumentParser(description="play the attacks on this machine")
    parser.add_argument("--write", action="store_true", help="renew the committed outcomes and docs/attacks.md")
    parser.add_argument(
        "--to", type=Path, default=table.OUTCOMES, metavar="DIR", help="write the outcomes there instead"
    )
    parser.add_argument(
        "--vm", action="append", default=[], metavar="SERIES", help="play on this stock kernel, in a virtual machine"
    )
    parser.add_argument("--only", default="", metavar="TEXT", help="attacks whose family or name holds this")
    parser.add_argument("tiers", nargs="*", metavar="TIER", help=f"of {', '.join(TIERS)}; default: every one there is")
    arguments = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # take away what was made, as after Ctrl-C
    wrong = sum(in_vm(series, arguments) for series in arguments.vm) if arguments.vm else play_here(arguments)
    if arguments.write and arguments.to == table.OUTCOMES:
        table.write()
    return 1 if wrong else 0


def play_here(arguments: argparse.Namespace) -> int:
    """Play every tier that this kernel has; return how many outcomes were not the expected ones."""
    wrong = 0
    for tier in arguments.tiers or TIERS:
        try:
            with ground(tier) as on:
                wrong += _play_tier(on, only=arguments.only, to=arguments.to if arguments.write else None)
        except Missing as missing:
            print(f"tier {tier}: not here: {missing}", file=sys.stderr)
    return wrong


def in_vm(series: str, arguments: argparse.Namespace) -> int:
    """Play on a stock kernel; its outcomes come back through the machine's share."""
    from tests.vm import kernels, machine

    with tempfile.TemporaryDirectory(prefix="mamplus-attacks-") as share:
        command = [sys.executable, "-m", "tests.attacks.play", "--write", "--to", str(machine.SHARE)]
        command += ["--only", arguments.only, *arguments.tiers]
        done = machine.run(kernels.find(series), command, timeout_s=VM_TIMEOUT_S, share=Path(share))
        print(done.output, flush=True)
        for path in Path(share).glob("*.json"):
            if arguments.write:
                shutil.copy(path, arguments.to)
    return done.exit_code


def _play_tier(on: Ground, *, only: str, to: Path | None) -> int:
    wrong = []

    def tell(attack: Attack, result: Result) -> None:
        want = attack.expects(on.tier, on.hooks)
        note = "" if is_expected(attack, on, result) else f"   <-- want {' or '.join(want)}"
        wrong.extend([attack.name] if note else [])
        detail = result.why or f"{result.seen}; {result.told or 'nothing'} told"
        print(f"{on.tier:9} {attack.name:40} {result.outcome:12} {detail}{note}", flush=True)

    results = play_all(on, tell, only)
    if to:
        table.keep(on.tier, os.uname().release, results, to)
    return len(wrong)


if __name__ == "__main__":
    sys.exit(main())
