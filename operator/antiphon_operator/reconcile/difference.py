"""Whether an object is as it should be, seen through all that the API server and others add to it.

An apply that changes nothing is a request all the same, so it is not sent: what is desired must be a part of what is
live (fields of others do not matter), and the digest of what was applied last must be the present one (a field that we
say no more must go).
"""

import hashlib
import json
import re
from collections.abc import Mapping
from decimal import Decimal
from typing import Any

APPLIED = "antiphon.dev/applied"
"""The annotation with the digest of what was applied."""

_QUANTITY = re.compile(r"([0-9]+(?:\.[0-9]+)?)(m|k|M|G|T|P|Ki|Mi|Gi|Ti|Pi)?")
_FACTORS = {"": Decimal(1), "m": Decimal("0.001")}
_FACTORS |= {letter: Decimal(1000) ** power for power, letter in enumerate("kMGTP", start=1)}
_FACTORS |= {f"{letter}i": Decimal(1024) ** power for power, letter in enumerate("KMGTP", start=1)}
_OF_QUANTITIES = ("requests", "limits")
_QUANTITIES = ("sizeLimit",)


def signed(manifest: Mapping[str, Any]) -> dict[str, Any]:
    """The manifest with its digest as an annotation."""
    digest = hashlib.sha256(json.dumps(manifest, sort_keys=True).encode()).hexdigest()[:16]
    metadata = manifest["metadata"]
    annotations = {**metadata.get("annotations", {}), APPLIED: digest}
    return {**manifest, "metadata": {**metadata, "annotations": annotations}}


def is_so(desired: Any, live: Any, key: str = "") -> bool:
    """Whether what is desired is a part of what is live."""
    if isinstance(desired, dict):
        return isinstance(live, dict) and all(
            name in live and is_so(value, live[name], "quantity" if key in _OF_QUANTITIES else name)
            for name, value in desired.items()
        )
    if isinstance(desired, list):
        if not isinstance(live, list):
            return False
        if desired and all(isinstance(mine, dict) and "name" in mine for mine in desired):
            # Containers, variables, volumes: lists that the API server merges. Others may have added theirs.
            return all(any(is_so(mine, theirs) for theirs in live) for mine in desired)
        return len(desired) == len(live) and all(map(is_so, desired, live))
    if key == "quantity" or key in _QUANTITIES:
        return _amount(desired) == _amount(live)
    return bool(desired == live)


def _amount(quantity: Any) -> Decimal | str:
    found = _QUANTITY.fullmatch(str(quantity))
    return Decimal(found[1]) * _FACTORS[found[2] or ""] if found else str(quantity)
