"""Human speech with transcripts, for tests and benchmarks: the English prompts of Debian's Asterisk packages.

A professional speaker, 8 kHz, some 350 prompts (CC BY-SA 3.0). They are looked for in the folder that ANTIPHON_SPEECH
names, where Debian's packages put them, and in `.cache/speech` below the working directory, which
`python -m antiphon.testing.speech` fills without root.
"""

import gzip
import os
import re
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from antiphon.audio.files import read_audio
from antiphon.audio.pcm import Samples

PACKAGES = ("asterisk-core-sounds-en-wav", "asterisk-core-sounds-en")
CACHE = Path(".cache/speech")
_SOUNDS = "usr/share/asterisk/sounds/en_US_f_Allison"
_TRANSCRIPTS = "usr/share/doc/asterisk-core-sounds-en/core-sounds-en.txt.gz"


class NoSpeech(Exception):
    """There are no recordings here; the message says what to do."""


@dataclass(frozen=True, slots=True)
class Recording:
    """One prompt."""

    name: str
    path: Path
    transcript: str

    def samples(self, rate_hz: int = 16_000) -> Samples:
        """The prompt at `rate_hz`."""
        return read_audio(self.path, rate_hz)


def recordings(*, least_words: int = 1, most_words: int = 1000) -> list[Recording]:
    """The prompts whose transcripts are plain words, by name.

    Raises:
        NoSpeech: They are not on this machine.
    """
    root = find_root(os.environ)
    return [
        Recording(name, path, transcript)
        for name, transcript in sorted(_transcripts(root / _TRANSCRIPTS).items())
        if least_words <= len(transcript.split()) <= most_words
        and (path := root / _SOUNDS / f"{name}.wav").is_file()
        and not re.search(r"[\[\]<>0-9]|\.\.\.", transcript)
    ]


def require_recordings(*, least_words: int = 1, most_words: int = 1000) -> list[Recording]:
    """`recordings` for a test: where there are none it is skipped, but on CI it fails."""
    import pytest

    try:
        return recordings(least_words=least_words, most_words=most_words)
    except NoSpeech as error:
        if os.environ.get("CI"):
            raise
        pytest.skip(str(error))


def find_root(environment: Mapping[str, str]) -> Path:
    """The folder under which the packages' files stand as they would under `/`.

    Raises:
        NoSpeech: There is none.
    """
    named = environment.get("ANTIPHON_SPEECH")
    for root in [Path(named)] if named else [Path("/"), CACHE]:
        if (root / _SOUNDS).is_dir() and (root / _TRANSCRIPTS).is_file():
            return root
    where = f"in {named}" if named else "here"
    raise NoSpeech(
        f"There are no recordings of human speech {where}: run `python -m antiphon.testing.speech` to fetch them, "
        f"or `apt-get install {' '.join(PACKAGES)}`."
    )


def fetch(cache: Path) -> None:
    """Download the packages from the machine's own Debian mirror and unpack them into `cache`; apt shows its progress.

    Raises:
        NoSpeech: apt has no such package or cannot reach its mirror.
    """
    cache.mkdir(parents=True, exist_ok=True)
    own = _own_apt_state(cache.resolve() / "apt")
    try:
        # Where the system's package lists are absent or old, only root could renew them: then make our own.
        if not _apt(cache, "download", *PACKAGES) and not (
            _apt(cache, *own, "update") and _apt(cache, *own, "download", *PACKAGES)
        ):
            raise NoSpeech(f"apt cannot download {' '.join(PACKAGES)}: check this machine's Debian mirror.")
        for package in cache.glob("*.deb"):
            subprocess.run(["dpkg", "-x", str(package), str(cache)], check=True)
            package.unlink()
    except (OSError, subprocess.CalledProcessError) as error:
        raise NoSpeech(f"The recordings cannot be fetched ({error}): set ANTIPHON_SPEECH to where they are.") from error


def _own_apt_state(root: Path) -> list[str]:
    for folder in ("lists/partial", "cache/archives/partial"):
        (root / folder).mkdir(parents=True, exist_ok=True)
    return ["-o", f"Dir::State::lists={root / 'lists'}", "-o", f"Dir::Cache={root / 'cache'}"]


def _apt(folder: Path, *arguments: str) -> bool:
    return subprocess.run(["apt-get", *arguments], cwd=folder, check=False).returncode == 0


def _transcripts(path: Path) -> dict[str, str]:
    return dict(_lines(gzip.decompress(path.read_bytes()).decode("utf-8", "replace")))


def _lines(text: str) -> Iterator[tuple[str, str]]:
    """Names and transcripts of a file of lines `name: what is said`, with comments after a semicolon."""
    for line in text.splitlines():
        name, colon, said = line.partition(":")
        if colon and said.strip() and not line.startswith(";"):
            yield name.strip(), " ".join(said.split())


def main() -> None:
    """Fetch the recordings, unless they are here."""
    try:
        try:
            root = find_root(os.environ)
        except NoSpeech:
            fetch(CACHE)
            root = find_root(os.environ)
        print(f"{len(recordings())} recordings under {root}")
    except NoSpeech as error:
        sys.exit(str(error))


if __name__ == "__main__":
    main()
