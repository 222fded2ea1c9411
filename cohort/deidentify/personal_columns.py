"""What may not stand in the new table: columns that name people, ids of the study inside other columns, high ages."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Iterable
from typing import Any

import pandas as pd

from pellucid.cohort.deidentify.text_masking import plain_text

OLDEST_SHOWN = 90
_SHORTEST_ID = 4  # a shorter one, `17`, stands in any table by chance
_ID_WORDS = re.compile(r"[^\W_]+")

# By the words of the column's name, without accents, joined by `_`; English, German, and the commonest elsewhere.
_PERSONAL = re.compile(
    r"^names?$|(^|_)("
    r"((sur|first|last|given|family|full|patients?|pat|maiden|mother|middle)s?_?names?|initials?|initialen)|"
    r"(nach|vor|familien|geburts|patienten|rufn?)_?namen?|name_(of_)?(the_)?patient|nom|prenom|apellidos?|nombre|cognome|"
    r"((date|day|year|place)_of_)?birth(_?(da(y|te)|year|place))?|dob|yob|geb(urts)?_?(datum|dat|tag|jahr|ort)|geb|"
    r"geboren(_am)?|(home|e_?mail|street|postal)?_?address(es)?|adressen?|anschrift|street|strasse|"
    r"zip(_?code)?|post(al)?_?code|plz|postleitzahl|(tele)?(ph|f)one?(_?(no|nr|number))?|telefon(_?nummer)?|tel|handy|mobile|"
    r"fax|e_?mail|mrn|medical_record(_(no|nr|number))?|ssn|social_security(_(no|nr|number))?|nhs(_?(no|nr|number|id))?|"
    r"passport(_(no|number))?|insurance_(no|nr|number|id)|versicherten_?(nr|nummer)|kvnr|svnr|"
    r"(hospital|hosp)_?(no|nr|num|number)|(case|patients?|pat)_?(no|nr|num|number|id)|(fall|patienten|akten|kranken)_?(nr|nummer|id)|"
    r"accession(_?.*)?)$"
)
# Columns of whole sentences, by their name; English, German, French, Spanish, Italian, Portuguese.
_SENTENCES = re.compile(
    r"(^|_)(free_?text|freitext|comments?|remarks?|notes|narrative|history|impression|report_?text|description|"
    r"bemerkung(en)?|kommentare?|anmerkung(en)?|notiz(en)?|anamnese|befundtext|commentaires?|remarques?|observaciones|"
    r"comentarios?|commenti?|osservazioni|anamnesi|observacoes)$"
)
_FEWEST_TEXTS = 3
_LONG_TEXT = 25  # letters, in the middle of a column
_LONG_WORDS = 4
_NO_PERSON = re.compile(r"device|scanner|site|model|camera|operator")
_AGE_WORDS = frozenset(
    {"age", "ages", "aged", "alter", "edad", "eta", "idade", "leeftijd", "lebensalter", "patientage"}
)
_AGE_JOINED = re.compile(r"age(at|in|years?|yrs?|months?|days?|weeks?|diag|dx)[a-z]*|[a-z]*alter(in|bei)[a-z]*")
_PER_YEAR = (
    (re.compile(r"months?|monate?n?|mois|meses"), 12.0),
    (re.compile(r"weeks?|wochen?|wks?"), 52.18),
    (re.compile(r"days?|tagen?|tage"), 365.25),
)
_AGE = re.compile(r"\s*(?:>=?|≥|over |about |ca\.? ?|~)?\s*(\d{1,6}(?:[.,]\d+)?)")


def words_of_name(name: str) -> list[str]:
    """The words of a column's name: `ageYears`, `age.years` and `Âge (years)` alike."""
    return plain_text(re.sub(r"(?<=[a-z\u00df-\u00ff])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", " ", name)).split()


def is_personal(name: str) -> bool:
    """Whether a column looks, by its name, like names, numbers, birth dates or addresses of people."""
    words = "_".join(words_of_name(name))
    return bool(_PERSONAL.search(words)) and not _NO_PERSON.search(words)  # `device_name` names no person


def is_free_text(name: str, cells: pd.Series[Any]) -> bool:
    """Whether a column of text holds what people wrote freely: long, mostly different cells, or a name that says so.

    Args:
        name: of the column.
        cells: its values as text, without empty ones.
    """
    if cells.nunique() < _FEWEST_TEXTS:
        return False
    unique = cells.nunique() / len(cells)
    length, words = cells.str.len().median(), cells.map(lambda text: len(text.split())).median()
    long = unique > 0.5 and (length >= _LONG_TEXT or words >= _LONG_WORDS)
    return bool(long or (unique > 0.2 and words > 1 and _SENTENCES.search("_".join(words_of_name(name)))))


def id_in(ids: Iterable[str]) -> Callable[[str], bool]:
    """A test whether a text holds one of the ids, as whole words in a row (as in
    `pellucid.cohort.identifiers.findings.name_findings`).

    An id with letters is also found if its parts are joined or divided otherwise: `PAT_1122`, `pat1122`. Ids of fewer
    than four characters are ignored.
    """
    whole: set[tuple[str, ...]] = set()
    joined: set[str] = set()
    for patient in ids:
        words = _words(patient)
        together = "".join(words)
        if len(together) < _SHORTEST_ID:
            continue
        whole.add(words)
        if not together.isdigit():
            joined.add(together)
    lengths = sorted({len(words) for words in whole})
    longest = max(map(len, joined), default=0)

    def holds(text: str) -> bool:
        words = _words(text)
        for start in range(len(words)):
            if any(words[start : start + length] in whole for length in lengths):
                return True
            run = ""
            for word in words[start:]:
                run += word
                if len(run) > longest:
                    break
                if run in joined:
                    return True
        return False

    return holds


def _words(text: str) -> tuple[str, ...]:
    bare = "".join(c for c in unicodedata.normalize("NFKD", text) if not unicodedata.combining(c))
    return tuple(_ID_WORDS.findall(bare.casefold()))


def is_age(name: str) -> bool:
    """Whether a column holds ages, by its name."""
    return any(word in _AGE_WORDS or _AGE_JOINED.fullmatch(word) for word in words_of_name(name))


def capped_ages(text: pd.Series[Any], name: str) -> pd.Series[Any]:
    """Ages over 89 years as 90, however they are written (`93`, `93 years`, `95-99`, `090Y`).

    Args:
        text: the column as text.
        name: of the column; it may say that the ages are in months, weeks or days.
    """
    words = words_of_name(name)
    joined = " ".join(words)
    per_year = next((n for pattern, n in _PER_YEAR if any(pattern.fullmatch(w) for w in words)), 1.0)
    if per_year == 1.0 and (inside := re.search(r"age(?:in)?(month|week|day)", joined)):
        per_year = {"month": 12.0, "week": 52.18, "day": 365.25}[inside[1]]
    limit = OLDEST_SHOWN * per_year

    def one(value: Any) -> Any:
        match = _AGE.match(value) if isinstance(value, str) else None
        if match is None or float(match[1].replace(",", ".")) <= (OLDEST_SHOWN - 1) * per_year:
            return value
        return f"{limit:.0f}"

    return text.map(one)
