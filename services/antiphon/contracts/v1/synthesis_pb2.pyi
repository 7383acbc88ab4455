from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class SynthesizeRequest(_message.Message):
    __slots__ = ("config", "text", "flush", "end", "played")
    CONFIG_FIELD_NUMBER: _ClassVar[int]
    TEXT_FIELD_NUMBER: _ClassVar[int]
    FLUSH_FIELD_NUMBER: _ClassVar[int]
    END_FIELD_NUMBER: _ClassVar[int]
    PLAYED_FIELD_NUMBER: _ClassVar[int]
    config: SynthesisConfig
    text: TextInput
    flush: Flush
    end: EndOfText
    played: Played
    def __init__(self, config: _Optional[_Union[SynthesisConfig, _Mapping]] = ..., text: _Optional[_Union[TextInput, _Mapping]] = ..., flush: _Optional[_Union[Flush, _Mapping]] = ..., end: _Optional[_Union[EndOfText, _Mapping]] = ..., played: _Optional[_Union[Played, _Mapping]] = ...) -> None: ...

class SynthesisConfig(_message.Message):
    __slots__ = ("stream_id", "session_id", "model", "digest", "voice", "language", "sample_rate_hz", "speed", "style", "generation", "max_lead_ms")
    STREAM_ID_FIELD_NUMBER: _ClassVar[int]
    SESSION_ID_FIELD_NUMBER: _ClassVar[int]
    MODEL_FIELD_NUMBER: _ClassVar[int]
    DIGEST_FIELD_NUMBER: _ClassVar[int]
    VOICE_FIELD_NUMBER: _ClassVar[int]
    LANGUAGE_FIELD_NUMBER: _ClassVar[int]
    SAMPLE_RATE_HZ_FIELD_NUMBER: _ClassVar[int]
    SPEED_FIELD_NUMBER: _ClassVar[int]
    STYLE_FIELD_NUMBER: _ClassVar[int]
    GENERATION_FIELD_NUMBER: _ClassVar[int]
    MAX_LEAD_MS_FIELD_NUMBER: _ClassVar[int]
    stream_id: str
    session_id: str
    model: str
    digest: str
    voice: str
    language: str
    sample_rate_hz: int
    speed: float
    style: str
    generation: int
    max_lead_ms: int
    def __init__(self, stream_id: _Optional[str] = ..., session_id: _Optional[str] = ..., model: _Optional[str] = ..., digest: _Optional[str] = ..., voice: _Optional[str] = ..., language: _Optional[str] = ..., sample_rate_hz: _Optional[int] = ..., speed: _Optional[float] = ..., style: _Optional[str] = ..., generation: _Optional[int] = ..., max_lead_ms: _Optional[int] = ...) -> None: ...

class TextInput(_message.Message):
    __slots__ = ("text",)
    TEXT_FIELD_NUMBER: _ClassVar[int]
    text: str
    def __init__(self, text: _Optional[str] = ...) -> None: ...

