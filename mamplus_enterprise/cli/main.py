# SPDX-License-Identifier: Apache-2.0
"""Entry point of `mamplus-enterprise`: finds --dir, --keys and --passphrase-file anywhere on the line.

Exit codes: 0 done, 1 refused or failed, 2 wrong usage. Errors go to stderr, one line.
"""

import os
import sys
import traceback

from mamplus_host.errors import MamplusError

_ANYWHERE = ("--dir", "--keys", "--passphrase-file")


def hoist(arguments: list[str]) -> list[str]:
    """Return `arguments` with the options of every command moved before the first; not those after `--`."""
    front: list[str] = []
    rest: list[str] = []
    words = iter(arguments)
    for word in words:
        if word == "--":
            rest += [word, *words]
        elif word in _ANYWHERE:
            front += [word, *[value for value in [next(words, None)] if value is not None]]
        elif word.startswith(tuple(f"{option}=" for option in _ANYWHERE)):
            front.append(word)
        else:
            rest.append(word)
    return front + rest


def main() -> None:
    """Run the command line; never returns."""
    from mamplus_enterprise.cli.app import app

    if "_MAMPLUS_ENTERPRISE_COMPLETE" in os.environ:  # a shell asks for completion
        from typer.completion import completion_init  # type: ignore[attr-defined]  # as its documents use it

        completion_init()
    try:
        app(hoist(sys.argv[1:]), prog_name="mamplus-enterprise")
    except MamplusError as error:
        _fail(str(error), error.exit_code)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # its flush at exit must not complain
        sys.exit(1)
    except OSError as error:
        _fail(f"{error.filename!r}: {error.strerror}" if error.filename else str(error), 1)
    except Exception as error:  # a fault of ours: say so in one line, and where
        where = traceback.extract_tb(error.__traceback__)[-1]
        _fail(f"unexpected {type(error).__name__} in {where.name}: {error}; this is a fault of the program", 1)


def _fail(message: str, code: int) -> None:
    print(f"mamplus-enterprise: {message}", file=sys.stderr)
    sys.exit(code)


if __name__ == "__main__":
    main()
