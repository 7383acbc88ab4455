"""Sound as arrays and as bytes: samples, frames, rates, loudness, files."""
