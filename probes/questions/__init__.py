"""The questions of the audit, one function each."""
