from antiphon.contracts.v1 import synthesis_pb2 as _synthesis_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class RecognizeRequest(_message.Message):
    __slots__ = ("config", "audio", "pause", "end")
    CONFIG_FIELD_NUMBER: _ClassVar[int]
    AUDIO_FIELD_NUMBER: _ClassVar[int]
    PAUSE_FIELD_NUMBER: _ClassVar[int]
    END_FIELD_NUMBER: _ClassVar[int]
    config: RecognitionConfig
    audio: AudioInput
    pause: Pause
    end: EndOfAudio
    def __init__(self, config: _Optional[_Union[RecognitionConfig, _Mapping]] = ..., audio: _Optional[_Union[AudioInput, _Mapping]] = ..., pause: _Optional[_Union[Pause, _Mapping]] = ..., end: _Optional[_Union[EndOfAudio, _Mapping]] = ...) -> None: ...

class RecognitionConfig(_message.Message):
    __slots__ = ("stream_id", "session_id", "model", "digest", "language", "sample_rate_hz", "partials", "word_times")
    STREAM_ID_FIELD_NUMBER: _ClassVar[int]
    SESSION_ID_FIELD_NUMBER: _ClassVar[int]
    MODEL_FIELD_NUMBER: _ClassVar[int]
    DIGEST_FIELD_NUMBER: _ClassVar[int]
    LANGUAGE_FIELD_NUMBER: _ClassVar[int]
    SAMPLE_RATE_HZ_FIELD_NUMBER: _ClassVar[int]
    PARTIALS_FIELD_NUMBER: _ClassVar[int]
    WORD_TIMES_FIELD_NUMBER: _ClassVar[int]
    stream_id: str
    session_id: str
    model: str
    digest: str
    language: str
    sample_rate_hz: int
    partials: bool
    word_times: bool
    def __init__(self, stream_id: _Optional[str] = ..., session_id: _Optional[str] = ..., model: _Optional[str] = ..., digest: _Optional[str] = ..., language: _Optional[str] = ..., sample_rate_hz: _Optional[int] = ..., partials: _Optional[bool] = ..., word_times: _Optional[bool] = ...) -> None: ...

class AudioInput(_message.Message):
    __slots__ = ("pcm",)
    PCM_FIELD_NUMBER: _ClassVar[int]
    pcm: bytes
    def __init__(self, pcm: _Optional[bytes] = ...) -> None: ...

class Pause(_message.Message):
    __slots__ = ("pause_id", "silence_ms")
    PAUSE_ID_FIELD_NUMBER: _ClassVar[int]
    SILENCE_MS_FIELD_NUMBER: _ClassVar[int]
    pause_id: int
    silence_ms: int
    def __init__(self, pause_id: _Optional[int] = ..., silence_ms: _Optional[int] = ...) -> None: ...

class EndOfAudio(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class RecognizeResponse(_message.Message):
    __slots__ = ("partial", "speculative", "final")
    PARTIAL_FIELD_NUMBER: _ClassVar[int]
    SPECULATIVE_FIELD_NUMBER: _ClassVar[int]
    FINAL_FIELD_NUMBER: _ClassVar[int]
    partial: Partial
    speculative: SpeculativeFinal
    final: Final
    def __init__(self, partial: _Optional[_Union[Partial, _Mapping]] = ..., speculative: _Optional[_Union[SpeculativeFinal, _Mapping]] = ..., final: _Optional[_Union[Final, _Mapping]] = ...) -> None: ...

class Partial(_message.Message):
    __slots__ = ("text", "stable_chars", "stability", "audio_ms")
    TEXT_FIELD_NUMBER: _ClassVar[int]
    STABLE_CHARS_FIELD_NUMBER: _ClassVar[int]
    STABILITY_FIELD_NUMBER: _ClassVar[int]
    AUDIO_MS_FIELD_NUMBER: _ClassVar[int]
    text: str
    stable_chars: int
    stability: float
    audio_ms: int
    def __init__(self, text: _Optional[str] = ..., stable_chars: _Optional[int] = ..., stability: _Optional[float] = ..., audio_ms: _Optional[int] = ...) -> None: ...

class SpeculativeFinal(_message.Message):
    __slots__ = ("pause_id", "transcript", "end_of_turn_probability")
    PAUSE_ID_FIELD_NUMBER: _ClassVar[int]
    TRANSCRIPT_FIELD_NUMBER: _ClassVar[int]
    END_OF_TURN_PROBABILITY_FIELD_NUMBER: _ClassVar[int]
    pause_id: int
    transcript: Transcript
    end_of_turn_probability: float
    def __init__(self, pause_id: _Optional[int] = ..., transcript: _Optional[_Union[Transcript, _Mapping]] = ..., end_of_turn_probability: _Optional[float] = ...) -> None: ...

class Final(_message.Message):
    __slots__ = ("transcript", "model", "digest", "audio_ms", "final_ms")
    TRANSCRIPT_FIELD_NUMBER: _ClassVar[int]
    MODEL_FIELD_NUMBER: _ClassVar[int]
    DIGEST_FIELD_NUMBER: _ClassVar[int]
    AUDIO_MS_FIELD_NUMBER: _ClassVar[int]
    FINAL_MS_FIELD_NUMBER: _ClassVar[int]
    transcript: Transcript
    model: str
    digest: str
    audio_ms: int
    final_ms: int
    def __init__(self, transcript: _Optional[_Union[Transcript, _Mapping]] = ..., model: _Optional[str] = ..., digest: _Optional[str] = ..., audio_ms: _Optional[int] = ..., final_ms: _Optional[int] = ...) -> None: ...

class Transcript(_message.Message):
    __slots__ = ("text", "language", "words", "mean_log_probability", "no_speech_probability")
    TEXT_FIELD_NUMBER: _ClassVar[int]
    LANGUAGE_FIELD_NUMBER: _ClassVar[int]
    WORDS_FIELD_NUMBER: _ClassVar[int]
    MEAN_LOG_PROBABILITY_FIELD_NUMBER: _ClassVar[int]
    NO_SPEECH_PROBABILITY_FIELD_NUMBER: _ClassVar[int]
    text: str
    language: str
    words: _containers.RepeatedCompositeFieldContainer[_synthesis_pb2.Word]
    mean_log_probability: float
    no_speech_probability: float
    def __init__(self, text: _Optional[str] = ..., language: _Optional[str] = ..., words: _Optional[_Iterable[_Union[_synthesis_pb2.Word, _Mapping]]] = ..., mean_log_probability: _Optional[float] = ..., no_speech_probability: _Optional[float] = ...) -> None: ...
