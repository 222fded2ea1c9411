"""One exception for each exit code that does not mean a defect of Pellucid."""

from __future__ import annotations


class UserError(Exception):
    """Something the user can fix (exit code 2). The message says what was wrong, where, and what to do."""


class Preempted(Exception):
    """The work was asked to stop, has saved itself, and will continue when the command is repeated (exit code 75)."""
