"""The kinds of value that several resources use."""

import re
from typing import Annotated

from pydantic import Field

from antiphon.contracts.resources.base import Rule, matching

LabelValue = Annotated[
    str,
    Field(max_length=63),
    matching(
        "([A-Za-z0-9]([A-Za-z0-9_.-]{0,61}[A-Za-z0-9])?)?",
        "Write a label's value: at most 63 letters, digits, '-', '_' and '.', a letter or digit at both ends.",
    ),
]
_LABEL_KEY = "([a-z0-9]([a-z0-9.-]*[a-z0-9])?/)?[A-Za-z0-9]([A-Za-z0-9_.-]{0,61}[A-Za-z0-9])?"
Labels = Annotated[
    dict[str, LabelValue],
    Field(max_length=16),
    Rule(
        f"self.all(key, key.size() <= 317 && key.matches('^({_LABEL_KEY})$'))",
        "Write a label's name, as in example.com/zone: after the '/' at most 63 letters, digits, '-', '_' and '.'.",
        lambda labels: all(len(key) <= 317 and re.fullmatch(_LABEL_KEY, key) for key in labels),
    ),
]
Seconds = Annotated[int, Field(ge=0, le=86_400)]
MiB = Annotated[int, Field(ge=0, le=16_777_216)]
