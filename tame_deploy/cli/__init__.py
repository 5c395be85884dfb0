"""The `tame-deploy` command: every subcommand parses, then calls one stage."""

from __future__ import annotations

import sys
import warnings


def main() -> None:
    """Run the command line; a TameError is one line and exit status 1, a usage error 2."""
    from tame_deploy.cli.app import app
    from tame_deploy.errors import TameError

    # What a decoder thinks of metadata is no news to whoever asked for an explanation.
    warnings.filterwarnings("ignore", module=r"PIL\.")
    try:
        app()
    except TameError as error:
        line = " ".join(str(error).encode("utf-8", "replace").decode().split())
        print(f"error: {line}", file=sys.stderr)
        sys.exit(1)
