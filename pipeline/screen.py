"""The two consoles. In a module of their own, which joblib finds by name: it cannot send a console to another process."""

from __future__ import annotations

from rich.console import Console

console = Console(highlight=False)
errors = Console(stderr=True, highlight=False, soft_wrap=True)
