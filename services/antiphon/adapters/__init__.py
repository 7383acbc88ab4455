"""Engines: one file each, found by entry point; and where their weights come from."""
