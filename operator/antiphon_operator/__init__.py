"""The operator: keeps what VoiceModel and WorkerPool ask for true."""
