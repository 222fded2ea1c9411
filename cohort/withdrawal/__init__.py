"""Remove withdrawn patients from what `read` and `scan` wrote."""

from pellucid.cohort.withdrawal.annotations import annotated_files, forget_annotations
from pellucid.cohort.withdrawal.read_and_scan import forget_in_read, forget_in_scan, former_keys, relink, withdrawn_rows
from pellucid.cohort.withdrawal.resolve import WithdrawalScope, find_scope, put_on_list, table_rows_of

__all__ = [
    "WithdrawalScope",
    "annotated_files",
    "find_scope",
    "forget_annotations",
    "forget_in_read",
    "forget_in_scan",
    "former_keys",
    "put_on_list",
    "relink",
    "table_rows_of",
    "withdrawn_rows",
]
