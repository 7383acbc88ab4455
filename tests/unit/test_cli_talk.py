"""What `antiphon talk` prints of events."""

import pytest
from rich.text import Text

from antiphon.cli.realtime import Received
from antiphon.cli.talk import _words

pytestmark = pytest.mark.unit


@pytest.mark.parametrize(
    ("task", "fallback", "line"),
    [
        ("tts", "", "large is being loaded (25%): one moment"),
        ("tts", "small", "large is being loaded (25%): small speaks meanwhile"),
        ("asr", "small", "large is being loaded (25%): small listens meanwhile"),
    ],
)
def test_how_far_a_load_is_and_who_serves_meanwhile(task: str, fallback: str, line: str) -> None:
    body = {"task": task, "model": "large", "progress": 0.25, "fallback": fallback}
    assert Text.from_markup(_words(Received(0.0, "antiphon.model.loading", body))).plain == line
