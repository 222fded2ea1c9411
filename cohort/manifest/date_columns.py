"""Dates in a column of the table: which values are days, in which order they are written, and moved in their own
form."""

from __future__ import annotations

import re
from collections.abc import Iterable
from datetime import date, timedelta
from typing import Literal

_TIME_OF_DAY = re.compile(r"(?:T|\s+)\d{1,2}:\d{2}.*$", re.S)
_ISO = re.compile(r"(?P<y>\d{4})(?P<s>[-/.])(?P<m>\d{1,2})(?P=s)(?P<d>\d{1,2})")
_COMPACT = re.compile(r"(?P<y>(?:19|20)\d{2})(?P<m>\d{2})(?P<d>\d{2})(?:\d{6}(?:\.\d+)?)?")  # DICOM's DA and DT
# Day and month in either order; a year of two digits after a point only where the others have two: 5.1.10 is a version.
_EITHER = re.compile(r"(?P<a>\d{1,2})(?P<s>[-/]|\. ?)(?P<b>\d{1,2})(?P=s)(?P<y>\d{4})")
_EITHER_SHORT = re.compile(r"(?P<a>\d{1,2})(?P<s>[-/])(?P<b>\d{1,2})(?P=s)(?P<y>\d{2})")
_POINTS_SHORT = re.compile(r"(?P<a>\d{2})(?P<s>\.)(?P<b>\d{2})\.(?P<y>\d{2})")
_NAMED = (
    re.compile(r"(?P<d>\d{1,2})(?P<s>[ -]?)(?P<n>[a-z]{3,9})\.?(?P=s)(?P<y>\d{4}|\d{2})", re.I),
    re.compile(r"(?P<n>[a-z]{3,9})\.? (?P<d>\d{1,2})(?:st|nd|rd|th)?,? (?P<y>\d{4})", re.I),
)
_MONTHS = ("january", "february", "march", "april", "may", "june", "july", "august", "september", "october", "november",
           "december")  # fmt: skip
_DAY, _MONTH = r"(?:0[1-9]|[12]\d|3[01])", r"(?:0[1-9]|1[0-2])"
# Looks like a day, but cannot be moved with certainty: months in other languages, digits without a separator, 5.3.19.
_UNSURE = re.compile(
    rf"{_DAY}{_MONTH}(?:19|20)?\d\d|\d\d{_MONTH}{_DAY}|{_MONTH}{_DAY}(?:19|20)\d\d|"
    r"(?:[^\W\d]{2,10},? )?(?:0?[1-9]|[12]\d|3[01])(?:st|nd|rd|th|er|\.|º)?(?: ?[-/.]? ?| de )"
    r"(?:jan|f[eé][bv]|m[aä]r|mrz|mrt|ap[r]|avr|abr|ma[iyj]|mei|m[aä]i|ju[nl]|jui|lug|giu|a[gu][oug]|ao[uû]|se[pt]|o[ck]t|"
    r"out|ott|nov|de[czs]|d[eé]c|gen|mag|dic|ene)[^\W\d]{0,7}\.?(?: ?[-/.,]? ?| de )(?:19|20)?\d\d|"
    r"(?:0?[1-9]|[12]\d|3[01])\.(?:0?[1-9]|1[0-2])\.\d\d|"
    r"(?:0?[1-9]|[12]\d|3[01])[ _](?:0?[1-9]|1[0-2])[ _](?:19|20)\d\d|(?:19|20)\d\d[ _](?:0?[1-9]|1[0-2])[ _]\d{1,2}",
    re.I,
)

Order = Literal["dmy", "mdy"]


class UnsureDates(ValueError):
    """A column holds what looks like days, and nobody can say which; the message says why."""


