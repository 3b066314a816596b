# SPDX-License-Identifier: Apache-2.0
"""What pyproject.toml cannot say: the wheel carries compiled C, so that a device needs no compiler."""

import subprocess
import sys

from setuptools import setup
from setuptools.command.build_py import build_py


class BuildProbes(build_py):
    """Compile the BPF objects, the loader and the responder before they are packed as package data."""

    def run(self) -> None:
        subprocess.run(["make", "-C", "kernel_probes", "--silent", "files", f"PYTHON={sys.executable}"], check=True)
        super().run()


BUILDERS = ("build_ffi", "build_device_key", "build_ble_file")
setup(
    cffi_modules=[f"kernel_probes/native/{name}.py:ffibuilder" for name in BUILDERS], cmdclass={"build_py": BuildProbes}
)
