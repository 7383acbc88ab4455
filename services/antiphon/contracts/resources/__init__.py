"""The Kubernetes resources of `antiphon.dev/v1alpha1`, as Python reads them; the CRDs are generated from here."""

from antiphon.contracts.resources.base import API_VERSION, GROUP, VERSION, Condition, Metadata
from antiphon.contracts.resources.voice_model import (
    CandidateStatus,
    RevisionStatus,
    Rollout,
    RolloutGate,
    RolloutStep,
    VoiceModel,
    VoiceModelSpec,
    VoiceModelStatus,
)
from antiphon.contracts.resources.worker_pool import WorkerPool, WorkerPoolSpec, WorkerPoolStatus

__all__ = [
    "API_VERSION",
    "GROUP",
    "VERSION",
    "CandidateStatus",
    "Condition",
    "Metadata",
    "RevisionStatus",
    "Rollout",
    "RolloutGate",
    "RolloutStep",
    "VoiceModel",
    "VoiceModelSpec",
    "VoiceModelStatus",
    "WorkerPool",
    "WorkerPoolSpec",
    "WorkerPoolStatus",
]
