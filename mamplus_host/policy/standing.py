# SPDX-License-Identifier: Apache-2.0
"""What holds, per control, when somebody is not there: the agent, the responder, a hash in time. In the signed policy.

Journey: policy -> [policy/standing] -> the kernel's posture.

The kernel and the responder carry it out, by the heartbeat that the agent leaves in a map; so it holds while the agent
is dead. Where the policy says nothing the device's configuration holds (`[exec]`), and what is enforced stands.
"""

from typing import Annotated, Literal

import msgspec

from mamplus_host.config import ExecPolicy

Down = Annotated[int, msgspec.Meta(ge=30, le=30 * 86_400)]  # six ticks of the agent at least
Answer = Literal["", "allow", "refuse"]


class ExecStanding(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Programs. What is listed is refused in every case; this is about content that nobody has seen."""

    agent_down: Literal["stand", "refuse-unknown"] = "stand"
    agent_down_s: Down = 300  # without a heartbeat, time asleep not counted
    responder_down: Answer = ""  # "": as `[exec] on_responder_down` has it
    deadline: Answer = ""  # "": as `[exec] on_deadline` has it


class FilesStanding(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Guarded paths and listed files: their rules are in the kernel or the responder, and stand."""

    agent_down: Literal["stand"] = "stand"


class ConnectStanding(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Connections. guarded-only: none but to the enterprise, to what `never_block` names, and on loopback."""

    agent_down: Literal["stand", "guarded-only"] = "stand"
    agent_down_s: Down = 3600


class Standing(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One for each control."""

    exec: ExecStanding = ExecStanding()
    files: FilesStanding = FilesStanding()
    connect: ConnectStanding = ConnectStanding()

    def declared(self, configured: ExecPolicy) -> ExecPolicy:
        """Return the declared answers of the exec control: the policy's, else the configuration's."""
        return msgspec.structs.replace(
            configured,
            on_responder_down=self.exec.responder_down or configured.on_responder_down,
            on_deadline=self.exec.deadline or configured.on_deadline,
        )

    @property
    def exec_after_s(self) -> int:
        """After how long without an agent unknown programs are refused; 0: never."""
        return self.exec.agent_down_s if self.exec.agent_down == "refuse-unknown" else 0

    @property
    def connect_after_s(self) -> int:
        """After how long without an agent only what is guarded may be connected to; 0: never."""
        return self.connect.agent_down_s if self.connect.agent_down == "guarded-only" else 0


UNSAID = Standing()  # what holds where the policy says nothing
