from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class ListModelsRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class ListModelsResponse(_message.Message):
    __slots__ = ("models",)
    MODELS_FIELD_NUMBER: _ClassVar[int]
    models: _containers.RepeatedCompositeFieldContainer[ModelStatus]
    def __init__(self, models: _Optional[_Iterable[_Union[ModelStatus, _Mapping]]] = ...) -> None: ...

class DescribeModelRequest(_message.Message):
    __slots__ = ("name",)
    NAME_FIELD_NUMBER: _ClassVar[int]
    name: str
    def __init__(self, name: _Optional[str] = ...) -> None: ...

class LoadModelRequest(_message.Message):
    __slots__ = ("name", "digest")
    NAME_FIELD_NUMBER: _ClassVar[int]
    DIGEST_FIELD_NUMBER: _ClassVar[int]
    name: str
    digest: str
    def __init__(self, name: _Optional[str] = ..., digest: _Optional[str] = ...) -> None: ...

class UnloadModelRequest(_message.Message):
    __slots__ = ("name", "digest")
    NAME_FIELD_NUMBER: _ClassVar[int]
    DIGEST_FIELD_NUMBER: _ClassVar[int]
    name: str
    digest: str
    def __init__(self, name: _Optional[str] = ..., digest: _Optional[str] = ...) -> None: ...

class WatchModelsRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class Capabilities(_message.Message):
    __slots__ = ("task", "languages", "voices", "sample_rate_hz", "streaming_input", "streaming_output", "word_times", "cloning", "emotion", "licence")
    TASK_FIELD_NUMBER: _ClassVar[int]
    LANGUAGES_FIELD_NUMBER: _ClassVar[int]
    VOICES_FIELD_NUMBER: _ClassVar[int]
    SAMPLE_RATE_HZ_FIELD_NUMBER: _ClassVar[int]
    STREAMING_INPUT_FIELD_NUMBER: _ClassVar[int]
    STREAMING_OUTPUT_FIELD_NUMBER: _ClassVar[int]
    WORD_TIMES_FIELD_NUMBER: _ClassVar[int]
    CLONING_FIELD_NUMBER: _ClassVar[int]
    EMOTION_FIELD_NUMBER: _ClassVar[int]
    LICENCE_FIELD_NUMBER: _ClassVar[int]
    task: str
    languages: _containers.RepeatedScalarFieldContainer[str]
    voices: _containers.RepeatedScalarFieldContainer[str]
    sample_rate_hz: int
    streaming_input: bool
    streaming_output: bool
    word_times: bool
    cloning: bool
    emotion: bool
    licence: str
    def __init__(self, task: _Optional[str] = ..., languages: _Optional[_Iterable[str]] = ..., voices: _Optional[_Iterable[str]] = ..., sample_rate_hz: _Optional[int] = ..., streaming_input: _Optional[bool] = ..., streaming_output: _Optional[bool] = ..., word_times: _Optional[bool] = ..., cloning: _Optional[bool] = ..., emotion: _Optional[bool] = ..., licence: _Optional[str] = ...) -> None: ...

class ModelStatus(_message.Message):
    __slots__ = ("name", "aliases", "engine", "digest", "state", "streams", "memory_mib", "progress", "message", "capabilities")
    class State(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
        __slots__ = ()
        STATE_UNSPECIFIED: _ClassVar[ModelStatus.State]
        ABSENT: _ClassVar[ModelStatus.State]
        LOADING: _ClassVar[ModelStatus.State]
        WARM: _ClassVar[ModelStatus.State]
        IN_USE: _ClassVar[ModelStatus.State]
        LEAVING: _ClassVar[ModelStatus.State]
        FAILED: _ClassVar[ModelStatus.State]
    STATE_UNSPECIFIED: ModelStatus.State
    ABSENT: ModelStatus.State
    LOADING: ModelStatus.State
    WARM: ModelStatus.State
    IN_USE: ModelStatus.State
    LEAVING: ModelStatus.State
    FAILED: ModelStatus.State
    NAME_FIELD_NUMBER: _ClassVar[int]
    ALIASES_FIELD_NUMBER: _ClassVar[int]
    ENGINE_FIELD_NUMBER: _ClassVar[int]
    DIGEST_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    STREAMS_FIELD_NUMBER: _ClassVar[int]
    MEMORY_MIB_FIELD_NUMBER: _ClassVar[int]
    PROGRESS_FIELD_NUMBER: _ClassVar[int]
    MESSAGE_FIELD_NUMBER: _ClassVar[int]
    CAPABILITIES_FIELD_NUMBER: _ClassVar[int]
    name: str
    aliases: _containers.RepeatedScalarFieldContainer[str]
    engine: str
    digest: str
    state: ModelStatus.State
    streams: int
    memory_mib: int
    progress: float
    message: str
    capabilities: Capabilities
    def __init__(self, name: _Optional[str] = ..., aliases: _Optional[_Iterable[str]] = ..., engine: _Optional[str] = ..., digest: _Optional[str] = ..., state: _Optional[_Union[ModelStatus.State, str]] = ..., streams: _Optional[int] = ..., memory_mib: _Optional[int] = ..., progress: _Optional[float] = ..., message: _Optional[str] = ..., capabilities: _Optional[_Union[Capabilities, _Mapping]] = ...) -> None: ...
