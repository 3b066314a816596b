# SPDX-License-Identifier: Apache-2.0
"""Seals what comes on stdin for the enterprise and ends: the cryptography package stays out of the service.

Journey: actions/evidence, control -> [seal_helper] -> sealed.

    python -m mamplus_host.executor.evidence.seal_helper KEY TARGET      the public key in hex, an inherited descriptor
"""

import os
import sys

from mamplus_host.sealed import MAX_CONTENT_BYTES, seal


def main() -> int:
    key, target = bytes.fromhex(sys.argv[1]), int(sys.argv[2])
    content = sys.stdin.buffer.read(MAX_CONTENT_BYTES + 1)
    if len(content) > MAX_CONTENT_BYTES:
        print(f"there are more than {MAX_CONTENT_BYTES} bytes to seal", file=sys.stderr)
        return 1
    try:
        with os.fdopen(target, "wb", closefd=False) as file:
            file.write(seal(content, key))
        os.fsync(target)
    except OSError as error:
        print(error.strerror, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
