"""Whether an answer is right: normalisation, exact match, substring match, token F1 against the best accepted answer.

The normalisation and the three scores are those of the reference implementation (`tasks/qa/metrics.py` of
metacognitive-behavioral-tuning/MBT), which took them from the SQuAD and HotpotQA scorers; docs/metrics.md lists where
they differ here, and why.
"""

from __future__ import annotations

import re
import string
from collections import Counter
from collections.abc import Sequence
from functools import lru_cache

_PUNCTUATION = str.maketrans("", "", string.punctuation)
_ARTICLES = re.compile(r"\b(?:a|an|the)\b")


@lru_cache(maxsize=32)  # several metrics in a row read the same long trace
def normalize_answer(text: str) -> str:
    """Lower-case, delete ASCII punctuation, drop the articles a, an and the, and squeeze white space, in this order.

    Other punctuation and Unicode forms stay as they are: a curly quote or a decomposed accent does not match its twin.
    """
    lowered = text.lower().translate(_PUNCTUATION)
    return " ".join(_ARTICLES.sub(" ", lowered).split())


def exact_match(prediction: str, references: Sequence[str]) -> float:
    """1.0 if the normalised prediction equals a normalised reference; an empty one equals nothing."""
    answer = normalize_answer(prediction)
    return float(answer != "" and any(answer == normalize_answer(reference) for reference in references))


def substring_match(prediction: str, references: Sequence[str]) -> float:
    """1.0 if the normalised prediction contains a normalised, non-empty reference, even inside a word."""
    answer = normalize_answer(prediction)
    return float(any(reference and reference in answer for reference in map(normalize_answer, references)))


def f1_score(prediction: str, references: Sequence[str]) -> float:
    """Harmonic mean of precision and recall of the words, counted with repetition, for the best reference."""
    words = Counter(normalize_answer(prediction).split())
    return max((_overlap(words, Counter(normalize_answer(reference).split())) for reference in references), default=0.0)


def find_reference(normalised: str, references: Sequence[str]) -> tuple[int, int] | None:
    """Find the first place where a normalised text names a reference as whole words.

    Returns:
        Start and end in the text, of several references at the same place the longest; None where none is named. A
        reference that is empty after normalisation is named nowhere.
    """
    answers = [answer for reference in references if (answer := normalize_answer(reference))]
    found = [hit.span() for a in answers if (hit := re.search(rf"(?<!\w){re.escape(a)}(?!\w)", normalised))]
    return min(found, key=lambda span: (span[0], -span[1]), default=None)


def _overlap(prediction: Counter[str], reference: Counter[str]) -> float:
    # 2PR / (P + R) with P = common / |prediction| and R = common / |reference|.
    common = (prediction & reference).total()
    return 2 * common / (prediction.total() + reference.total()) if common else 0.0
