"""Run the command line: ``python -m srdd``."""

from .cli import main

raise SystemExit(main())
