# SPDX-License-Identifier: Apache-2.0
"""Rules are compiled before they are written down: a device must not be the first to find that one is none.

YARA by yara-x, Sigma by pySigma, both imported when a rule comes and not before. Where one is not installed
the text is taken as it is, and `check_rule` says so.
"""

from collections.abc import Callable

from mamplus_host.ble.entry import Kind
from mamplus_host.errors import ConfigInvalid


def check_rule(kind: Kind, text: str) -> bool:
    """Whether `text` was compiled (also: is no rule at all); ConfigInvalid when it does not compile."""
    check = _CHECKS.get(kind)
    if check is None:
        return True
    try:
        check(text)
    except ImportError:
        return False
    return True


def _yara(text: str) -> None:
    import yara_x

    compiler = yara_x.Compiler()
    compiler.enable_includes(False)  # a rule that needs another file is no rule on a device
    try:
        compiler.add_source(text)
    except yara_x.CompileError as error:
        raise ConfigInvalid(f"the YARA rule does not compile: {_brief(error)}; want what `yr check` takes") from None


def _sigma(text: str) -> None:
    from sigma.collection import SigmaCollection
    from sigma.rule import SigmaRule

    try:
        rules = SigmaCollection.from_yaml(text).rules
        conditions = [one for rule in rules if isinstance(rule, SigmaRule) for one in rule.detection.parsed_condition]
        _ = [condition.parsed for condition in conditions]
    except Exception as error:  # SigmaError, YAMLError, and whatever its parser trips over in a text that is no rule
        raise ConfigInvalid(f"the Sigma rule cannot be read: {_brief(error)}; want one as sigmahq.io has") from None
    if len(rules) != 1 or not isinstance(rules[0], SigmaRule):
        raise ConfigInvalid(f"the text holds {len(rules)} Sigma rules, or one that joins others; want one an entry")


_CHECKS: dict[Kind, Callable[[str], None]] = {Kind.YARA: _yara, Kind.SIGMA: _sigma}


def _brief(error: Exception) -> str:
    """The first lines of what a compiler says, in one."""
    return "; ".join(line.strip(" |") for line in str(error).splitlines()[:2] if line.strip(" |"))[:300]
