"""Sessions while Redis does not answer, or answers with less than what is known here."""

import asyncio
from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import pytest
from redis.exceptions import ConnectionError

from antiphon.orchestrator.config import OrchestratorConfig
from antiphon.orchestrator.holds import Hold
from antiphon.orchestrator.sessions import SessionKeeper, new_session_id
from antiphon.registry.records import SessionRecord
from antiphon.registry.sessions import OWNED_S, Claim

pytestmark = [pytest.mark.unit, pytest.mark.looptime]


class Store:
    """Does not answer, in the time that it takes to find that out, but for what a test lets it answer."""

    def __init__(self) -> None:
        self.there: SessionRecord | None = None
        self.renews: set[str] = set()
        """Parts that hold one of these are answered, after a while; the others are refused at once."""

    async def read(self, _: str) -> SessionRecord | None:
        if self.there is None:
            await asyncio.sleep(0.5)
            raise ConnectionError("it hangs")
        return self.there

    async def claim(self, _: str, owner: str, __: float) -> Claim | None:
        assert self.there is not None
        self.there = self.there.model_copy(update={"owner": owner, "epoch": self.there.epoch + 1})
        return Claim(self.there, released=False)

    async def renew(self, told: Sequence[tuple[str, float]]) -> list[tuple[str, int] | None]:
        if not self.renews & {session_id for session_id, _ in told}:
            raise ConnectionError("it refuses")
        await asyncio.sleep(0.2)
        return [None] * len(told)


def keeper_of(store: Store) -> SessionKeeper:
    config, claims = OrchestratorConfig(), SimpleNamespace()
    return SessionKeeper(store, "me", claims, lambda name: config.assistant(name)[1])  # type: ignore[arg-type]


def opened(keeper: SessionKeeper, said: str = "hello") -> Hold:
    hold = keeper.open(new_session_id(), "", "default")
    item = {"id": "item_1", "role": "user", "text": said}
    hold.attach(lambda: ({"a": 1}, (item,)), lambda: None)
    return hold


async def parked(keeper: SessionKeeper, said: str = "hello") -> Hold:
    hold = opened(keeper, said)
    await hold.release()
    return hold


async def test_many_that_come_back_while_redis_hangs_keep_nobody_else_from_answering() -> None:
    keeper = keeper_of(Store())
    back = await asyncio.gather(*(parked(keeper) for _ in range(300)))
    running = opened(keeper)
    keeping = asyncio.create_task(keeper._confirm())
    coming = asyncio.gather(*(keeper.resume(hold.record.session_id, "") for hold in back))
    while not coming.done():
        assert running.confirmed
        await asyncio.sleep(0.05)
    assert all(hold.confirmed for hold in await coming)
    keeping.cancel()


async def test_what_lies_in_redis_is_no_reason_to_forget_what_was_said_while_it_was_away() -> None:
    store = Store()
    keeper = keeper_of(store)
    session_id = (await parked(keeper, "before")).record.session_id
    for said in ("away", "still away"):
        hold = await keeper.resume(session_id, "")
        item: dict[str, Any] = {"id": "item_2", "role": "user", "text": said}
        hold.attach(lambda item=item: ({"a": 1}, (item,)), lambda: None)  # type: ignore[misc]
        await hold.release()
    store.there = SessionRecord(session_id=session_id, owner="me", epoch=1, assistant="default")
    back, taken = await keeper.resume(session_id, ""), list[str]()
    back.attach(lambda: ({}, ()), lambda: taken.append("by nobody"))
    assert not taken and keeper.has(session_id)
    assert back.epoch > hold.epoch and back.record.history == (item,)


@pytest.mark.parametrize("answered", ["first", "last"])
async def test_sessions_that_could_not_be_asked_for_go_on_though_others_could(answered: str) -> None:
    store = Store()
    keeper = keeper_of(store)
    running = [opened(keeper) for _ in range(300)]
    store.renews = {running[0 if answered == "first" else -1].record.session_id}
    for _ in range(4):
        await asyncio.sleep(OWNED_S / 3)
        await keeper._renew()
    assert all(hold.confirmed for hold in running)
