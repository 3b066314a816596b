# SPDX-License-Identifier: Apache-2.0
"""The agent's configuration: one TOML file, read once at start.

Unknown keys are errors that name the nearest known key. Every bound of a buffer,
queue or spool stands here, with its unit in its name.
"""

import os
import tomllib
from pathlib import Path
from typing import Any, Literal

import msgspec

from mamplus_host.errors import ConfigInvalid

DEFAULT_CONFIG = Path("/etc/mamplus/agent.toml")
OF_SYSTEM = ("/home", "/root", "/srv", "/opt", "/var/lib", "/var/log", "/usr/local")  # never wiped as a whole
OF_SYSTEM_BELOW = ("bin", "boot", "dev", "etc", "lib", "lib64", "proc", "run", "sbin", "sys", "usr")  # nor below these
CGROUP2_MOUNTS = ("/sys/fs/cgroup/unified", "/sys/fs/cgroup")


class Scope(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What the agent enforces on."""

    cgroup: str = "/"  # cgroup v2 path below its mount; production: the root or the professional slice
    netns: tuple[str, ...] = ()  # names under /run/netns where our chains are kept; empty: the agent's own


class Paths(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    state: str = "/var/lib/mamplus"  # survives reboots: BLE, keys, outbox, vault, journal
    run: str = "/run/mamplus"  # control socket, locks
    bpffs: str = "/sys/fs/bpf/mamplus"  # pinned links, programs and maps


class Agent(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    mode: Literal["enforce", "monitor"] = "enforce"
    self_protection: bool = True  # refuse hands on the agent where the kernel has BPF LSM; noticed either way
    log_level: Literal["debug", "info", "warning", "error"] = "info"
    examine_after_s: float = (
        20.0  # after its start the agent waits so long before it tries its controls: boot goes first
    )


class ExecPolicy(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Declared answers of the exec control for a file whose SHA-256 cannot be had."""

    on_responder_down: Literal["allow", "refuse"] = "refuse"
    on_deadline: Literal["allow", "refuse"] = "refuse"
    deadline_ms: int = 5000  # hashing of one file; 1 GiB takes about 2 s on a slow device
    fanotify: tuple[str, ...] = ()  # paths; on their file systems every open in the scope is asked about
    on_open: Literal["allow", "refuse"] = "allow"  # a file there that is opened, and not hashed in time


class SuspicionPolicy(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What is done with a suspected program until the enterprise answers."""

    hold: Literal["freeze", "watch"] = "freeze"
    deadline_s: int = 86_400  # nobody answered by then, offline included:
    on_deadline: Literal["release", "kill"] = "release"


class VaultPolicy(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What is done about protected files besides putting them back."""

    quiet_s: float = 10.0  # a new file in a protected tree is kept when nobody has touched it for so long
    mass_files: int = 10  # so many different protected files rewritten by one family of processes
    mass_window_s: float = 60.0  # within so long: the family is stopped at once, then as policy says (`mass`)


class Limits(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    ble_table_bytes: int = (
        128 << 20
    )  # kernel memory for the list, 12 bytes an entry; 0: no bound; see `kernel/budget.py`
    outbox_bytes: int = 64 << 20  # above: the oldest of the lowest severity go first, counted
    journal_bytes: int = 64 << 20
    vault_bytes: int = 1 << 30
    quarantine_bytes: int = 1 << 30  # encrypted files in quarantine, all together
    evidence_bytes: int = 64 << 20  # sealed snapshots; above: the oldest go
    vault_versions: int = 32  # of one path, golden and replaced ones; what the path should be always stays
    vault_version_days: int = 90  # older ones go
    protected_file_bytes: int = 256 << 20  # one file; larger ones are refused by `protect`
    recent_events: int = 1000  # kept in memory for `mamplus events` and `alerts`
    lineage_tasks: int = 4096  # processes remembered, least recently seen first out
    pending_analyses: int = 4096  # events between collector and analyzer (Request_analysis)


class Container(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The professional container: what may be locked, and what an order of the enterprise may wipe; nothing else."""

    luks: tuple[str, ...] = ()  # block devices or images with a LUKS2 header: /dev/disk/by-partuuid/...
    fscrypt: tuple[str, ...] = ()  # directories that are encrypted with fscrypt
    paths: tuple[str, ...] = ()  # directories whose content is deleted

    @property
    def is_empty(self) -> bool:
        return not (self.luks or self.fscrypt or self.paths)


class Uplink(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    connect_timeout_s: float = 5.0
    poll_s: int = 50  # one long poll for "generation N exists"; the enterprise holds it at most this long
    retry_min_s: float = 0.5
    retry_max_s: float = 60.0


class Config(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    scope: Scope = Scope()
    paths: Paths = Paths()
    agent: Agent = Agent()
    exec: ExecPolicy = ExecPolicy()
    suspicion: SuspicionPolicy = SuspicionPolicy()
    vault: VaultPolicy = VaultPolicy()
    limits: Limits = Limits()
    uplink: Uplink = Uplink()
    container: Container = Container()

    @property
    def state(self) -> Path:
        return Path(self.paths.state)

    @property
    def run(self) -> Path:
        return Path(self.paths.run)

    @property
    def bpffs(self) -> Path:
        return Path(self.paths.bpffs)

    @property
    def control_socket(self) -> Path:
        return self.run / "control.sock"

    @property
    def ask_socket(self) -> Path:
        """Where everybody may ask for an exception."""
        return self.run / "ask.sock"


def load(path: Path) -> Config:
    """Return the configuration in `path`; ConfigInvalid says what was seen, wanted, and the way out."""
    try:
        text = path.read_text()
    except FileNotFoundError:
        raise ConfigInvalid(f"no configuration at {str(path)!r}; write one, or name it with --config FILE") from None
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigInvalid(f"cannot read {str(path)!r}: {error}; want a readable TOML file") from None
    try:
        raw = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ConfigInvalid(f"{path}: not TOML: {error}") from None
    return parse(raw, where=str(path))


def parse(raw: dict[str, Any], *, where: str = "configuration") -> Config:
    """Return the configuration in `raw`, the tables of a TOML file."""
    _refuse_unknown_keys(raw, Config, where)
    try:
        config = msgspec.convert(raw, Config)
    except msgspec.ValidationError as error:
        raise ConfigInvalid(f"{where}: {error}") from None
    _check_container(config, where)
    return config


def _check_container(config: Config, where: str) -> None:
    """Raise ConfigInvalid for a container that would take the system or the agent along."""
    container = config.container
    own = (config.paths.state, config.paths.run, config.paths.bpffs)
    for path in (*container.luks, *container.fscrypt, *container.paths):
        if not path.startswith("/") or os.path.normpath(path) != path:
            raise ConfigInvalid(f"{where}: [container]: {path!r}; want a whole path without . and ..")
    for path in (*container.fscrypt, *container.paths):
        parts = path.strip("/").split("/")
        if path in OF_SYSTEM or parts[0] in OF_SYSTEM_BELOW or len(parts) < 2:
            raise ConfigInvalid(f"{where}: [container]: {path!r} is the system's own; want a folder of work alone")
        taken = [one for one in own if one == path or one.startswith(path + "/") or path.startswith(one + "/")]
        if taken:
            raise ConfigInvalid(f"{where}: [container]: {path!r} holds the agent's {taken[0]!r}; want another folder")


def _refuse_unknown_keys(raw: dict[str, Any], model: Any, where: str) -> None:
    fields = {field.name: field.type for field in msgspec.structs.fields(model)}
    for key, value in raw.items():
        if key not in fields:
            import difflib  # 0.1 MB that only a mistake needs

            near = difflib.get_close_matches(key, fields, n=1, cutoff=0.0)[0]
            known = ", ".join(sorted(fields))
            raise ConfigInvalid(f"{where}: unknown key {key!r}; did you mean {near!r}? known here: {known}")
        if isinstance(value, dict):
            _refuse_unknown_keys(value, fields[key], f"{where}: [{key}]")


def cgroup_dir(config: Config) -> Path:
    """Return the directory of the scope's cgroup; ConfigInvalid when there is none.

    Both spellings are taken: below the cgroup v2 mount ("/apps"), and the whole path
    ("/sys/fs/cgroup/apps").
    """
    mount = next((Path(m) for m in CGROUP2_MOUNTS if (Path(m) / "cgroup.controllers").exists()), None)
    if mount is None:
        raise ConfigInvalid("no cgroup v2 hierarchy is mounted; mount one: mount -t cgroup2 none /sys/fs/cgroup")
    name = config.scope.cgroup
    given = Path(name)
    path = given if given.is_relative_to(mount) else mount / name.lstrip("/")
    if not (path / "cgroup.procs").exists():
        raise ConfigInvalid(f"[scope] cgroup = {name!r}: no cgroup at {str(path)!r}; create it with mkdir")
    return path


def cgroup_path(config: Config) -> str:
    """Return the scope as /proc/PID/cgroup spells it: below the cgroup v2 mount, beginning with a slash."""
    path = cgroup_dir(config)
    mount = next(Path(one) for one in CGROUP2_MOUNTS if path.is_relative_to(one))
    return "/" + str(path.relative_to(mount)).removeprefix(".")


def require_netns(config: Config) -> None:
    """Raise ConfigInvalid when a network namespace of the scope does not exist."""
    missing = [name for name in config.scope.netns if not (Path("/run/netns") / name).exists()]
    if missing:
        raise ConfigInvalid(f"[scope] netns: no namespace {missing[0]!r}; create it: ip netns add {missing[0]}")
