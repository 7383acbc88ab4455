"""What the operator is told, refused in a sentence where it cannot be meant."""

import pytest
from pydantic import ValidationError

from antiphon_operator.config import OperatorConfig

pytestmark = pytest.mark.unit


@pytest.mark.parametrize(
    ("url", "sentence"),
    [
        ("", "must specify one of the following schemes"),
        ("http://redis:6379", "must specify one of the following schemes"),
        ("redis+sentinel://user:hush@a:1", "names no service"),
        ("redis://user:hu/sh@redis:6379", "write what is special in a password as %XX"),
    ],
)
def test_a_registry_that_cannot_be_is_refused_at_once_and_no_password_is_told(url: str, sentence: str) -> None:
    with pytest.raises(ValidationError) as refused:
        OperatorConfig(redis_url=url)  # type: ignore[arg-type]
    (error,) = refused.value.errors(include_input=False)
    assert sentence in error["msg"] and "'hu'" not in error["msg"] and "hush" not in error["msg"]


def test_namespaces_are_separated_by_commas() -> None:
    assert OperatorConfig(namespaces="a, b,").namespaces == ("a", "b")  # type: ignore[arg-type]
    assert OperatorConfig(redis_url="redis://:hush@a").redis_url.get_secret_value() == "redis://:hush@a"  # type: ignore[arg-type]
