"""Several orchestrators on one port, as a person starts them: one is killed, one is told to go, the talk goes on."""

import asyncio
import re
import signal
from collections.abc import Iterator

import aiohttp
import psutil
import pytest

from antiphon.cli.orchestrators import shared_port
from antiphon.cli.realtime import RESUMED, RealtimeSession, connect
from antiphon.contracts.errors import AntiphonError
from antiphon.testing.system import System, running, wait_until

pytestmark = pytest.mark.component

CONFIG = {
    "models": [
        {
            "name": "sine",
            "task": "tts",
            "engine": "mock",
            "residency": {"policy": "Pinned"},
            "engineConfig": {"ms_per_word": 100},
        },
        {"name": "script", "task": "asr", "engine": "mock", "residency": {"policy": "Pinned"}},
    ]
}
NAMES = ("orchestrator-1", "orchestrator-2")
LONG = " ".join(["word"] * 40)
LIMIT_S = 20.0


@pytest.fixture(scope="module")
def system(tmp_path_factory: pytest.TempPathFactory) -> Iterator[System]:
    with running(CONFIG, tmp_path_factory.mktemp("up"), "--orchestrators", "2") as system:
        yield system


def process(system: System, name: str) -> psutil.Process | None:
    children = psutil.Process(system.process.pid).children()
    return next((child for child in children if child.cmdline() and child.cmdline()[-1].endswith(f"{name}.yaml")), None)


def wait_for_both(system: System) -> None:
    """Until both run again: a child that ended is started anew."""
    for name in NAMES:
        log = system.data_dir / "logs" / f"{name}.log"
        starts = system.told().count(f"The {name} ended") + 1
        wait_until(lambda: log.read_text().count("orchestrator serves") >= starts, log.read_text, LIMIT_S)  # noqa: B023


def owner(system: System, session_id: str) -> str:
    """Which of them took the session last; told by its log."""
    told = {name: (system.data_dir / "logs" / f"{name}.log").read_text() for name in NAMES}
    counts = {name: len(re.findall(rf"session (?:began|resumed).*{session_id}", log)) for name, log in told.items()}
    ends = {name: len(re.findall(rf"session ended.*{session_id}", log)) for name, log in told.items()}
    return max(NAMES, key=lambda name: counts[name] - ends[name])


async def typed(session: RealtimeSession, text: str) -> str:
    """Type something; its item's id."""
    since = len(session.events)
    content = [{"type": "input_text", "text": text}]
    item = {"type": "message", "role": "user", "content": content}
    await session.send({"type": "conversation.item.create", "item": item})
    done = await session.expect("conversation.item.done", since=since, within_s=LIMIT_S)
    return str(done.body["item"]["id"])


async def known(session: RealtimeSession, item_id: str) -> dict[str, object]:
    since = len(session.events)
    await session.send({"type": "conversation.item.retrieve", "item_id": item_id})
    told = await session.expect("conversation.item.retrieved", "error", since=since, within_s=LIMIT_S)
    assert told.type != "error", told.body
    item: dict[str, object] = told.body["item"]
    return item


async def test_killed_in_mid_reply_the_other_one_goes_on(system: System) -> None:
    wait_for_both(system)
    async with connect(system.url) as session:
        session_id = session.events[0].body["session"]["id"]
        item_id = await typed(session, LONG)
        await session.send({"type": "response.create"})
        started = await session.expect("response.output_item.added", within_s=LIMIT_S)
        await session.expect(
            "response.output_audio.delta", within_s=LIMIT_S, where=lambda event: event.at_s > started.at_s + 1.6
        )
        first = owner(system, session_id)
        victim = process(system, first)
        assert victim is not None
        since = len(session.events)
        victim.kill()
        await session.expect(RESUMED, since=since, within_s=LIMIT_S)
        await session.expect("session.created", since=since, within_s=LIMIT_S)
        assert owner(system, session_id) != first or process(system, first) != victim
        assert (await known(session, item_id))["content"] == [{"type": "input_text", "text": LONG}]
        reply = await known(session, str(started.body["item"]["id"]))
        (content,) = reply["content"]  # type: ignore[misc]
        assert reply["status"] == "incomplete"
        assert 1 <= len(content["transcript"].split()) < 40
        since = len(session.events)
        await typed(session, "are you there")
        await session.send({"type": "response.create"})
        done = await session.expect("response.done", since=since, within_s=LIMIT_S)
        assert done.body["response"]["output"][0]["content"][0]["transcript"] == "are you there"


async def test_told_to_go_it_ends_the_turn_and_moves_its_client(system: System) -> None:
    wait_for_both(system)
    async with connect(system.url, extension=True) as session:
        session_id = session.events[0].body["session"]["id"]
        item_id = await typed(session, "one two three four five six")
        await session.send({"type": "response.create"})
        await session.expect("response.output_audio.delta", within_s=LIMIT_S)
        first = owner(system, session_id)
        leaver = process(system, first)
        assert leaver is not None
        since = len(session.events)
        leaver.send_signal(signal.SIGTERM)
        done = await session.expect("response.done", since=since, within_s=LIMIT_S)
        assert done.body["response"]["status"] == "completed"
        moving = await session.expect("antiphon.session.moving", since=since, within_s=LIMIT_S)
        assert moving.body["session_id"] == session_id
        resumed = await session.expect("antiphon.session.resumed", since=since, within_s=LIMIT_S)
        assert moving.at_s < resumed.at_s < moving.at_s + 5
        items = resumed.body["items"]
        assert [item["id"] for item in items] == [item_id, done.body["response"]["output"][0]["id"]]
        assert items[1]["content"] == done.body["response"]["output"][0]["content"]


async def test_each_has_metrics_and_an_id_of_its_own(system: System) -> None:
    addresses = re.findall(r"status and metrics at (\S+)", system.told())
    assert len(set(addresses)) == 2
    async with aiohttp.ClientSession() as http:
        async with http.get(f"{system.url}/metrics") as response:
            assert re.search(r'antiphon_orchestrator_info\{id="orchestrator-[12]/', await response.text())


def test_a_port_that_others_share_is_not_ours(system: System) -> None:
    port = int(system.url.rsplit(":", 1)[1])
    with pytest.raises(AntiphonError, match="Is another server there"), shared_port("127.0.0.1", port):
        pass


async def test_a_kept_port_takes_no_connection() -> None:
    with shared_port("127.0.0.1", 0) as port:
        with pytest.raises(ConnectionRefusedError):
            await asyncio.open_connection("127.0.0.1", port)
