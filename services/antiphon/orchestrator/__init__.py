"""The orchestrator: transports, the HTTP API, assistants, admission, and calls to the workers."""