def order_of(values: Iterable[str]) -> tuple[bool, Order]:
    """Whether a column holds days, and in which order those of the form 03/04/2019 are to be read.

    Args:
        values: the column without gaps.

    Raises:
        UnsureDates: the order cannot be told (all days below 13), changes within the column, or more than half of the
            values look like days in a form that is not known.
    """
    n_values = n_dates = n_unsure = 0
    days_first = months_first = open_to_both = False
    for value in values:
        n_values += 1
        found = {order for order in ("dmy", "mdy") if _read(value, order) is not None}
        if not found:
            n_unsure += _UNSURE.fullmatch(_without_time(value)) is not None
            continue
        n_dates += 1
        days_first |= found == {"dmy"}
        months_first |= found == {"mdy"}
        match = _either(value)
        open_to_both |= match is not None and len(found) == 2 and match["s"] in "-/" and match["a"] != match["b"]
    if days_first and months_first:
        raise UnsureDates("holds days written both day first and month first")
    if open_to_both and not days_first and not months_first:
        raise UnsureDates("holds days of which nobody can say whether day or month comes first")
    if n_unsure * 2 > n_values:
        raise UnsureDates("looks like days in a form that is not known")
    return n_dates > 0, "mdy" if months_first else "dmy"


def moved(value: str, days: int, order: Order) -> str | None:
    """A day moved, in its own form and without a time of day; None if it is none, or leaves the calendar."""
    found = _read(value, order)
    if found is None:
        return None
    match, day = found
    try:
        day += timedelta(days)
    except OverflowError:
        return None
    first, second = (day.day, day.month) if order == "dmy" else (day.month, day.day)
    new = {"d": day.day, "m": day.month, "a": first, "b": second}
    out, end = "", len(match[0])
    if match.re is _COMPACT:
        end = 8  # what follows is a time of day
    at = 0
    for name, start in sorted(((n, match.start(n)) for n in match.groupdict()), key=lambda pair: pair[1]):
        if name == "s" or start < 0:
            continue
        old = match[name]
        if name == "y":
            text = f"{day.year:04d}"[-len(old) :]
        elif name == "n":
            text = _month_like(old, day.month)
        else:
            text = f"{new[name]:0{len(old)}d}"
        out += match[0][at:start] + text
        at = start + len(old)
    return out + match[0][at:end]


def day_of(value: str, order: Order) -> date | None:
    """The day that a value is; None if it is none, or has a year of two digits, which may mean two centuries."""
    found = _read(value, order)
    return None if found is None or len(found[0]["y"]) < 4 else found[1]


def is_day(value: str) -> bool:
    """Whether a value is a day, in whichever order."""
    return any(_read(value, order) is not None for order in ("dmy", "mdy"))


def _without_time(value: str) -> str:
    return _TIME_OF_DAY.sub("", value.strip())


def _either(value: str) -> re.Match[str] | None:
    text = _without_time(value)
    for pattern in (_EITHER, _EITHER_SHORT, _POINTS_SHORT):
        if text and (match := pattern.fullmatch(text)):
            return match
    return None


def _read(value: str, order: str) -> tuple[re.Match[str], date] | None:
    """What matched, and the day that it is."""
    text = _without_time(value)
    match = _ISO.fullmatch(text) or _COMPACT.fullmatch(text)
    if match:
        return _checked(match, int(match["y"]), int(match["m"]), int(match["d"]))
    if match := _either(text):
        day, month = (match["a"], match["b"]) if order == "dmy" else (match["b"], match["a"])
        return _checked(match, _year(match["y"]), int(month), int(day))
    for pattern in _NAMED:
        match = pattern.fullmatch(text)
        month_number = _month(match["n"]) if match else 0
        if match and month_number:
            return _checked(match, _year(match["y"]), month_number, int(match["d"]))
    return None


def _checked(match: re.Match[str], year: int, month: int, day: int) -> tuple[re.Match[str], date] | None:
    try:
        return match, date(year, month, day)
    except ValueError:
        return None


def _year(text: str) -> int:
    year = int(text)
    return year if len(text) == 4 else year + (1900 if year >= 69 else 2000)  # as POSIX reads %y


def _month(name: str) -> int:
    """The number of an English month, whole or shortened (also Sept); 0 for another word."""
    small = name.casefold()
    return next(
        (i for i, month in enumerate(_MONTHS, 1) if small in {month, month[:3]} or (small == "sept" and i == 9)), 0
    )


def _month_like(old: str, month: int) -> str:
    name = _MONTHS[month - 1] if old.casefold() in _MONTHS and len(old) > 3 else _MONTHS[month - 1][:3]
    return name.upper() if old.isupper() else name if old.islower() else name.capitalize()
