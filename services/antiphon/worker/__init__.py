"""The process that serves models: engines behind gRPC, loaded, shared and let go by one manager."""
