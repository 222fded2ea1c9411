"""What a cell of a clinical table means: no value, a level, a patient's id or a number, however it is written."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from pellucid.cohort.study import as_level

# Words that mean "no value" for every kind of column; compared without capitals. docs/study.md lists them.
MISSING_WORDS = frozenset(
    {"", "na", "n/a", "n.a.", "n.a", "<na>", "nan", "nat", "null", "unk", "unknown", "not known", "not available"}
    | {"missing", "?", "??", "-", "--", "---", "–", "—", ".", "..", "nd", "n.d.", "n/d", "#n/a", "#na", "#div/0!"}
    | {"#value!", "#ref!", "#name?", "#num!", "#null!", "k.a.", "k. a.", "k.a", "keine angabe", "unbekannt"}
    | {"inconnu", "inconnue", "desconocido", "desconocida", "sconosciuto", "sconosciuta", "desconhecido"}
)
# Among levels "none" is a finding (no ulceration, no treatment); among numbers and ids it is no value.
NO_NUMBER_WORDS = MISSING_WORDS | {"none"}
# `NA` beside codes of countries or continents is Namibia or North America.
_PLACE_CODES = (
    "AD AE AF AG AL AM AN AO AR AS AT AU AZ BA BB BD BE BF BG BH BI BJ BN BO BR BS BT BW BY BZ CA CD CF CG CH CI CL "
    "CM CN CO CR CU CV CY CZ DE DJ DK DM DO DZ EC EE EG ER ES ET EU FI FJ FM FR GA GB GD GE GH GM GN GQ GR GT GW GY "
    "HK HN HR HT HU ID IE IL IN IQ IR IS IT JM JO JP KE KG KH KI KM KN KP KR KW KZ LA LB LC LI LK LR LS LT LU LV LY "
    "MA MC MD ME MG MH MK ML MM MN MR MT MU MV MW MX MY MZ NE NG NI NL NO NP NR NZ OC OM PA PE PG PH PK PL PS PT PW "
    "PY QA RO RS RU RW SA SB SC SD SE SG SI SK SL SM SN SO SR SS ST SV SY SZ TD TG TH TJ TL TM TN TO TR TT TV TW TZ "
    "UA UG UK US UY UZ VA VC VE VN VU WS XK YE ZA ZM ZW"
)
_PLACES = frozenset(_PLACE_CODES.split())
_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d{1,3})?")
_DICOM_AGE = re.compile(r"(\d{3})([DWMY])")
_YEARS = {"D": 1 / 365.25, "W": 7 / 365.25, "M": 1 / 12, "Y": 1.0}
_FLOAT_ID = re.compile(r"(0|[1-9]\d*)\.0+")
_WHOLE_ID = re.compile(r"0|[1-9]\d*")
_INVISIBLE = dict.fromkeys(map(ord, "\u200b\u200e\u200f\u2060\ufeff\u00ad"))


def cleaned(text: str) -> str:
    """A text without blanks around it and invisible characters, with `ü` as one character (Unicode NFC)."""
    return unicodedata.normalize("NFC", text.translate(_INVISIBLE)).strip()


def _text_of(value: Any) -> str | None:
    if isinstance(value, str):
        return cleaned(value)
    if not pd.api.types.is_scalar(value):
        return str(value)
    return None if pd.isna(value) else cleaned(as_level(value))


def as_text(column: pd.Series[Any]) -> pd.Series[Any]:
    """Names of files and ids as the text a person would write: 17.0 → `17`; a missing value, or a word for one →
    None."""

    def text_or_none(value: Any) -> str | None:
        text = _text_of(value)
        return None if text is None or text.lower() in NO_NUMBER_WORDS else text

    return pd.Series([text_or_none(value) for value in column], index=column.index, dtype=object, name=column.name)


def as_level_text(column: pd.Series[Any]) -> pd.Series[Any]:
    """Levels of a manifest as text: the scan has decided already which words mean "no value"."""
    text = column.map(_text_of).astype(object)
    return text.where(text.notna() & (text != ""), None)


def as_ids(column: pd.Series[Any]) -> pd.Series[Any]:
    """Ids of patients as text: as `as_text`, and `45.0`, as pandas writes whole numbers beside a gap, is `45`."""
    text = as_text(column)
    present = text.dropna()
    floats = present.map(lambda value: _FLOAT_ID.fullmatch(value) is not None)
    if not floats.any() or not present[~floats].map(lambda value: _WHOLE_ID.fullmatch(value) is not None).all():
        return text
    whole = [None if value is None else value.partition(".")[0] for value in text]
    return pd.Series(whole, index=text.index, dtype=object, name=text.name)


def missing_cells(
    column: pd.Series[Any], kind: str = "", words: Iterable[str | int | float] | None = None
) -> pd.Series[bool]:
    """Which cells of a variable have no value.

    Args:
        column: values of any type; the categories of a pandas Categorical are levels, whatever they are called.
        kind: of the variable; `none` is a level unless the kind is continuous or ordinal.
        words: what means "no value" instead of the words of Pellucid (`missing` of study.yaml).
    """
    missing = column.isna()
    if pd.api.types.is_numeric_dtype(column) or pd.api.types.is_datetime64_any_dtype(column):
        return _with_missing_numbers(column, missing, words)
    if isinstance(column.dtype, pd.CategoricalDtype):
        return missing.astype(bool)
    text = column.map(_text_of).astype(object)
    lower = text.map(str.lower, na_action="ignore")
    if words is not None:
        known = {"", *(cleaned(str(word)).lower() for word in words)}
    else:
        known = set(NO_NUMBER_WORDS if kind in {"continuous", "ordinal"} else MISSING_WORDS)
        if kind not in {"continuous", "ordinal"} and names_places(text):
            known.discard("na")
    return (missing | lower.isna() | lower.isin(known)).astype(bool)


def _with_missing_numbers(
    column: pd.Series[Any], missing: pd.Series[bool], words: Iterable[str | int | float] | None
) -> pd.Series[bool]:
    """Numbers that study.yaml declares as missing, such as -9 or 999."""
    if words is None or not pd.api.types.is_numeric_dtype(column):
        return missing.astype(bool)
    numbers = pd.to_numeric(pd.Series(list(words), dtype=object), errors="coerce").dropna()
    return (missing | column.isin(numbers.tolist())).astype(bool)


def names_places(text: pd.Series[Any]) -> bool:
    """Are the levels codes of countries or continents, so that `NA` is one of them?"""
    others = set(text.dropna()) - {"NA", ""}
    return bool(others - {"NO", "SI"}) and others <= _PLACES


def words_taken(column: pd.Series[Any], missing: pd.Series[bool]) -> dict[str, int]:
    """The words, other than an empty cell, that were taken as "no value", and how often: the most frequent first."""
    text = column[missing].map(_text_of).dropna()
    return {str(word): int(n) for word, n in text[text != ""].value_counts().items()}


def taken_sentence(words: dict[str, int], most: int = 4) -> str:
    """`"NA" 12 ×, "-" 3 ×`; empty where no word was taken."""
    shown = ", ".join(f'"{word}" {n} ×' for word, n in list(words.items())[:most])
    return shown + (" …" if len(words) > most else "")


def as_numbers(text: pd.Series[Any]) -> pd.Series[Any]:
    """Text with a decimal point as floats, NaN where a cell is no number; `045Y`, the age of DICOM, is 45 (years)."""
    return text.map(_number).astype(float)


def only_numbers(present: pd.Series[Any]) -> bool:
    """Are all values numbers? Codes such as 1E5 and 10e4, two texts for one number, are none."""
    numbers = as_numbers(present)
    if numbers.isna().any():
        return False
    powers = present.map(lambda value: isinstance(value, str) and "e" in value.lower())
    return not powers.any() or numbers.nunique() == present.astype(str).nunique()


def _number(value: Any) -> float:
    if isinstance(value, bool):
        return float(value)
    if not isinstance(value, str):
        return float("nan") if not pd.api.types.is_number(value) else float(str(value))
    plain = value.strip().replace("\u2212", "-").replace("\u00a0", "").replace("\u202f", "").replace("\u2009", "")
    if _NUMBER.fullmatch(plain):
        return float(plain)
    age = _DICOM_AGE.fullmatch(plain.upper())
    return int(age.group(1)) * _YEARS[age.group(2)] if age else float("nan")


def holds_lists(column: pd.Series[Any]) -> bool:
    """Has a column cells that are lists, arrays, records or bytes?"""
    if column.dtype != object:
        return False
    return any(isinstance(v, bytes | bytearray) or not pd.api.types.is_scalar(v) for v in column.dropna())


_COMMA_DECIMAL = re.compile(r"[+-]?(0,\d+|\d*,(\d{1,2}|\d{4,})|\d{1,3}(\.\d{3})+,\d+)([eE][+-]?\d+)?")
_POINT_DECIMAL = re.compile(r"[+-]?(0\.\d+|\d*\.(\d{1,2}|\d{4,})|\d{1,3}(,\d{3})+\.\d+)([eE][+-]?\d+)?")
_MANY_POINTS = re.compile(r"[+-]?[1-9]\d{0,2}(\.\d{3}){2,}")
_MANY_COMMAS = re.compile(r"[+-]?[1-9]\d{0,2}(,\d{3}){2,}")
_UNCLEAR = re.compile(r"[+-]?[1-9]\d{0,2}[.,]\d{3}")
_DIGITS = re.compile(r"[+-]?\d+")


@dataclass(frozen=True)
class DecimalSign:
    """How a table writes numbers.

    Attributes:
        sign: `,` or `.`; "" where the table does not tell.
        usual: what the kind of file suggests where a column does not tell.
    """

    sign: str
    usual: str = ""


def decimal_sign(columns: Iterable[pd.Series[Any]], usual: str) -> DecimalSign:
    """What the columns of a table say together; `usual` (`.` for commas between cells) counts where none says a thing.

    Columns that are no measures say nothing: less than half of their values are numbers.
    """
    comma = point = False
    for column in columns:
        present = _measures(column)
        if present is not None:
            own = _sign_of(present)
            comma, point = comma or own == ",", point or own == "."
    if comma != point:
        return DecimalSign("," if comma else ".", usual)
    return DecimalSign("" if comma else usual, usual)


def _measures(column: pd.Series[Any]) -> list[str] | None:
    """The distinct numbers of a text column as written; None where less than half of what it holds are numbers."""
    values = column.dropna()
    values = values[values.map(lambda v: isinstance(v, str))]
    distinct = {cleaned(v) for v in values.unique()}
    present = [v for v in distinct if v.lower() not in NO_NUMBER_WORDS]
    numbers = [v for v in present if any(p.fullmatch(v) for p in _ALL_FORMS)]
    return numbers if numbers and 2 * len(numbers) >= len(present) else None


_ALL_FORMS = (_DIGITS, _COMMA_DECIMAL, _POINT_DECIMAL, _MANY_POINTS, _MANY_COMMAS, _UNCLEAR, _NUMBER)


def _sign_of(numbers: Sequence[str]) -> str:
    """`,` or `.` by the values of one column; "" where they do not tell."""
    comma = any(_COMMA_DECIMAL.fullmatch(v) or _MANY_POINTS.fullmatch(v) for v in numbers)
    point = any(_POINT_DECIMAL.fullmatch(v) or _MANY_COMMAS.fullmatch(v) for v in numbers)
    return "" if comma == point else "," if comma else "."


def with_decimal_point(column: pd.Series[Any], sign: DecimalSign) -> tuple[pd.Series[Any], str, str]:
    """A column of measures with the decimal point, without signs between thousands.

    Returns:
        The column; the first value that may mean two numbers, where the table does not tell which ("" otherwise); and
        the first value that was read as thousands although it could have been a decimal.
    """
    numbers = _measures(column)
    if numbers is None or not any("," in v or "." in v for v in numbers):
        return column, "", ""
    unclear = sorted(v for v in numbers if _UNCLEAR.fullmatch(v))
    own = _sign_of(numbers)
    used = own or sign.sign
    if any(_COMMA_DECIMAL.fullmatch(v) for v in numbers) and any(_POINT_DECIMAL.fullmatch(v) for v in numbers):
        return column, next(v for v in sorted(numbers) if "," in v), ""  # 1,5 beside 1.5: one of them is a mistake
    whole = [v.lstrip("+-") for v in numbers if _DIGITS.fullmatch(v)]
    # Decimals are written with all zeros (980.000) or with none (1.04): 980 beside 1.040 speaks for thousands, and 1500
    # beside 1.040 against them.
    speaks_against = {
        ".": bool(whole) and any(v.endswith("0") for v in unclear if "." in v),
        ",": any(len(v) > 3 for v in whole) and any("." in v for v in unclear),
    }
    if unclear and not own and (not used or speaks_against[used]):
        return column, unclear[0], ""
    if not used:
        return column, "", ""
    other = "." if used == "," else ","
    thousands = next((v for v in unclear if other in v), "") if not own else ""

    def rewritten(value: Any) -> Any:
        if not isinstance(value, str) or not any(p.fullmatch(cleaned(value)) for p in _ALL_FORMS):
            return value
        text = cleaned(value)
        grouped = re.fullmatch(rf"([+-]?\d{{1,3}})((?:{re.escape(other)}\d{{3}})+)(.*)", text)
        if grouped:
            text = grouped[1] + grouped[2].replace(other, "") + grouped[3]
        return text.replace(",", ".") if used == "," and other not in text else text

    return column.map(rewritten).astype(object), "", thousands
