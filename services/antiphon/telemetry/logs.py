"""Log lines: a constant message and fields, as text for people or as JSON for machines."""

import json
import logging
import time
import traceback
from typing import Any

_STANDARD = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}


def configure_logging(*, as_json: bool, level: str = "INFO") -> None:
    """Send every log line of this process to standard error, in one form.

    Args:
        as_json: One JSON object a line (pods), else text (terminals).
        level: The lowest level that is shown, by name.
    """
    handler = logging.StreamHandler()
    handler.setFormatter(JsonFormatter() if as_json else TextFormatter())
    log_to(handler, level)


def log_to(handler: logging.Handler, level: str = "INFO") -> None:
    """Send every log line of this process there, and nowhere else."""
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)
    # It logs the address of every request: some hold a password, or the signature that opens a file to anybody.
    logging.getLogger("httpx").setLevel(logging.WARNING)


def fields_of(record: logging.LogRecord) -> dict[str, Any]:
    """The fields that were given as `extra`."""
    return {name: value for name, value in vars(record).items() if name not in _STANDARD}


def where(error: BaseException) -> str:
    """Type and place of an error, innermost first, without its text, which may hold what somebody said."""
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    frames = traceback.extract_tb(error.__traceback__)[-3:]
    places = " < ".join(f"{frame.filename}:{frame.lineno}" for frame in reversed(frames))
    return f"{type(error).__name__} at {places}" if places else type(error).__name__


class JsonFormatter(logging.Formatter):
    """One JSON object a line: time, level, logger, message, and the fields."""

    def format(self, record: logging.LogRecord) -> str:
        """The line."""
        line: dict[str, Any] = {
            "time": time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created)) + f".{record.msecs:03.0f}Z",
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        if record.exc_info:
            line["error"] = self.formatException(record.exc_info)
        return json.dumps(line | fields_of(record), default=str, ensure_ascii=False)


class TextFormatter(logging.Formatter):
    """One line for a terminal: time, level, message, and the fields as name=value."""

    def __init__(self) -> None:
        super().__init__("%(asctime)s.%(msecs)03d %(levelname)-7s %(message)s", "%H:%M:%S")

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802
        """The line without a traceback."""
        fields = "".join(f" {name}={value}" for name, value in fields_of(record).items() if value != "")
        return super().formatMessage(record) + fields
