"""The workers as the orchestrator sees them: ears and voices over gRPC that outlive any one worker."""
