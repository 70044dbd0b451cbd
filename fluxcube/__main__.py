"""The program ``fluxcube``, also as ``python -m fluxcube``: signals end it while its commands are imported, too."""

from __future__ import annotations

from fluxcube.interrupts import leave_on_signals


def main() -> None:
    """Run the command line."""
    leave_on_signals()  # nothing is begun yet that could be saved
    from fluxcube.cli import main as run

    run()


if __name__ == "__main__":
    main()