class Flush(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class EndOfText(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class Played(_message.Message):
    __slots__ = ("position_samples",)
    POSITION_SAMPLES_FIELD_NUMBER: _ClassVar[int]
    position_samples: int
    def __init__(self, position_samples: _Optional[int] = ...) -> None: ...

class SynthesizeResponse(_message.Message):
    __slots__ = ("audio", "words", "summary")
    AUDIO_FIELD_NUMBER: _ClassVar[int]
    WORDS_FIELD_NUMBER: _ClassVar[int]
    SUMMARY_FIELD_NUMBER: _ClassVar[int]
    audio: Audio
    words: WordTimes
    summary: SynthesisSummary
    def __init__(self, audio: _Optional[_Union[Audio, _Mapping]] = ..., words: _Optional[_Union[WordTimes, _Mapping]] = ..., summary: _Optional[_Union[SynthesisSummary, _Mapping]] = ...) -> None: ...

class Audio(_message.Message):
    __slots__ = ("pcm", "position_samples", "generation", "clause")
    PCM_FIELD_NUMBER: _ClassVar[int]
    POSITION_SAMPLES_FIELD_NUMBER: _ClassVar[int]
    GENERATION_FIELD_NUMBER: _ClassVar[int]
    CLAUSE_FIELD_NUMBER: _ClassVar[int]
    pcm: bytes
    position_samples: int
    generation: int
    clause: ClauseStart
    def __init__(self, pcm: _Optional[bytes] = ..., position_samples: _Optional[int] = ..., generation: _Optional[int] = ..., clause: _Optional[_Union[ClauseStart, _Mapping]] = ...) -> None: ...

class ClauseStart(_message.Message):
    __slots__ = ("index", "text_start", "text_end")
    INDEX_FIELD_NUMBER: _ClassVar[int]
    TEXT_START_FIELD_NUMBER: _ClassVar[int]
    TEXT_END_FIELD_NUMBER: _ClassVar[int]
    index: int
    text_start: int
    text_end: int
    def __init__(self, index: _Optional[int] = ..., text_start: _Optional[int] = ..., text_end: _Optional[int] = ...) -> None: ...

class WordTimes(_message.Message):
    __slots__ = ("clause_index", "words")
    CLAUSE_INDEX_FIELD_NUMBER: _ClassVar[int]
    WORDS_FIELD_NUMBER: _ClassVar[int]
    clause_index: int
    words: _containers.RepeatedCompositeFieldContainer[Word]
    def __init__(self, clause_index: _Optional[int] = ..., words: _Optional[_Iterable[_Union[Word, _Mapping]]] = ...) -> None: ...

class Word(_message.Message):
    __slots__ = ("text", "text_start", "text_end", "start_samples", "end_samples", "estimated", "probability")
    TEXT_FIELD_NUMBER: _ClassVar[int]
    TEXT_START_FIELD_NUMBER: _ClassVar[int]
    TEXT_END_FIELD_NUMBER: _ClassVar[int]
    START_SAMPLES_FIELD_NUMBER: _ClassVar[int]
    END_SAMPLES_FIELD_NUMBER: _ClassVar[int]
    ESTIMATED_FIELD_NUMBER: _ClassVar[int]
    PROBABILITY_FIELD_NUMBER: _ClassVar[int]
    text: str
    text_start: int
    text_end: int
    start_samples: int
    end_samples: int
    estimated: bool
    probability: float
    def __init__(self, text: _Optional[str] = ..., text_start: _Optional[int] = ..., text_end: _Optional[int] = ..., start_samples: _Optional[int] = ..., end_samples: _Optional[int] = ..., estimated: _Optional[bool] = ..., probability: _Optional[float] = ...) -> None: ...

class SynthesisSummary(_message.Message):
    __slots__ = ("model", "digest", "first_audio_ms", "audio_ms", "real_time_factor", "stopped")
    MODEL_FIELD_NUMBER: _ClassVar[int]
    DIGEST_FIELD_NUMBER: _ClassVar[int]
    FIRST_AUDIO_MS_FIELD_NUMBER: _ClassVar[int]
    AUDIO_MS_FIELD_NUMBER: _ClassVar[int]
    REAL_TIME_FACTOR_FIELD_NUMBER: _ClassVar[int]
    STOPPED_FIELD_NUMBER: _ClassVar[int]
    model: str
    digest: str
    first_audio_ms: int
    audio_ms: int
    real_time_factor: float
    stopped: bool
    def __init__(self, model: _Optional[str] = ..., digest: _Optional[str] = ..., first_audio_ms: _Optional[int] = ..., audio_ms: _Optional[int] = ..., real_time_factor: _Optional[float] = ..., stopped: _Optional[bool] = ...) -> None: ...

class ControlRequest(_message.Message):
    __slots__ = ("stream_id", "action")
    class Action(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
        __slots__ = ()
        ACTION_UNSPECIFIED: _ClassVar[ControlRequest.Action]
        PAUSE: _ClassVar[ControlRequest.Action]
        RESUME: _ClassVar[ControlRequest.Action]
        STOP: _ClassVar[ControlRequest.Action]
    ACTION_UNSPECIFIED: ControlRequest.Action
    PAUSE: ControlRequest.Action
    RESUME: ControlRequest.Action
    STOP: ControlRequest.Action
    STREAM_ID_FIELD_NUMBER: _ClassVar[int]
    ACTION_FIELD_NUMBER: _ClassVar[int]
    stream_id: str
    action: ControlRequest.Action
    def __init__(self, stream_id: _Optional[str] = ..., action: _Optional[_Union[ControlRequest.Action, str]] = ...) -> None: ...

class ControlResponse(_message.Message):
    __slots__ = ("position_samples",)
    POSITION_SAMPLES_FIELD_NUMBER: _ClassVar[int]
    position_samples: int
    def __init__(self, position_samples: _Optional[int] = ...) -> None: ...
