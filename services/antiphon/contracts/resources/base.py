"""What the Kubernetes resources are made of: parts with rules that the API server and Python check alike.

A rule is written twice, in CEL for the API server and in Python for files that people hand to `antiphon up`, with one
sentence for both. A description is the docstring under its field: `kubectl explain` shows it.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Field, GetCoreSchemaHandler, GetJsonSchemaHandler, model_validator
from pydantic.alias_generators import to_camel
from pydantic_core import CoreSchema, core_schema

GROUP = "antiphon.dev"
"""The API group of all our resources."""
VERSION = "v1alpha1"
"""The version of the group."""
API_VERSION = f"{GROUP}/{VERSION}"
NAME_LIMIT = 40
"""Characters in a resource's name: what is made for a pool has a longer one, and 63 is Kubernetes' limit."""

JsonSchema = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Rule:
    """One thing that must hold, and what to change where it does not.

    As an annotation it belongs to one value, in `RULES` of a part to the whole part.
    """

    cel: str
    """What the API server evaluates: `self` is the value, `oldSelf` what it was."""
    message: str
    """One sentence that says what to change."""
    holds: Callable[[Any], bool] | None = None
    """The same in Python; None for a rule about a change, which a file by itself does not have."""

    def check(self, value: Any) -> Any:
        """The value.

        Raises:
            ValueError: It does not hold.
        """
        if self.holds is not None and not self.holds(value):
            raise ValueError(self.message)
        return value

    def rendered(self) -> JsonSchema:
        """One entry of `x-kubernetes-validations`."""
        return {"rule": self.cel, "message": self.message}

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.no_info_after_validator_function(self.check, handler(source))

    def __get_pydantic_json_schema__(self, core: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchema:
        found = handler(core)
        found.setdefault("x-kubernetes-validations", []).append(self.rendered())
        return found


def matching(pattern: str, message: str) -> Rule:
    """A rule for a string: the whole of it matches a pattern (of the syntax that RE2 and Python share)."""
    if "'" in pattern or "\\" in pattern:
        raise ValueError(f"Write the pattern without quotes and backslashes: {pattern}")
    compiled = re.compile(pattern)
    return Rule(f"self.matches('^({pattern})$')", message, lambda value: compiled.fullmatch(value) is not None)


@dataclass(frozen=True, slots=True)
class ListOf:
    """How a list's entries are told apart, for server-side apply: by their keys ("map"), by value ("set")."""

    kind: Literal["map", "set"]
    keys: tuple[str, ...] = ()
    """Of a map: the fields (as Python names them) that name an entry."""

    def check(self, entries: tuple[Any, ...]) -> tuple[Any, ...]:
        """The entries.

        Raises:
            ValueError: One of them is there twice.
        """
        seen: set[Any] = set()
        for entry in entries:
            key = tuple(getattr(entry, name) for name in self.keys) if self.keys else entry
            if key in seen:
                raise ValueError(f"Write {key[0] if self.keys else key!r} once.")
            seen.add(key)
        return entries

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.no_info_after_validator_function(self.check, handler(source))

    def __get_pydantic_json_schema__(self, core: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchema:
        found = handler(core)
        found["x-kubernetes-list-type"] = self.kind
        if self.keys:
            found["x-kubernetes-list-map-keys"] = [alias(name) for name in self.keys]
        return found


def alias(name: str) -> str:
    """How a field is called in manifests: `idle_ttl_seconds` is `idleTTLSeconds`, `size_mib` is `sizeMiB`."""
    return to_camel(name).replace("Mib", "MiB").replace("Ttl", "TTL")


class Part(BaseModel):
    """A piece of a manifest. Unknown fields are ignored, unless `model_validate` is told `extra="forbid"`."""

    model_config = ConfigDict(
        frozen=True,
        alias_generator=alias,
        populate_by_name=True,
        use_attribute_docstrings=True,
        serialize_by_alias=True,
    )

    RULES: ClassVar[tuple[Rule, ...]] = ()

    @model_validator(mode="after")
    def _rules_hold(self) -> "Part":
        for rule in self.RULES:
            rule.check(self)
        return self

    @classmethod
    def __get_pydantic_json_schema__(cls, core: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchema:
        found = handler(core)
        if cls.RULES:
            handler.resolve_ref_schema(found).setdefault(
                "x-kubernetes-validations", [rule.rendered() for rule in cls.RULES]
            )
        return found


Name = Annotated[
    str,
    Field(min_length=1, max_length=253),
    matching(
        "[a-z0-9]([a-z0-9.-]*[a-z0-9])?",
        "Write the name of an object: lower-case letters, digits, '-' and '.', a letter or digit at both ends.",
    ),
]


class Metadata(Part):
    """What Kubernetes knows of an object, as far as we read it."""

    model_config = ConfigDict(extra="ignore")

    name: Name
    """Of the object, unique in its namespace."""
    namespace: str = ""
    """The namespace that it is in; empty in a file."""
    uid: str = ""
    """Which object of this name; empty in a file."""
    generation: int = 0
    """Counts the changes of the spec."""
    labels: dict[str, str] = Field(default_factory=dict)
    """What it is selected by."""
    annotations: dict[str, str] = Field(default_factory=dict)
    """What others noted on it."""
    deletion_timestamp: str | None = None
    """Set once it is being deleted."""


class Condition(Part):
    """One thing that is so, is not so, or is not known, and why."""

    type: str = Field(min_length=1, max_length=64)
    """What is said, in one word."""
    status: Literal["True", "False", "Unknown"]
    """Whether it is so."""
    reason: str = Field(min_length=1, max_length=128)
    """Why, in one word for programs."""
    message: str = Field(default="", max_length=4096)
    """Why, in a sentence for people, with what to do where there is something to do."""
    observed_generation: int = Field(default=0, ge=0)
    """The generation of the spec that this was found at."""
    last_transition_time: str = Field(json_schema_extra={"format": "date-time"}, max_length=40)
    """When the status last changed."""
