# SPDX-License-Identifier: Apache-2.0
"""python-iptables (`iptc`), imported without the search that it makes for its libraries.

Journey: netfilter_helper, netrules_helper -> [iptables] -> iptc.

It runs a compiler and a linker for each name that its own library might have, and has ldconfig read every library of
the device: a second on a quick machine, a minute on a slow one, at each start of a helper. It asks two variables first,
which say here what is known. What the administrator has set stays; where nothing is known it searches.

It also asks distutils for what sysconfig says as well, and setuptools brings a distutils of its own that takes longer
than all else; so it is told that there is none, as is the case from Python 3.12 on.
"""

import importlib.util
import os
import sys
import sysconfig
from collections.abc import Iterator
from pathlib import Path

_EXTENSIONS = "xtables"  # the directory of the matches and targets


def _libraries() -> Iterator[Path]:
    """Yield where distributions keep their libraries, those of this processor first."""
    if multiarch := sysconfig.get_config_var("MULTIARCH"):
        yield Path("/usr/lib", multiarch)
    yield Path("/usr/lib64")
    yield Path("/usr/lib")


def _tell() -> None:
    found = importlib.util.find_spec("iptc")
    if found and found.origin:
        os.environ.setdefault("IPTABLES_LIBDIR", str(Path(found.origin).parents[1]))  # its own library lies beside it
    for path in _libraries():
        if (path / _EXTENSIONS).is_dir():
            os.environ.setdefault("XTABLES_LIBDIR", str(path / _EXTENSIONS))


_tell()
_before = sys.modules.get("distutils")
sys.modules["distutils"] = None  # type: ignore[assignment]
try:
    import iptc
finally:
    del sys.modules["distutils"]
    if _before is not None:
        sys.modules["distutils"] = _before

__all__ = ["iptc"]
