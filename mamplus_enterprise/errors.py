# SPDX-License-Identifier: Apache-2.0
"""Errors of the company's side; `status` is the HTTP status under which a caller meets them.

MamplusError (mamplus_host/errors.py)
└── EnterpriseError
    ├── NotAnEnterprise    the directory was not made by `init`, or by another release
    ├── KeysUnavailable    a signing key is missing, or its passphrase is
    ├── Busy               503: another command writes to the database; try again
    ├── PublishFailed      the list could not be published; what is stored stays stored
    ├── Unknown            404
    ├── Answered           409: the alert was answered before
    ├── NoIndicator        422: the alert names nothing that a list can hold
    ├── Malformed          422: the request is not as agreed
    ├── Unsigned           401: unknown device or wrong signature
    ├── Forbidden          403: token unknown, used or expired; device removed
    └── TooLarge           413
"""

from mamplus_host.errors import MamplusError


class EnterpriseError(MamplusError):
    """Base of every error that the company's side raises on purpose."""

    status = 500


class NotAnEnterprise(EnterpriseError):
    """The directory was not made by `init`, or by another release."""


class KeysUnavailable(EnterpriseError):
    """A signing key is missing, or its passphrase is."""


class Busy(EnterpriseError):
    """Another command has been writing to the database for long; nothing was changed."""

    status = 503


class PublishFailed(EnterpriseError):
    """The list could not be published; what is stored stays stored."""


class Harmful(EnterpriseError):
    """What would be published blocks what the gate knows as good; nothing was signed."""

    status = 422


class Unknown(EnterpriseError):
    """There is no such alert, entry or device."""

    status = 404


class Answered(EnterpriseError):
    """The alert was answered before; the message says how."""

    status = 409


class NoIndicator(EnterpriseError):
    """The alert names nothing that a list can hold."""

    status = 422


class Malformed(EnterpriseError):
    """The request is not as docs/protocol.md says."""

    status = 422


class Unsigned(EnterpriseError):
    """The device is unknown, or its signature does not fit."""

    status = 401


class Forbidden(EnterpriseError):
    """A token is unknown, used or expired, or the device was removed."""

    status = 403


class TooLarge(EnterpriseError):
    """The request is larger than agreed."""

    status = 413
