"""A conversation's history as chat messages."""

import logging
from collections.abc import Iterable, Sequence
from typing import Any

from antiphon.conversation.items import FunctionCall, FunctionCallOutput, Item, Message
from antiphon.conversation.ports import Tool

logger = logging.getLogger(__name__)

NO_ANSWER_YET = "(no answer yet)"
"""Chat servers refuse a history in which a tool call has no answer; a client may still be working on it."""


def chat_messages(instructions: str, history: Sequence[Item]) -> list[dict[str, Any]]:
    """The history as chat completions take it: the instructions first, an assistant's words as they were heard.

    Calls that follow each other become one assistant message, and their answers stand right after it, wherever the
    client put them: chat servers refuse any other order. Messages without a word (a reply that was interrupted before
    it was heard) and calls that were broken off are left out, and so are answers to calls that are not in the history.
    """
    answers = {item.call_id: item.output for item in history if isinstance(item, FunctionCallOutput)}
    messages: list[dict[str, Any]] = [{"role": "system", "content": instructions}] if instructions else []
    calls: list[FunctionCall] = []
    for item in history:
        if isinstance(item, FunctionCall) and item.status == "completed":
            calls.append(item)
        elif isinstance(item, Message) and item.text.strip():
            messages += _called(calls, answers)
            messages.append({"role": item.role, "content": item.text})
            calls = []
    messages += _called(calls, answers)
    _report_orphans(history)
    return messages


def _called(calls: Sequence[FunctionCall], answers: dict[str, str]) -> list[dict[str, Any]]:
    if not calls:
        return []
    requests = [
        {"id": call.call_id, "type": "function", "function": {"name": call.name, "arguments": call.arguments or "{}"}}
        for call in calls
    ]
    replies = [
        {"role": "tool", "tool_call_id": call.call_id, "content": answers.get(call.call_id, NO_ANSWER_YET)}
        for call in calls
    ]
    return [{"role": "assistant", "content": None, "tool_calls": requests}, *replies]


def _report_orphans(history: Iterable[Item]) -> None:
    called: set[str] = set()
    for item in history:
        if isinstance(item, FunctionCall) and item.status == "completed":
            called.add(item.call_id)
        elif isinstance(item, FunctionCallOutput) and item.call_id not in called:
            logger.warning("a tool's answer without its call was left out", extra={"call_id": item.call_id})


def chat_tools(tools: Sequence[Tool], tool_choice: str | dict[str, Any]) -> dict[str, Any]:
    """The request's `tools` and `tool_choice`; nothing when there are no tools."""
    if not tools:
        return {}
    if isinstance(tool_choice, dict) and "name" in tool_choice:  # Realtime names the function one level higher
        tool_choice = {"type": "function", "function": {"name": tool_choice["name"]}}
    functions = [
        {"name": tool.name, "description": tool.description, "parameters": tool.parameters or _NO_PARAMETERS}
        for tool in tools
    ]
    return {"tools": [{"type": "function", "function": each} for each in functions], "tool_choice": tool_choice}


_NO_PARAMETERS = {"type": "object", "properties": {}}
