"""The `antiphon` command: start it, talk to it, look inside."""
