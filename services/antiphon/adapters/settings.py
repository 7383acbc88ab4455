"""What people may set of an engine, and what callers may ask of a model: both checked alike for all engines."""

from collections.abc import Mapping, Sequence
from typing import Any, Self

from pydantic import BaseModel, ConfigDict, ValidationError
from pydantic.alias_generators import to_camel

from antiphon.contracts.errors import AntiphonError, Reason


class EngineSettings(BaseModel):
    """Base of an engine's settings (`engineConfig`): names in camelCase or snake_case, unknown ones refused."""

    model_config = ConfigDict(extra="forbid", frozen=True, alias_generator=to_camel, populate_by_name=True)

    @classmethod
    def parse(cls, settings: Mapping[str, Any]) -> Self:
        """The settings as an object.

        Raises:
            AntiphonError: INVALID_REQUEST, naming each setting that is unknown or wrong.
        """
        try:
            return cls.model_validate(dict(settings))
        except ValidationError as error:
            faults = "; ".join(f"{'.'.join(map(str, fault['loc']))}: {fault['msg']}" for fault in error.errors())
            known = ", ".join(sorted(field.alias or name for name, field in cls.model_fields.items()))
            message = f"Bad engine settings: {faults}. Known settings: {known or 'none'}."
            raise AntiphonError(Reason.INVALID_REQUEST, message) from error


def choose_voice(voices: Sequence[str], voice: str) -> str:
    """The voice asked for, or the first one when none was.

    Raises:
        AntiphonError: INVALID_REQUEST for a voice that is not among `voices`.
    """
    if not voice:
        return voices[0] if voices else ""
    if voice not in voices:
        message = f"There is no voice {voice!r}: this model has {', '.join(voices[:20]) or 'one voice without a name'}."
        raise AntiphonError(Reason.INVALID_REQUEST, message)
    return voice


def check_language(languages: Sequence[str], language: str) -> None:
    """Refuse a language that a model has not; `en` stands for `en-US` and the other way round (BCP 47).

    Raises:
        AntiphonError: INVALID_REQUEST for a language that is not among `languages` (empty: any is).
    """
    if language and languages and primary_language(language) not in map(primary_language, languages):
        message = f"This model has no language {language!r}: it has {', '.join(languages[:20])}."
        raise AntiphonError(Reason.INVALID_REQUEST, message)


def primary_language(language: str) -> str:
    """The language of a BCP 47 tag, without script and region: `en` of `en-US` and of `en_GB`."""
    return language.replace("_", "-").split("-")[0].lower()
