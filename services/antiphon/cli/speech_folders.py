"""Where recordings of human speech may be."""

import os
from pathlib import Path

_SYSTEM = Path("/usr/share/asterisk/sounds")
"""Where Debian's package asterisk-core-sounds-en-wav puts its recordings of a human voice."""


def speech_folders() -> list[Path]:
    """The folders to look in, best first: what ANTIPHON_SPEECH names, what `make speech` fetched, the system's."""
    named = os.environ.get("ANTIPHON_SPEECH")
    return [*([Path(named)] if named else []), Path(".cache/speech"), _SYSTEM]
