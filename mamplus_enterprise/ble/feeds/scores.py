# SPDX-License-Identifier: Apache-2.0
"""Lists of addresses with a score, like ipsum: address, TAB, on how many lists it stands.

The more lists agree, the surer: one is 50, two 75, three 88, and so on; below `--min-score` a line is dropped.
"""

from mamplus_enterprise.ble.feeds.found import NOTHING, Context, Dropped, Found, Values
from mamplus_enterprise.ble.feeds.text import without_comment


def line(text: str, context: Context) -> Values:
    words = without_comment(text).split()
    if not words:
        return NOTHING
    if len(words) != 2 or not (words[1].isascii() and words[1].isdigit() and len(words[1]) < 10):
        raise Dropped("malformed", "the line is not an address and a number")
    score = int(words[1])
    if score < context.min_score:
        raise Dropped("score", f"the score is {score}, want at least {context.min_score} (--min-score)")
    return (Found(words[0], confidence=round(100 * (1 - 0.5 ** min(score, 20))), reason=f"on {score} lists"),)
