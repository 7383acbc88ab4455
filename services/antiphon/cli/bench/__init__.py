"""`antiphon bench`: what a listener waits for, measured at the client's socket."""

from antiphon.cli.bench.command import app

__all__ = ["app"]
