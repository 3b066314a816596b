# SPDX-License-Identifier: Apache-2.0
"""What `mamplus status` says, gathered from the parts of the agent."""

import os
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from mamplus_host import __version__
from mamplus_host.ble.stack import LayerFiles

if TYPE_CHECKING:
    from mamplus_host.service import Service


def describe(service: "Service") -> dict[str, Any]:
    """Return the agent's state as plain values, grouped; every loss has its counter here."""
    aside = service.vault.put_aside
    return {
        "agent": _agent(service),
        "ble": _ble(service),
        "generations": _generations(service),
        "clock": _clock(service),
        "hooks": service.kernel.hooks(),
        "controls": service.examiner.status(),
        "responder": {"pid": service.responder.pid, "adopted": service.responder.adopted},
        "fanotify": {"paths": service.kernel.watching.paths(), **service.kernel.watching.counters()},
        "sweep": service.sweep.counts,
        "update": service.updater.fault or "up to date as far as known",
        "update_bytes": {"last": service.updater.last_bytes, "since_start": service.updater.total_bytes},
        "maintenance": service.maintenance.status(),
        "self_protection": "refused by BPF LSM" if service.kernel.guard else "noticed and told",
        "tamper": service.tamper.counts or "nothing noticed",
        "last_fault": service.loop.last_fault or "none",
        "netfilter": {"rules": service.netfilter.status()},
        "network": service.isolating.status(),
        "declared": msgspec.to_builtins(service.generations.aging.declared),
        "standing": msgspec.to_builtins(service.generations.policy.standing),
        "kernel": service.kernel.tables.counters(),
        "losses": losses(service),
        "pipeline": {
            **service.pipeline.counts,
            "folded": service.pipeline.folded,
            "unstored": service.pipeline.unstored,
        },
        "vault": f"damaged: nothing is protected until it is again; kept as {aside!r}" if aside else "whole",
        "files": msgspec.to_builtins(service.protecting.state()),
        "guarded_paths": msgspec.to_builtins(service.guarding.state()),
        "held": [{"alert": held.decision_id, "cgroup": held.place} for held in service.executor.held],
        "actions": {
            **service.executor.counts,
            "start_faults": service.executor.faults or "none",
            "in_force": len(service.executor.in_force()),
            "disarmed": [rule.key for rule in service.executor.disarmed.all()],
        },
        "outbox": msgspec.to_builtins(service.outbox.counters()),
        "uplink": service.uplink.status() if service.uplink else {"state": "not enrolled"},
    }


def losses(service: "Service") -> dict[str, int]:
    """Every loss of this agent, by counter."""
    kernel = service.kernel.tables.counters()
    return {
        "lost": kernel["lost"],
        "hold_lost": kernel["hold_lost"],
        "malformed": service.loop.malformed,
        "faults": service.loop.faults + service.pipeline.counts["faults"],
        "phantoms": service.pipeline.phantoms,
        "past": service.pipeline.past.lost,
        "unresolved_paths": service.pipeline.unresolved,
        "file_watch": service.protecting.files.lost,
        "alert_log": service.alerts.lost,
        "alert_log_unshown": service.alerts.unshown,
        "actions": service.executor.counts["no_place"],
        "escalations": service.pipeline.counts["escalations_failed"],
        "control_clients": service.control.refused,
        "ask_clients": service.asks.refused,
        **service.kernel.watching.losses(),
    }


def _agent(service: "Service") -> dict[str, Any]:
    return {
        "version": __version__,
        "pid": os.getpid(),
        "mode": service.config.agent.mode,
        "cgroup": str(service.cgroup),
        "adopted": service.kernel.adopted,
        "uptime_s": round(time.monotonic() - service.started_s, 1),
        "rss_mb": round(_rss_kb() / 1024, 1),
    }


def _ble(service: "Service") -> dict[str, Any]:
    ble = service.generations.ble
    if ble is None:
        return {"generation": 0, "entries": 0}
    age_s = max(0, round(service.clock.list_s() - ble.created_s))
    in_kernel = service.kernel.tables.generation()
    return {
        "generation": ble.number,
        "in_kernel": in_kernel,
        "entries": ble.count,
        "layers": {files.layer.word: _layer(files) for files in ble.layers},
        "age_s": age_s,
        **service.generations.loaded,
    }


def _layer(files: LayerFiles) -> dict[str, int]:
    return {"generation": files.number, "entries": files.count, "deltas": len(files.deltas)}


def _generations(service: "Service") -> dict[str, Any]:
    """What is held or was rolled back, whether a dead-man timer runs, and where the list is on the age ladder."""
    generations = service.generations
    kept, aged = generations.standing, generations.aging.now
    watch = kept.watch
    left_s = watch.limit_s - watch.elapsed_s(service.clock.boot_ns()) if watch else 0.0
    return {
        "age": aged.step.label,
        "proved_s_ago": round(service.clock.age_s()),
        "effects": list(aged.effects),
        "held": f"{kept.held.number}: {kept.held.why}" if kept.held else "none",
        "rolled_back": list(kept.bad),
        "dead_man": f"{watch.number}, back to {watch.previous} in {left_s:.0f} s" if watch else "off",
        "in_use": len(service.pipeline.in_use),
        "policy": generations.policy.version,
        "policy_fault": generations.policy_fault or "none",
    }


def _clock(service: "Service") -> dict[str, Any]:
    """How far the clock is ahead of what is believed of it, and behind the least that time can be."""
    wall_s, clock = service.clock.wall_s(), service.clock
    return {
        "signed_at": round(clock.signed_s),
        "ahead_s": round(clock.ahead_of_proof_s()),
        "behind_s": max(0, round(clock.accept_s() - wall_s)),
    }


def _rss_kb() -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1])
    return 0
