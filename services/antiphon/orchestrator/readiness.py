"""Whether a caller of the default assistant would be served now."""

from antiphon.contracts.adapters import Task
from antiphon.contracts.errors import AntiphonError, Reason
from antiphon.orchestrator.config import DEFAULT
from antiphon.orchestrator.context import Context
from antiphon.registry.routing import Refusal, RouteRequest, Verdict, explain

RETRY_AFTER_MS = 2_000


def check_ready(context: Context, *, models: bool = True) -> None:
    """Return when the default assistant's ears and voice can be had; without `models`, when calls are taken at all.

    A call that is taken while nobody serves its models is told so, and waits: what balances calls over orchestrators
    asks without `models`, or it would cut off a whole site for a worker that restarts.

    Raises `AntiphonError` that says what is missing: `DRAINING`, `NO_WORKER` or `MODEL_LOADING`.
    """
    if context.admission.draining:
        raise AntiphonError(Reason.DRAINING, "This server is about to go.", retry_after_ms=RETRY_AFTER_MS)
    if context.snapshot().version == 0:
        raise AntiphonError(Reason.NO_WORKER, "The registry was not reached yet.", retry_after_ms=RETRY_AFTER_MS)
    if not models:
        return
    _, assistant = context.config.assistant(DEFAULT)
    _check_model(context, "asr", assistant.recogniser)
    _check_model(context, "tts", assistant.voice.model)


def _check_model(context: Context, task: Task, name: str) -> None:
    snapshot = context.snapshot()
    own_name = context.names.model(task, name)
    model = snapshot.model(task, own_name) if own_name is not None else None
    if model is None:
        raise AntiphonError(Reason.NO_WORKER, f"The catalogue has no model '{name}' for task {task}.")
    verdicts = explain(RouteRequest(task, model.name), snapshot)
    if any(_usable(verdict) for verdict in verdicts):
        return
    if any(verdict.standing == "loading" for verdict in verdicts):
        raise AntiphonError(Reason.MODEL_LOADING, f"Model '{model.name}' is loading.", retry_after_ms=RETRY_AFTER_MS)
    raise AntiphonError(
        Reason.NO_WORKER, f"No live worker holds or can load model '{model.name}'.", retry_after_ms=RETRY_AFTER_MS
    )


def _usable(verdict: Verdict) -> bool:
    """Whether the worker holds the model, or would load it at the first call; busy is no reason against it."""
    return verdict.reason in (None, Refusal.FULL) and verdict.standing in ("warm", "absent")
