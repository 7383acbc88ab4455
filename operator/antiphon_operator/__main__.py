"""`antiphon-operator`, `python -m antiphon_operator`: the operator, told by its environment."""

import signal
import sys


def main() -> None:
    """Run the operator until it is told to go; while it still imports, it goes at once."""
    # A container's first process ignores what it has no handler for.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))

    from antiphon_operator import main as operator

    operator.main()


if __name__ == "__main__":
    main()
