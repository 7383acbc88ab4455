"""What crosses a process border: wire messages, the audio unit, engines, models and errors."""
