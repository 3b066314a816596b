# SPDX-License-Identifier: Apache-2.0
"""What the signed policy says of actions: which answer what, for how long, and when a rule disarms itself.

Journey: enterprise -> policy -> [policy/actions] -> plan, executor, guard set. docs/policy.md, field `actions`.

What a policy leaves out is as it is built in. `check` refuses what no device should follow.
"""

from typing import Annotated, Literal

import msgspec

from mamplus_host.config import SuspicionPolicy
from mamplus_host.errors import ConfigInvalid
from mamplus_host.verdicts import ActionKind, Finding

Name = Literal[
    "notify", "evidence", "freeze", "cut", "refuse", "kill", "kill-tree", "kill-cgroup", "restore", "quarantine",
    "lock", "isolate", "container-lock", "radio", "usb", "mount",
]  # fmt: skip
RadioName = Literal["wlan", "bluetooth", "ultrawideband", "wimax", "wwan", "gps", "fm", "nfc"]  # as sysfs has them
About = Literal["exec", "library", "access", "connect", "sendmsg", "packet", "dns", "file", "mass", "tamper"]
KILLS = (ActionKind.KILL, ActionKind.KILL_TREE, ActionKind.KILL_CGROUP)  # mild to hard
STOPPING = (ActionKind.FREEZE, *KILLS)
TELLING = (ActionKind.NOTIFY, ActionKind.EVIDENCE)  # they stop nothing, so the kernel's refusal makes none needless
OF_FILES: tuple[ActionKind, ...] = (ActionKind.RESTORE,)
_KEEPS_NO_TIME = (
    "notify", "evidence", "cut", "kill", "kill-tree", "kill-cgroup", "restore",
)  # fmt: skip
_WITH_A_FILE = ("exec", "library", "access", "file", "mass")  # what lies on a medium
_LAST_ROAD_S = 86_400  # that a policy may have a device without any road to the enterprise
MAX_SPARED = 64
_Answers = dict[About, tuple[Name, ...]]
_DAY_S = 86_400
_BUILT_IN: dict[Finding, _Answers] = {
    Finding.CONFIRMED: {
        "exec": ("kill",),
        "library": ("kill",),
        "file": ("restore",),
        "mass": ("freeze", "kill-tree", "restore"),
    },
    Finding.SUSPECTED: {"exec": ("freeze",), "library": ("freeze",), "file": ("restore",)},
}
_TTL_S: dict[str, int] = {"refuse": _DAY_S, "isolate": _DAY_S}


