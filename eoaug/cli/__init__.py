"""The command line: `app` holds the commands, `main` runs them."""

from eoaug.cli.app import app, main

__all__ = ["app", "main"]
