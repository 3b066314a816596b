# SPDX-License-Identifier: Apache-2.0
"""The programs without which there is no device: no list refuses them, and no action touches them.

Init, login, the agent, the updater, the display and the radio stack, by the names that distributions give
their programs, in the directories that only root writes, and by their systemd units. The enterprise keeps entries
about them off the list (`gate`), a device holds back a list that would block one, and the executor spares them.
Pure. A program elsewhere that bears such a name is no such program.
"""

import posixpath
from fnmatch import fnmatchcase
from functools import lru_cache

from mamplus_host.ble.paths import is_pattern, pattern

_TREES = ("/usr/bin", "/usr/sbin", "/usr/lib", "/usr/libexec", "/usr/lib/systemd")
_PROGRAMS = {
    "init": (
        "systemd", "systemd-executor", "systemd-journald", "systemd-udevd", "systemd-shutdown", "init", "openrc",
        "openrc-init", "runit", "runit-init", "s6-svscan", "dbus-daemon", "dbus-broker", "dbus-broker-launch", "udevd",
        "polkitd", "mount", "fsck", "e2fsck", "modprobe", "kmod", "cryptsetup", "plymouthd",
    ),
    "login": (
        "systemd-logind", "elogind", "login", "agetty", "getty", "sshd", "sshd-session", "gdm", "gdm3",
        "gdm-session-worker", "gdm-wayland-session", "gdm-x-session", "sddm", "sddm-helper", "lightdm", "greetd",
        "unix_chkpwd", "seatd", "fprintd",
    ),
    "agent": ("mamplus", "mamplus-responder", "mamplus-hash", "mamplus-keeper"),
    "updater": (
        "dpkg", "dpkg-deb", "apt", "apt-get", "aptd", "unattended-upgrade", "rpm", "rpmdb", "dnf", "dnf5", "yum",
        "zypper", "packagekitd", "rauc", "swupdate", "mender", "mender-update", "ostree", "rpm-ostree", "rpm-ostreed",
        "bootc", "fwupd", "fwupdmgr", "snapd", "apk",
    ),
    "display": (
        "Xorg", "Xwayland", "weston", "sway", "labwc", "cage", "phoc", "phosh", "gnome-shell", "gnome-session-binary",
        "kwin_wayland", "kwin_x11", "plasmashell", "mutter", "maliit-server", "squeekboard", "lomiri", "mir",
    ),
    "radio": (
        "NetworkManager", "nm-dispatcher", "wpa_supplicant", "iwd", "ModemManager", "bluetoothd", "connmand", "ofonod",
        "systemd-networkd", "systemd-resolved", "dhclient", "dhcpcd", "udhcpc", "rild", "hostapd", "eg25-manager",
    ),
}  # fmt: skip
_ELSEWHERE = {
    "/usr/lib/xorg/Xorg": "display", "/usr/libexec/Xorg": "display", "/usr/lib/bluetooth/bluetoothd": "radio",
    "/usr/libexec/bluetooth/bluetoothd": "radio", "/usr/lib/iwd/iwd": "radio", "/usr/libexec/iwd": "radio",
    "/usr/lib/polkit-1/polkitd": "init", "/usr/lib/policykit-1/polkitd": "init",
    "/usr/lib/openssh/sshd-session": "login",
    "/usr/lib/gdm3/gdm-session-worker": "login", "/usr/lib/snapd/snapd": "updater", "/usr/lib/fwupd/fwupd": "updater",
    "/usr/libexec/fwupd/fwupd": "updater", "/usr/lib/packagekit/packagekitd": "updater",
    "/usr/lib/dbus-1.0/dbus-daemon-launch-helper": "init", "/usr/lib/NetworkManager/nm-dispatcher": "radio",
    "/usr/lib/x86_64-linux-gnu/libexec/kf5/kscreenlocker_greet": "display",
}  # fmt: skip
PATHS: dict[str, str] = {
    **{f"{tree}/{name}": role for role, names in _PROGRAMS.items() for name in names for tree in _TREES},
    **_ELSEWHERE,
}
_UNITS = {
    "init": (
        "systemd-journald.service", "systemd-udevd.service", "dbus.service", "dbus-broker.service", "polkit.service",
    ),
    "login": (
        "systemd-logind.service", "getty@*.service", "serial-getty@*.service", "ssh.service", "sshd.service",
        "gdm*.service", "sddm.service", "lightdm.service", "greetd.service", "display-manager.service",
    ),
    "agent": ("mamplus*.service",),
    "updater": (
        "apt-daily*.service", "unattended-upgrades.service", "packagekit.service", "rauc*.service",
        "swupdate*.service", "mender*.service", "fwupd*.service", "snapd*.service", "rpm-ostree*.service",
        "dnf-*.service", "bootc-*.service",
    ),
    "display": ("weston*.service", "phosh.service", "cage*.service"),
    "radio": (
        "NetworkManager*.service", "wpa_supplicant*.service", "iwd.service", "ModemManager.service",
        "bluetooth.service", "connman*.service", "ofono.service", "systemd-networkd.service",
        "systemd-resolved.service", "dhcpcd*.service",
    ),
}  # fmt: skip
UNITS = tuple(name for names in _UNITS.values() for name in names)
WHOLE = frozenset({"agent", "updater"})  # a package's scripts are run by a shell: all in the unit is spared


def role_of(path: str) -> str:
    """Return what the program at a canonical path (usr-merged) is to the device; "" for any other program."""
    return PATHS.get(path, "")


@lru_cache(maxsize=1024)
def unit_role(unit: str) -> str:
    """Return what a system unit is to the device; "" for any other. `unit`: as "ssh.service"."""
    return next((role for role, names in _UNITS.items() if any(fnmatchcase(unit, name) for name in names)), "")


@lru_cache(maxsize=4096)
def covered(value: str) -> str:
    """Return the first program of the set that a canonical path or pattern covers; "" for none."""
    if not is_pattern(value):
        return value if role_of(value) else ""
    matches = pattern(value).fullmatch
    return next((path for path in PATHS if matches(path)), "")


def why(path: str) -> str:
    """Say in words what a guarded program is."""
    role = role_of(path)
    return f"{posixpath.basename(path)} is part of {_WORDS[role]}" if role else ""


_WORDS = {
    "init": "what starts the device", "login": "the login", "agent": "the agent", "updater": "the updater",
    "display": "the display", "radio": "the radio stack",
}  # fmt: skip


def in_words(role: str) -> str:
    """Return a role as people say it."""
    return _WORDS[role]
