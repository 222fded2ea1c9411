"""The tables of the further questions: the numbers of audit.json, and no table without numbers."""

from __future__ import annotations

from pellucid.explore.sections.audit_tables import further_tables
from tests.explore.conftest import audit_content


def test_the_tables_show_the_numbers_of_the_audit() -> None:
    pairs = audit_content()["pairs"]
    transfer, confounded, neighbours, remedies = further_tables(pairs)
    assert confounded.rows[0][2:] == ("A / B", "0.84", "0.78", "0.55", "15 % (−1 to 31)")
    assert transfer.rows[0] == ("diagnosis", "operator", "AUROC", "0.85", "0.62", "0.23 (0.11 to 0.35)")
    assert neighbours.rows[0][2:4] == ("0.31 (0.26 to 0.37)", "0.48")
    assert len(neighbours.rows[0]) == len(neighbours.columns)
    assert [row[2] for row in remedies.rows] == ["LEACE"] * 3, "a remedy that was not applied has no row"
    assert remedies.rows[0][3] == "0.98 → 0.55 (0.53 to 0.57)"


def test_rows_of_the_first_pairs_are_shown_at_once() -> None:
    transfer, _, _, remedies = further_tables(audit_content()["pairs"], n_open=1)
    assert (transfer.n_open, len(transfer.rows)) == (1, 3)
    assert (remedies.n_open, len(remedies.rows)) == (1, 3)
    assert all(table.n_open == len(table.rows) for table in further_tables(audit_content()["pairs"]))


def test_an_audit_without_them_has_no_tables() -> None:
    nothing = dict.fromkeys(("transfer", "confounded_training", "neighbours", "remedies"))
    brief = [{**pair, **nothing} for pair in audit_content()["pairs"]]
    assert further_tables(brief) == []
    early = [{"clinical": "a", "acquisition": "b"}]
    assert further_tables(early) == []


def test_effect_of_burned_in_text() -> None:
    row = {"name": "device", "role": "acquisition", "metric": "auroc", "before": 0.99, "after": 0.9, "change": -0.09}
    text = {"n_images": 100, "n_marked": 40, "variables": [{**row, "ci_low": -0.12, "ci_high": -0.06}]}
    table = further_tables([], text)[0]
    assert table.rows == (("device", "acquisition", "AUROC", "0.99", "0.90", "−0.090 (−0.120 to −0.060)"),)
    assert "40 of 100 images show lines of text" in table.lead


def test_a_refusal_is_shown_with_its_reason() -> None:
    pair = audit_content()["pairs"][0]
    nothing = dict.fromkeys(("within", "across", "drop", "ci_low", "ci_high"))
    pair["transfer"] = {"metric": "auroc", "levels": [], **nothing, "note": "no level has 10 patients of each class."}
    assert further_tables([pair])[0].rows[0][-1] == "no level has 10 patients of each class"
