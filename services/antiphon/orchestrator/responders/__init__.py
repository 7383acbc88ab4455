"""Responders: who thinks of what to say."""

from typing import TYPE_CHECKING

from antiphon.orchestrator.config import EchoConfig, ResponderConfig
from antiphon.orchestrator.responders.echo import EchoResponder

if TYPE_CHECKING:
    from antiphon.orchestrator.responders.chat import ChatResponder

__all__ = ["EchoResponder", "make_responder"]


def make_responder(config: ResponderConfig) -> "EchoResponder | ChatResponder":
    """The responder that an assistant's configuration asks for; close it with `aclose` when the server ends.

    Raises `AntiphonError(INVALID_REQUEST)` when its key cannot be read.
    """
    if isinstance(config, EchoConfig):
        return EchoResponder(config.prefix)
    from antiphon.orchestrator.responders.chat import ChatResponder  # takes half a second: for who needs it

    return ChatResponder(
        config.url,
        config.model,
        key=config.key.read() if config.key is not None else None,
        timeout_s=config.timeout_s,
        temperature=config.temperature,
    )
