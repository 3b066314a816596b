# SPDX-License-Identifier: Apache-2.0
"""Plays attacks, and writes down what came of them.

    python -m tests.attacks.play [--write] [--vm SERIES]... [--only REGEX] [--resume] [TIER...]

Prints one line for each attack; `--write` renews tests/attacks/outcomes/ and docs/attacks.md, and does so attack by
attack: a run that is cut off keeps what it has, and `--resume` plays what is not there yet, or not as documented.
`--vm 6.1` plays in a virtual machine on that stock kernel instead of here. `--only` takes a regular expression that is
looked for in "FAMILY: NAME". Ends with 1 when an outcome is not the expected one.
"""

import argparse
import os
import re
import shutil
import signal
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import msgspec

from tests.attacks import payloads, table
from tests.attacks.attack import TIERS, Attack, Missing, all_attacks
from tests.attacks.ground import Ground, ground
from tests.attacks.outcome import Outcome, Seen, Told, Unexplained, classify
from tests.attacks.subjects import SUBJECTS, WITH_TWIN, Subject

VM_TIMEOUT_S = 600.0
PROGRAMS = "attack-programs"  # their directory in the share


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
    except Exception as error:  # of one attack, whatever it is: the others are played
        return Result(outcome="unexplained", why=str(error) if isinstance(error, Unexplained) else repr(error))
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
    began = time.monotonic()
    while not (told := subject.told(started_ns)) and (waited_s := time.monotonic() - began) < settle_s:
        time.sleep(max(0.01, waited_s / 20))  # who asks all the time holds up an agent that works
    return told


def is_expected(attack: Attack, on: Ground, result: Result) -> bool:
    return result.outcome in ("missing", *attack.expects(on.tier, on.hooks))


@dataclass(frozen=True)
class Choice:
    """Which attacks are played, and where their outcomes go."""

    only: re.Pattern[str]
    to: Path | None = None  # None: nowhere
    resume: bool = False

    def attacks(self, on: Ground) -> list[Attack]:
        kept = table.outcomes(on.tier, os.uname().release, self.to) if self.to and self.resume else {}
        done = {name for name, told in kept.items() if is_expected(all_attacks()[name], on, Result(**told))}
        return [
            one for name, one in all_attacks().items() if name not in done and self.only.search(f"{one.family}: {name}")
        ]


def main() -> int:
    parser = argparse.ArgumentParser(description="play the attacks on this machine")
    parser.add_argument("--write", action="store_true", help="renew the committed outcomes and docs/attacks.md")
    parser.add_argument(
        "--to", type=Path, default=table.OUTCOMES, metavar="DIR", help="write the outcomes there instead"
    )
    parser.add_argument(
        "--vm", action="append", default=[], metavar="SERIES", help="play on this stock kernel, in a virtual machine"
    )
    parser.add_argument("--only", default="", metavar="REGEX", help='attacks of which "FAMILY: NAME" has this')
    parser.add_argument("--resume", action="store_true", help="leave out what DIR tells as it is documented")
    parser.add_argument(
        "--timeout", type=float, default=VM_TIMEOUT_S, metavar="S", help="seconds until a virtual machine is ended"
    )
    parser.add_argument("tiers", nargs="*", metavar="TIER", help=f"of {', '.join(TIERS)}; default: every one there is")
    arguments = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # take away what was made, as after Ctrl-C
    try:
        choice = Choice(re.compile(arguments.only), arguments.to if arguments.write else None, arguments.resume)
    except re.error as error:
        parser.error(f"--only {arguments.only!r} is no regular expression: {error}")
    if arguments.vm:
        wrong = sum(in_vm(series, choice, arguments.tiers, arguments.timeout) for series in arguments.vm)
    else:
        wrong = play_here(choice, arguments.tiers)
    if choice.to == table.OUTCOMES:
        table.write()
    return 1 if wrong else 0


def play_here(choice: Choice, tiers: list[str]) -> int:
    """Play every tier that this kernel has; return how many outcomes were not the expected ones."""
    wrong = 0
    for tier in tiers or TIERS:
        try:
            with ground(tier) as on:
                wrong += _play_tier(on, choice)
        except Missing as missing:
            print(f"tier {tier}: not here: {missing}", file=sys.stderr)
    return wrong


def in_vm(series: str, choice: Choice, tiers: list[str], timeout_s: float) -> int:
    """Play on a stock kernel; its outcomes come back through the machine's share, also of a run that is cut off."""
    from tests.vm import kernels, machine

    command = ["env", f"{payloads.VARIABLE}={machine.SHARE / PROGRAMS}", sys.executable, "-m", "tests.attacks.play"]
    command += ["--write", "--to", str(machine.SHARE)]
    command += ["--only", choice.only.pattern, *(["--resume"] if choice.resume else []), *tiers]
    with tempfile.TemporaryDirectory(prefix="mamplus-attacks-") as share:
        payloads.build(Path(share) / PROGRAMS)
        if choice.to:
            _copy_outcomes(series, choice.to, Path(share))
        try:
            done = machine.run(
                kernels.find(series), command, timeout_s=timeout_s, directory=kernels.ROOT, share=Path(share)
            )
        except machine.MachineFailed as error:
            print(f"{series}: {error}", file=sys.stderr)
            return 1
        finally:
            if choice.to:
                _copy_outcomes(series, Path(share), choice.to)
    print(done.output, flush=True)
    return done.exit_code


def _copy_outcomes(series: str, of: Path, to: Path) -> None:
    """Copy what is known of one kernel; another one's may be played meanwhile."""
    for path in of.glob(f"*-{series}.json"):
        shutil.copy(path, to)


def _play_tier(on: Ground, choice: Choice) -> int:
    """Play, tell and keep one attack after the other; return how many outcomes were not the expected ones."""
    wrong = 0
    for attack in choice.attacks(on):
        began_s = time.monotonic()
        result = play(attack, on)
        want = attack.expects(on.tier, on.hooks)
        note = "" if is_expected(attack, on, result) else f"   <-- want {' or '.join(want)}"
        wrong += bool(note)
        detail = result.why or f"{result.seen}; {result.told or 'nothing'} told"
        took = f"{time.monotonic() - began_s:5.1f} s"
        print(f"{on.tier:9} {took} {attack.name:40} {result.outcome:12} {detail}{note}", flush=True)
        if choice.to:
            table.keep(on.tier, os.uname().release, {attack.name: msgspec.to_builtins(result)}, choice.to)
    return wrong


if __name__ == "__main__":
    sys.exit(main())
