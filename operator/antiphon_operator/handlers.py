"""The index: all that the operator listens to. A handler only tells the world; what follows is the queue's."""

import os
from collections.abc import Callable, Coroutine
from typing import Any

import kopf

from antiphon_operator.kube import RESOURCES
from antiphon_operator.world import KINDS, World


def listen(world: World) -> kopf.OperatorRegistry:
    """The handlers: one for each kind, and how kopf is to behave."""
    registry = kopf.OperatorRegistry()
    kopf.on.startup(registry=registry, id="configure")(_configure)
    kopf.on.login(registry=registry, id="login")(_login)
    for kind in KINDS:
        group, _, version = RESOURCES[kind].api_version.rpartition("/")
        kopf.on.event(group, version, RESOURCES[kind].plural, registry=registry, id=f"follow-{kind}")(
            _follow(world, kind)
        )
    return registry


def _follow(world: World, kind: str) -> Callable[..., Coroutine[Any, Any, None]]:
    async def follow(event: kopf.RawEvent, **_: Any) -> None:
        if event["type"] == "DELETED":
            world.remove(kind, event["object"])
        else:
            world.put(kind, event["object"])

    return follow


async def _configure(settings: kopf.OperatorSettings, **_: Any) -> None:
    settings.posting.enabled = False
    settings.persistence.diffbase_storage = _Nothing()
    settings.persistence.progress_storage = _NoProgress()
    settings.scanning.disabled = True
    # One second after another for a day: by default it gives up a watch after a few tries.
    settings.networking.error_backoffs = [1] * 100_000
    settings.networking.connect_timeout = 2
    # A watch on a path that was cut without a word ends by itself.
    settings.watching.server_timeout = 240
    settings.watching.client_timeout = 300
    settings.watching.reconnect_backoff = 0.1


async def _login(**of_kopf: Any) -> kopf.ConnectionInfo | None:
    if os.environ.get("KUBERNETES_SERVICE_HOST") and not os.environ.get("KUBECONFIG"):
        return kopf.login_with_service_account(**of_kopf)
    return kopf.login_with_kubeconfig(**of_kopf)


class _Nothing(kopf.DiffBaseStorage):
    """What an object was before is not kept: by default every event costs a deep copy to find out what has changed."""

    def build(self, **_: Any) -> kopf.BodyEssence:
        return kopf.BodyEssence()

    def fetch(self, **_: Any) -> None:
        return None

    def store(self, **_: Any) -> None:
        pass


class _NoProgress(kopf.ProgressStorage):
    """Nor is how far a handler came: ours only tell the world."""

    def fetch(self, **_: Any) -> None:
        return None

    def store(self, **_: Any) -> None:
        pass

    def purge(self, **_: Any) -> None:
        pass

    def touch(self, **_: Any) -> None:
        pass

    def clear(self, *, essence: kopf.BodyEssence) -> kopf.BodyEssence:
        return essence
