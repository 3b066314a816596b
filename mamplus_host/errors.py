# SPDX-License-Identifier: Apache-2.0
"""Errors raised on purpose.

MamplusError                 exit 1
├── ConfigInvalid            exit 2: nothing was started
├── NotPossible              this machine lacks something; the message says what, and the way out
├── AlreadyRunning           another agent owns the state directory
├── AgentUnreachable         no agent answers on the control socket
├── ControlMalformed         answer the client with the message, close, serve on
├── EventMalformed           drop the record, count it, read on
├── KernelRefused            a BPF or netfilter operation failed; `errno` tells
├── NetfilterFailed          iptables could not be changed; the socket hooks still stand
├── ActionFailed             an action of the executor could not be carried out or undone
├── VaultError               a golden copy could not be made, found or put back
├── UplinkFailed             the enterprise did not answer, or not as agreed; try again later
│   └── UplinkRefused        it answered, and said no: trying again will not help
├── CodeRejected             a maintenance code opens no window; the message says why, and whom to ask
│   ├── CodeMalformed        misheard or misread: the message names the line
│   ├── CodeWrongDevice      made for another device
│   ├── CodeForged           not signed by this device's enterprise
│   ├── CodeExpired          entered too late, by this device's time
│   └── CodeUsed             entered before: each is good once
├── EnrollRefused            the enterprise cannot be trusted, or did not take the token
└── BleRejected              keep the installed generation; `exit_code` of `mamplus ble load`
    ├── BleInvalid           11: damaged, unsigned, signed by a stranger, not our format
    ├── BleExpired           12: genuine, but its metadata is past its date
    ├── BleRollback          13: genuine, but not newer than what is installed
    ├── BleWrongDevice       14: genuine, but made for another device or enterprise
    └── BleShrunk            15: genuine, but empty or less than half, and not signed as meant
"""


class MamplusError(Exception):
    """Base of every error this project raises on purpose."""

    exit_code = 1


class ConfigInvalid(MamplusError):
    """The configuration or the command line cannot be used as it stands."""

    exit_code = 2


class NotPossible(MamplusError):
    """This machine lacks something that the request needs."""


class AlreadyRunning(MamplusError):
    """Another agent owns the state directory."""


class AgentUnreachable(MamplusError):
    """No agent answers on the control socket."""


class ControlMalformed(MamplusError):
    """A client of the control socket sent something that is no request."""


class EventMalformed(MamplusError):
    """A record is not laid out as `mamplus_events.h` says."""


class KernelRefused(MamplusError):
    """The kernel refused a BPF operation; `errno` is positive, 0 when unknown."""

    def __init__(self, message: str, *, errno: int = 0) -> None:
        super().__init__(message)
        self.errno = errno


class NetfilterFailed(MamplusError):
    """iptables could not be changed; the socket hooks still stand."""


class ActionFailed(MamplusError):
    """An action of the executor could not be carried out, or could not be undone."""


class VaultError(MamplusError):
    """A golden copy could not be made, found or put back."""


class UplinkFailed(MamplusError):
    """The enterprise did not answer, or not as agreed; try again later."""


class UplinkRefused(UplinkFailed):
    """The enterprise answered and said no; `status` is the HTTP status."""

    def __init__(self, message: str, *, status: int) -> None:
        super().__init__(message)
        self.status = status


class EnrollRefused(MamplusError):
    """The enterprise cannot be trusted, or did not take the token."""


class CodeRejected(MamplusError):
    """A maintenance code opens no window."""


class CodeMalformed(CodeRejected):
    """It was misheard, misread, or is none."""


class CodeWrongDevice(CodeRejected):
    """It was made for another device."""


class CodeForged(CodeRejected):
    """It is not signed by this device's enterprise."""


class CodeExpired(CodeRejected):
    """It was entered too late, by this device's time."""


class CodeUsed(CodeRejected):
    """It was entered before."""


class BleRejected(MamplusError):
    """A generation did not earn trust; the installed one stays in force."""

    exit_code = 11


class BleInvalid(BleRejected):
    """Damaged, unsigned, signed by a stranger, or not laid out as our format says."""

    exit_code = 11


class BleExpired(BleRejected):
    """Genuine, but its metadata is past its date."""

    exit_code = 12


class BleRollback(BleRejected):
    """Genuine, but not newer than what is installed."""

    exit_code = 13


class BleWrongDevice(BleRejected):
    """Genuine, but made for another device or another enterprise."""

    exit_code = 14


class BleShrunk(BleRejected):
    """Genuine, but empty or less than half of the installed one, and not signed as meant."""

    exit_code = 15
