# SPDX-License-Identifier: Apache-2.0
"""Encrypts or decrypts one file and ends: the cryptography package stays out of the service.

Journey: quarantine -> [box_helper] -> box.

    python -m mamplus_host.executor.storage.box_helper pack|unpack ID SOURCE TARGET KEY

SOURCE, TARGET and KEY are inherited descriptors.

Answers with {"sha256": ..., "size": ...} on stdout; the target is synced by then.
"""

import json
import os
import sys

from mamplus_host.errors import MamplusError
from mamplus_host.executor.storage import box


def main() -> int:
    command, action_id, *numbers = sys.argv[1:]
    source, target, key_fd = (int(number) for number in numbers)
    work = box.pack if command == "pack" else box.unpack
    try:
        sha256, size = work(source, target, os.pread(key_fd, 32, 0), action_id)
        os.fsync(target)
    except (MamplusError, OSError) as error:
        print(error, file=sys.stderr)
        return 1
    print(json.dumps({"sha256": sha256, "size": size}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
