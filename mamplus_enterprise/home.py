# SPDX-License-Identifier: Apache-2.0
"""The directory of one enterprise: where its keys, database and repository lie.

enterprise.json   name, id, address: `Settings`
admin.token       bearer token of the administrators, mode 0600
keys/             PKCS#8; tls.crt beside them
database.sqlite   storage/
repository/       metadata/ and targets/: static files, any web server may serve them
policy.json       what devices do about age, doubt and silence; there once it was set
ordered/          an empty file for each device that was ordered something, written with every order: wakes its poll
publish.lock      held by whoever writes repository/
served.json       the address `serve` last listened on
"""

from dataclasses import dataclass
from pathlib import Path

import msgspec

from mamplus_enterprise.errors import NotAnEnterprise
from mamplus_host.files import write_whole

DEFAULT_LISTEN = "127.0.0.1:8443"


class Settings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What `init` decided for good."""

    enterprise_id: str  # SHA-256 of the first root key, hex
    name: str
    url: str = ""  # under which devices reach it; empty: where `serve` last listened
    dev: bool = False  # unencrypted keys, and plain HTTP for loopback


@dataclass(frozen=True, slots=True)
class Home:
    """Paths below DIR, and its settings."""

    dir: Path
    settings: Settings

    @classmethod
    def open(cls, directory: Path) -> "Home":
        """Return the enterprise in `directory`; NotAnEnterprise when there is none."""
        path = directory / "enterprise.json"
        try:
            return cls(directory, msgspec.json.decode(path.read_bytes(), type=Settings))
        except (FileNotFoundError, NotADirectoryError):
            raise NotAnEnterprise(
                f"{str(directory)!r} holds no enterprise.json; want a directory made by `mamplus-enterprise init DIR`"
            ) from None
        except msgspec.MsgspecError as error:
            raise NotAnEnterprise(f"{str(path)!r} cannot be read: {error}; restore it from a backup") from None

    @property
    def keys(self) -> Path:
        return self.dir / "keys"

    @property
    def certificate(self) -> Path:
        return self.keys / "tls.crt"

    @property
    def metadata(self) -> Path:
        return self.dir / "repository" / "metadata"

    @property
    def targets(self) -> Path:
        return self.dir / "repository" / "targets"

    @property
    def database(self) -> Path:
        return self.dir / "database.sqlite"

    @property
    def policy(self) -> Path:
        return self.dir / "policy.json"

    @property
    def ordered(self) -> Path:
        return self.dir / "ordered"

    @property
    def publish_lock(self) -> Path:
        return self.dir / "publish.lock"

    @property
    def admin_token(self) -> str:
        return (self.dir / "admin.token").read_text().strip()

    @property
    def url(self) -> str:
        """Where devices find it: as said at `init`, else where it was last served, else the default."""
        if self.settings.url:
            return self.settings.url
        try:
            return str(msgspec.json.decode((self.dir / "served.json").read_bytes())["url"])
        except FileNotFoundError:
            return f"https://{DEFAULT_LISTEN}"

    def served_at(self, url: str) -> None:
        write_whole(self.dir / "served.json", msgspec.json.encode({"url": url}))
