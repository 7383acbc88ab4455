"""`antiphon registrar`: catalogue, membership and placement of workers that no operator looks after."""

import logging
from pathlib import Path

from antiphon.cli.placement import want_of
from antiphon.contracts.errors import AntiphonError, Reason
from antiphon.contracts.models import used_twice
from antiphon.contracts.resources import VoiceModel
from antiphon.contracts.resources.manifests import read_manifests
from antiphon.registry.records import Lease, ModelRecord, Want
from antiphon.registry.writer import RegistryWriter

POOL = "local"

logger = logging.getLogger(__name__)


async def keep(manifests: Path, redis_url: str, namespace: str) -> None:
    """Make every worker that announces itself a member, and place the models on them; until cancelled.

    Args:
        manifests: A file of VoiceModels, or a folder of such files. How a cluster is to spread them says nothing here:
            each worker holds what it has the engine and the memory for.
        redis_url: The registry. No other writer may be there, such as an operator.
        namespace: Of its keys.

    Raises:
        AntiphonError: INVALID_REQUEST for manifests that are not valid, hold no VoiceModel or use a name twice;
            EPOCH_STALE when another writer took over.
    """
    models = [each for each in read_manifests(manifests) if isinstance(each, VoiceModel)]
    if not models:
        raise AntiphonError(Reason.INVALID_REQUEST, f"There is no VoiceModel in {manifests}: name a file that has one.")
    if twice := used_twice(model.specification() for model in models):
        message = f"These names or aliases of models are used twice in {manifests}: {', '.join(twice)}."
        raise AntiphonError(Reason.INVALID_REQUEST, message)
    catalogue = [ModelRecord.of(model.specification(), model.capabilities) for model in models]

    def place(lease: Lease) -> Want:
        return want_of(catalogue, lease)

    writer = RegistryWriter(redis_url, namespace, adopt=POOL, place=place)
    writer.set_models(catalogue)
    logger.info("registrar serves", extra={"models": [record.name for record in catalogue], "namespace": namespace})
    await writer.run()
