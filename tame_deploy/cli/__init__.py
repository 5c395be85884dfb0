"""The `tame-deploy` command: every subcommand parses, then calls one stage."""

from __future__ import annotations

import sys
import warnings

from tame_deploy.errors import TameError

#: What a shell says of a program that Ctrl-C ended.
INTERRUPTED = 130


def main() -> None:
    """Run the command line.

    A TameError is one line and exit status 1, a usage error 2, Ctrl-C 130.
    """
    # What a decoder thinks of metadata is no news to whoever asked for an explanation.
    warnings.filterwarnings("ignore", module=r"PIL\.")
    try:
        from tame_deploy.cli.app import app

        app()
    except KeyboardInterrupt:  # while libraries are imported; commands answer it themselves
        print("interrupted before anything was done", file=sys.stderr)
        sys.exit(INTERRUPTED)
    except TameError as error:
        line = " ".join(str(error).encode("utf-8", "replace").decode().split())
        print(f"error: {line}", file=sys.stderr)
        sys.exit(1)
