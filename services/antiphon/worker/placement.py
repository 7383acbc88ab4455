"""A worker's placement, as entries of its catalogue."""

import logging
from collections.abc import Iterator

from antiphon.contracts.errors import AntiphonError
from antiphon.contracts.models import ModelSpec
from antiphon.registry.placement import Placement
from antiphon.registry.records import ModelRecord, Want
from antiphon.worker.slots import CatalogueEntry

logger = logging.getLogger(__name__)


def placed_entries(placement: Placement) -> list[CatalogueEntry]:
    """Everything that the catalogue names: what is wanted is held, what may be is loaded when a caller asks.

    What this version of the worker does not understand is left out, and logged.
    """
    want = placement.want or Want()
    return [entry for record in placement.models.values() for entry in _entries(record, want)]


def _entries(record: ModelRecord, want: Want) -> Iterator[CatalogueEntry]:
    for digest in _revisions(record):
        spec = _specification(record, digest)
        if spec is not None:
            held = any(_means(record, ref.name, ref.digest, digest) for ref in want.hold)
            may = any(_means(record, ref.name, ref.digest, digest) for ref in want.may)
            yield CatalogueEntry(spec, digest, stay="held" if held else "cached", may_load=held or may)


def _revisions(record: ModelRecord) -> list[str]:
    """The digests of a model's revisions, its own first."""
    others = [revision.digest for revision in record.revisions if revision.digest != record.digest]
    return [record.digest, *others]


def _means(record: ModelRecord, name: str, wanted: str, digest: str) -> bool:
    return name == record.name and digest == (wanted or record.digest)


def _specification(record: ModelRecord, digest: str) -> ModelSpec | None:
    try:
        spec = record.specification(digest)
    except AntiphonError as error:
        logger.warning("model left out of the catalogue", extra={"model": record.name, "cause": error.message})
        return None
    if spec is None:
        logger.warning("model left out of the catalogue", extra={"model": record.name, "cause": "no specification"})
    return spec
