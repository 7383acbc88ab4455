"""A multipart form with one file, which goes to disk as it comes."""

import asyncio
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
from aiohttp import web
from aiohttp.http_exceptions import HttpProcessingError
from aiohttp.web_protocol import RequestPayloadError

from antiphon.contracts.errors import Reason
from antiphon.orchestrator.http_requests import FieldError

_PIECE_BYTES = 1 << 20
_FIELD_BYTES = 1 << 16
_FIELDS = 64


@dataclass(slots=True)
class Upload:
    """The form's values by name, lists for names that end in `[]`, and where the file lies."""

    path: Path
    has_file: bool = False
    values: dict[str, Any] = field(default_factory=dict)


@asynccontextmanager
async def uploaded(request: web.Request, max_bytes: int) -> AsyncIterator[Upload]:
    """The form, its `file` in a temporary file that is gone afterwards.

    Raises `FieldError`: INVALID_REQUEST for what is no such form, UPLOAD_TOO_LARGE for more than `max_bytes`.
    """
    with tempfile.TemporaryDirectory(prefix="antiphon-") as folder:
        upload = Upload(Path(folder) / "upload")
        try:
            if not request.content_type.startswith("multipart/"):
                raise ValueError("not multipart")
            await _read(await request.multipart(), upload, max_bytes)
        except (ValueError, AssertionError, HttpProcessingError, RequestPayloadError):
            raise FieldError("body", "The body must be multipart/form-data with a `file` and a `model`.") from None
        if not upload.has_file:
            raise FieldError("file", "The form has no `file`: send the recording as a file.")
        yield upload


async def _read(form: aiohttp.MultipartReader, upload: Upload, max_bytes: int) -> None:
    async for part in form:
        if not isinstance(part, aiohttp.BodyPartReader) or part.name is None or len(upload.values) > _FIELDS:
            raise ValueError("not a form field")
        if part.name == "file":
            await _store(part, upload.path, max_bytes)
            upload.has_file = True
            continue
        value = await _value(part)
        if part.name.endswith("[]"):
            upload.values.setdefault(part.name, []).append(value)
        else:
            upload.values[part.name] = value


async def _value(part: aiohttp.BodyPartReader) -> str:
    value = bytearray()
    while piece := await part.read_chunk(_FIELD_BYTES):
        value += piece
        if len(value) > _FIELD_BYTES:
            raise FieldError(part.name or "body", f"{part.name} is longer than {_FIELD_BYTES} bytes.")
    return value.decode()


async def _store(part: aiohttp.BodyPartReader, path: Path, max_bytes: int) -> None:
    received_bytes = 0
    with await asyncio.to_thread(path.open, "wb") as file:
        while piece := await part.read_chunk(_PIECE_BYTES):
            received_bytes += len(piece)
            if received_bytes > max_bytes:
                message = f"The file is larger than {max_bytes // 2**20} MiB: send it compressed, or in parts."
                raise FieldError("file", message, Reason.UPLOAD_TOO_LARGE)
            await asyncio.to_thread(file.write, piece)
