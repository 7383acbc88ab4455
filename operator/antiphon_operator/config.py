"""All that the operator is told: from the environment (`ANTIPHON_OPERATOR_...`)."""

import socket
from typing import Annotated, Any

from pydantic import Field, SecretStr, field_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from antiphon.contracts.errors import AntiphonError
from antiphon.registry.client import open_client


class OperatorConfig(BaseSettings):
    """One operator. Frozen; loaded once, handed down."""

    model_config = SettingsConfigDict(env_prefix="ANTIPHON_OPERATOR_", frozen=True, use_attribute_docstrings=True)

    namespaces: Annotated[tuple[str, ...], NoDecode] = ()
    """Whose objects it looks after, separated by commas; none: those of the whole cluster."""
    identity: str = Field(default_factory=socket.gethostname, min_length=1, max_length=253)
    """Who holds the lease: the pod's name. The host's name otherwise."""
    lease_name: str = Field(default="antiphon-operator", min_length=1, max_length=63)
    """Of the Lease that the operators of one installation campaign for."""
    lease_namespace: str = Field(default="default", min_length=1, max_length=63)
    """Where that Lease is: the operator's own namespace."""
    redis_url: SecretStr = SecretStr("redis://127.0.0.1:6379")
    """The registry, as the operator reaches it; it may hold a password."""
    registry_secret: str = Field(default="antiphon-registry", min_length=1, max_length=253)
    """The Secret whose key `url` tells the workers of a namespace where the registry is."""
    worker_token_secret: str = Field(default="antiphon-workers", min_length=1, max_length=253)
    """The Secret whose key `token` holds what callers of a namespace's workers must show."""
    host: str = "0.0.0.0"
    """The address on which health and metrics are served."""
    metrics_port: int = Field(default=9103, ge=0, le=65535)
    """`/metrics`; 0: any free one."""
    health_port: int = Field(default=8080, ge=0, le=65535)
    """`/livez` and `/readyz`; 0: any free one."""
    log_json: bool = False
    """Log lines as JSON, not as text."""
    log_level: str = "INFO"
    """The lowest level that is logged."""

    @field_validator("redis_url")
    @classmethod
    def _usable(cls, value: SecretStr) -> SecretStr:
        try:
            open_client(value.get_secret_value())
        except AntiphonError as error:
            raise ValueError(error.message) from None
        return value

    @field_validator("namespaces", mode="before")
    @classmethod
    def _split(cls, value: Any) -> Any:
        return tuple(part.strip() for part in value.split(",") if part.strip()) if isinstance(value, str) else value
