"""antiphon: realtime, full-duplex voice, served by workers that hold its models."""
