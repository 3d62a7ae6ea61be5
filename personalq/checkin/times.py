"""Phrases of time ("last spring", "end of april 2023") to intervals of dates. It knows no checkpoint."""

from __future__ import annotations

import calendar
import re
from collections.abc import Callable
from datetime import date, timedelta

Interval = tuple[date, date]
FIRST_YEAR = 2022
"""Personalised diffusion checkpoints begin here; an earlier year in a request belongs to the picture."""

_MONTHS = {name.casefold(): number for number, name in enumerate(calendar.month_name) if name}
_MONTHS |= {name.casefold(): number for number, name in enumerate(calendar.month_abbr) if name}
_SEASONS = {"spring": 3, "summer": 6, "autumn": 9, "fall": 9, "winter": 12}
_NUMBERS = {"a": 1, "an": 1, "one": 1, "two": 2, "three": 3, "four": 4, "five": 5, "six": 6, "a couple of": 2, "few": 3}
_LEAD = (
    r"(?:(?:that|which)?\s*(?:i|we)\s+(?:saved|made|trained|uploaded|downloaded|did|got)\s+|(?:made|trained|saved)\s+)?"
)
_PREPOSITION = r"(?:(?:from|of|in|during|at|around|back in|on)\s+)?(?:the\s+)?"
_PART = r"(?:(?P<part>start|beginning|early|middle|mid|end|late)[\s-]+(?:of\s+)?)?"
_MONTH = "|".join(sorted(_MONTHS, key=len, reverse=True))


def _days(year: int, month: int, months: int = 1) -> Interval:
    last = year * 12 + month - 1 + months - 1
    end_year, end_month = last // 12, last % 12 + 1
    return date(year, month, 1), date(end_year, end_month, calendar.monthrange(end_year, end_month)[1])


def _part(interval: Interval, part: str | None) -> Interval:
    if not part:
        return interval
    start, end = interval
    third = (end - start) / 3
    if part in ("start", "beginning", "early"):
        return start, start + third
    return (start + third, end - third) if part in ("middle", "mid") else (end - third, end)


def _iso(match: re.Match[str], today: date) -> Interval | None:
    try:
        day = date.fromisoformat(match["day"])
    except ValueError:
        return None
    return day, day


def _day(match: re.Match[str], today: date) -> Interval | None:
    try:
        day = date(int(match["year"]), _MONTHS[match["month"].casefold()], int(match["number"]))
    except ValueError:
        return None
    return (day, day) if day.year >= FIRST_YEAR else None


def _month(match: re.Match[str], today: date) -> Interval | None:
    month = _MONTHS[match["month"].casefold()]
    recent = today.year if month <= today.month else today.year - 1
    year = int(match["year"] or recent)
    return _part(_days(year, month), match["part"]) if year >= FIRST_YEAR else None


def _long_ago(match: re.Match[str], today: date) -> Interval | None:
    """A month of training before there was any: no checkpoint is from then, but no picture is either."""
    return _days(int(match["year"]), _MONTHS[match["month"].casefold()])


def _season(match: re.Match[str], today: date) -> Interval | None:
    month = _SEASONS[match["season"].casefold()]
    if match["year"]:
        return _days(int(match["year"]), month, 3)
    year = today.year
    while _days(year, month, 3)[1 if match["which"] == "last" else 0] >= today:
        year -= 1
    return _days(year, month, 3)


def _year(match: re.Match[str], today: date) -> Interval | None:
    year = int(match["year"])
    return _part((date(year, 1, 1), date(year, 12, 31)), match["part"]) if FIRST_YEAR <= year <= today.year else None


def _last(match: re.Match[str], today: date) -> Interval | None:
    unit = match["unit"].casefold()
    if unit == "week":
        monday = today - timedelta(days=today.weekday() + 7)
        return monday, monday + timedelta(days=6)
    if unit == "month":
        before = today.replace(day=1) - timedelta(days=1)
        return _days(before.year, before.month)
    return date(today.year - 1, 1, 1), date(today.year - 1, 12, 31)


def _ago(match: re.Match[str], today: date) -> Interval | None:
    spoken = match["count"].casefold()
    count = int(spoken) if spoken.isdigit() else _NUMBERS[spoken]
    days = count * {"day": 1, "week": 7, "month": 30, "year": 365}[match["unit"].casefold()]
    if days > 3650:
        return None
    slack = timedelta(days=max(1, days // 4))
    middle = today - timedelta(days=days)
    return middle - slack, middle + slack


def _near(match: re.Match[str], today: date) -> Interval | None:
    day = today - timedelta(days=1 if match["day"].casefold() == "yesterday" else 0)
    return day, day


_RULES: tuple[tuple[str, Callable[[re.Match[str], date], Interval | None]], ...] = (
    (r"(?P<day>20\d\d-\d\d-\d\d)", _iso),
    (rf"(?P<number>\d{{1,2}})(?:st|nd|rd|th)?\s+(?:of\s+)?(?P<month>{_MONTH})\.?,?\s+(?P<year>20\d\d)", _day),
    (rf"(?P<month>{_MONTH})\.?\s+(?:the\s+)?(?P<number>\d{{1,2}})(?:st|nd|rd|th)?,?\s+(?P<year>20\d\d)", _day),
    (rf"{_PART}(?P<month>{_MONTH})\.?,?\s+(?P<year>20\d\d)", _month),
    (rf"(?:trained|made|saved)\s+in\s+(?P<month>{_MONTH})\.?,?\s+(?P<year>20\d\d)", _long_ago),
    (r"(?P<which>last|this|past)\s+(?P<season>spring|summer|autumn|fall|winter)(?P<year>(?!))?", _season),
    (r"(?P<which>)(?P<season>spring|summer|autumn|fall|winter)\s+(?:of\s+)?(?P<year>202\d)", _season),
    (r"last\s+(?P<unit>week|month|year)", _last),
    (
        r"(?P<count>a couple of|\d{1,4}|an?|one|two|three|four|five|six|few)\s+(?P<unit>day|week|month|year)s?\s+ago",
        _ago,
    ),
    (rf"(?:(?:trained|made|saved|uploaded)\s+(?:in|during)|last)\s+{_PART}(?P<month>{_MONTH})(?P<year>(?!))?", _month),
    (rf"(?:from|since|trained in|made in|saved in)\s+{_PART}(?P<year>202\d)", _year),
    (r"(?:(?:trained|made|saved|uploaded|from)\s+)(?P<day>yesterday|today)", _near),
)


def find_time(text: str, today: date) -> tuple[Interval, tuple[int, int]] | None:
    """The first phrase of time in `text`: its dates, both inclusive, and where the whole phrase stands."""
    for pattern, read in _RULES:
        for match in re.finditer(rf"{_LEAD}{_PREPOSITION}\b{pattern}\b", text, re.IGNORECASE):
            interval = read(match, today)
            if interval and interval[0] <= today:
                return interval, match.span()
    return None
