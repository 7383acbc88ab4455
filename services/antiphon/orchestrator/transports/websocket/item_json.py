"""Conversation items to and from the Realtime API's JSON."""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, Field

from antiphon.conversation.engine import ClientError
from antiphon.conversation.items import FunctionCall, FunctionCallOutput, Item, Message, Role, new_id

ITEM_ID_CHARS = 64
"""OpenAI bounds a client's item id by 32; a little room for other clients."""
TEXT_CHARS = 262_144
"""One text that a client writes: more than any model's context, less than would hold up other sessions."""
Text = Annotated[str, Field(max_length=TEXT_CHARS)]


def item_json(item: Item, *, transcription: bool = True) -> dict[str, Any]:
    """The item as the Realtime API writes it; a user's words are left out unless there is `transcription`."""
    common = {"id": item.id, "object": "realtime.item", "status": item.status}
    if isinstance(item, Message):
        return {**common, "type": "message", "role": item.role, "content": _content(item, transcription)}
    if isinstance(item, FunctionCall):
        call = {"call_id": item.call_id, "name": item.name, "arguments": item.arguments}
        return {**common, "type": "function_call", **call}
    return {**common, "type": "function_call_output", "call_id": item.call_id, "output": item.output}


def _content(message: Message, transcription: bool) -> list[dict[str, Any]]:
    if message.role == "assistant":
        if message.status == "in_progress":
            return []  # its content comes as a content part
        if message.spoken:
            return [{"type": "output_audio", "transcript": message.text}]
        return [{"type": "output_text", "text": message.text}]
    if message.spoken:
        heard = message.text if transcription and message.status != "in_progress" else None
        return [{"type": "input_audio", "transcript": heard}]
    return [{"type": "input_text", "text": message.text}]


# --- what clients write -----------------------------------------------------------------------------------------------


class Content(BaseModel):
    """A part of a client's message."""

    type: str
    text: Text | None = None


class NewMessage(BaseModel):
    """A message that a client puts into the conversation."""

    type: Literal["message"]
    id: str | None = Field(default=None, min_length=1, max_length=ITEM_ID_CHARS)
    role: Role
    content: list[Content] = Field(max_length=64)


class NewFunctionCall(BaseModel):
    """A call from an earlier conversation."""

    type: Literal["function_call"]
    id: str | None = Field(default=None, min_length=1, max_length=ITEM_ID_CHARS)
    call_id: str | None = None
    name: str = Field(max_length=64)
    arguments: Text


class NewFunctionCallOutput(BaseModel):
    """A client's answer to a call."""

    type: Literal["function_call_output"]
    id: str | None = Field(default=None, min_length=1, max_length=ITEM_ID_CHARS)
    call_id: str
    output: Text


NewItem = Annotated[NewMessage | NewFunctionCall | NewFunctionCallOutput, Field(discriminator="type")]


def to_item(new: NewMessage | NewFunctionCall | NewFunctionCallOutput) -> Item:
    """The item that a client asks for. Raises `ClientError` for content that a conversation cannot hold."""
    item_id = new.id or new_id("item")
    if isinstance(new, NewFunctionCall):
        return FunctionCall(item_id, new.call_id or new_id("call"), new.name, new.arguments)
    if isinstance(new, NewFunctionCallOutput):
        return FunctionCallOutput(item_id, new.call_id, new.output)
    return Message(item_id, new.role, "\n".join(_text(part, new.role) for part in new.content))


def _text(part: Content, role: Role) -> str:
    expected = ("output_text", "text") if role == "assistant" else ("input_text", "text")
    if part.type not in expected or part.text is None:
        raise ClientError(
            "invalid_value",
            f"A message of the {role} is written as content of type '{expected[0]}' with its text; "
            "audio comes through input_audio_buffer.append, and images are not supported.",
            param="item.content",
        )
    return part.text
