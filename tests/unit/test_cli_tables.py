"""What `antiphon route` prints of a snapshot that is known."""

import pytest

from antiphon.cli.tables import explained_rows, route_rows
from antiphon.registry.records import Lease, ModelRecord, ResidentModel, WorkerRecord
from antiphon.registry.routing import RouteRequest
from antiphon.registry.snapshot import Snapshot, Worker

pytestmark = pytest.mark.unit

JOE = RouteRequest("tts", "joe")


def worker(name: str, *models: ResidentModel, streams: int = 0) -> Worker:
    lease = Lease(worker=name, incarnation="i", engines={"piper": "1"}, models=models, streams=streams, max_streams=4)
    return Worker(name, WorkerRecord(address=f"{name}:1"), lease)


SNAPSHOT = Snapshot(
    1,
    models={"joe": ModelRecord(name="joe", task="tts", engine="piper")},
    workers={
        each.name: each
        for each in (
            worker("cold"),
            worker("full", ResidentModel(name="joe", state="in_use"), streams=4),
            worker("warm", ResidentModel(name="joe", state="warm"), streams=1),
            Worker("gone", WorkerRecord(address="gone:1")),
        )
    },
    stale=False,
)


def test_a_route_is_told_in_the_order_of_asking() -> None:
    rows = route_rows(JOE, SNAPSHOT)
    assert [(row["worker"], row["must_load"]) for row in rows] == [("warm", False), ("cold", True)]


def test_an_explanation_has_every_worker_and_its_reason() -> None:
    rows = explained_rows(JOE, SNAPSHOT)
    assert [(row["place"], row["worker"], row["model_is"], row["reason"]) for row in rows] == [
        (1, "warm", "warm", ""),
        (2, "cold", "absent", ""),
        (None, "full", "warm", "full"),
        (None, "gone", "absent", "not_alive"),
    ]
    assert rows[2]["why_not"] == "all of its 4 streams are in use"
    assert {row["reason"] for row in explained_rows(RouteRequest("asr", "joe"), SNAPSHOT)} == {"model_unknown"}