class Disarm(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A rule that acts on more than `programs` different programs within `within_s` acts on none any more."""

    programs: Annotated[int, msgspec.Meta(ge=3, le=1000)] = 20
    within_s: Annotated[int, msgspec.Meta(ge=10, le=_DAY_S)] = 60


class Spared(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What nothing acts on besides the device's own: programs by their path, system units by their name."""

    programs: tuple[str, ...] = ()
    units: tuple[str, ...] = ()


class Radios(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What `radio` switches off."""

    off: tuple[RadioName, ...] = ()  # none named: all
    last_road: bool = False  # also the only one to the enterprise; until ttl_s.radio is over


class ActionRules(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The field `actions` of the policy."""

    confirmed: _Answers = {}
    suspected: _Answers = {}
    ttl_s: dict[Name, Annotated[int, msgspec.Meta(ge=60, le=365 * _DAY_S)]] = {}
    disarm: Disarm = Disarm()
    spared: Spared = Spared()
    radio: Radios = Radios()
    usb: Literal["carrier", "new"] = "carrier"  # what the alert's file lies on; or all that is plugged in next
    mount: Literal["noexec", "read-only", "unmount"] = "noexec"  # of the medium that the alert's file lies on

    def answers(self, finding: Finding, about: About, suspicion: SuspicionPolicy) -> tuple[ActionKind, ...]:
        """Return what answers a finding about `about`, as the policy orders it."""
        said = self.confirmed if finding is Finding.CONFIRMED else self.suspected
        names = said.get(about)
        if names is None:
            names = _BUILT_IN[finding].get(about, ())
            if finding is Finding.SUSPECTED and suspicion.hold == "watch":
                names = tuple(name for name in names if name != "freeze")
        return tuple(ActionKind(name) for name in names)

    def time_limit_s(self, kind: ActionKind, suspicion: SuspicionPolicy) -> int:
        """Return after how many seconds an action is undone by itself; 0: never."""
        built_in = suspicion.deadline_s if kind is ActionKind.FREEZE else _TTL_S.get(kind.value, 0)
        return {str(name): limit for name, limit in self.ttl_s.items()}.get(kind.value, built_in)


def check(rules: ActionRules) -> None:
    """Raise ConfigInvalid, naming the first rule that no device should follow."""
    for finding, answers in (("confirmed", rules.confirmed), ("suspected", rules.suspected)):
        for about, names in answers.items():
            _check_answer(f"actions.{finding}.{about}", about, names)
            _check_medium(f"actions.{finding}.{about}", about, names, rules)
    endless = next((name for name in rules.ttl_s if name in _KEEPS_NO_TIME), None)
    if endless is not None:
        raise ConfigInvalid(f"actions.ttl_s.{endless}: {endless} holds nothing that could end; leave it out")
    limit_s = rules.ttl_s.get("radio", 0)
    if rules.radio.last_road and not 0 < limit_s <= _LAST_ROAD_S:
        raise ConfigInvalid(
            f"actions.radio.last_road with actions.ttl_s.radio of {limit_s} s; want a limit up to {_LAST_ROAD_S} s:"
            " nothing else brings the road to the enterprise back"
        )
    _check_spared(rules.spared)


def _check_answer(where: str, about: str, names: tuple[str, ...]) -> None:
    if len(set(names)) < len(names):
        raise ConfigInvalid(f"{where} names one twice: {', '.join(names)}")
    wrong = next(
        (name for name in names if (name == "restore") != (about in ("file", "mass")) and name in ("restore",)), None
    )
    if wrong is not None:
        raise ConfigInvalid(f"{where}: {wrong} puts protected files back; want it under file and mass only")
    if about in ("packet", "dns", "file"):
        aimed = next((name for name in names if ActionKind(name) in STOPPING), None)
        if aimed is not None:
            raise ConfigInvalid(f"{where}: {aimed} is aimed at a process, and whose {about} it is is no evidence there")


def _check_medium(where: str, about: str, names: tuple[str, ...], rules: ActionRules) -> None:
    """Raise ConfigInvalid for what is aimed at the medium of a file where the alert has no file."""
    aimed = [name for name in names if name == "mount" or (name == "usb" and rules.usb == "carrier")]
    if aimed and about not in _WITH_A_FILE:
        raise ConfigInvalid(
            f"{where}: {aimed[0]} is aimed at what the alert's file lies on, and {about} has none; want it under"
            f" {', '.join(_WITH_A_FILE)}" + (', or actions.usb "new"' if aimed[0] == "usb" else "")
        )


def _check_spared(spared: Spared) -> None:
    for name, values in (("programs", spared.programs), ("units", spared.units)):
        if len(values) > MAX_SPARED:
            raise ConfigInvalid(f"actions.spared.{name} has {len(values)} of them, want at most {MAX_SPARED}")
    for path in spared.programs:
        if not path.startswith("/") or "\0" in path or "/../" in path or path.endswith("/"):
            raise ConfigInvalid(f"actions.spared.programs: {path!r}; want the absolute path of a program")
    for unit in spared.units:
        if "/" in unit or not unit.endswith(".service") or len(unit) > 255:
            raise ConfigInvalid(f"actions.spared.units: {unit!r}; want a system unit's name, like till.service")
