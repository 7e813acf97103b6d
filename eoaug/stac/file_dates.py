"""When an image was taken, from the name of its file; None where the name is ambiguous."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta

__all__ = ["date_in_name", "without_dates"]


_SENTINEL = re.compile(
    r"^S[1-6][A-D]_.*?(?<!\d)(?P<date>\d{8})T(?P<time>\d{6})(?!\d)"  # the first time is that of sensing
)
_LANDSAT = re.compile(r"^L[COTEM]\d\d_[A-Z0-9]{4}_\d{6}_(?P<date>\d{8})_\d{8}_")  # acquired, then processed
_DAY_OF_YEAR = re.compile(
    r"(?:^HLS\.[A-Z]30\.T[0-9A-Z]{5}\.|\.A)(?P<year>\d{4})(?P<day>\d{3})(?:T(?P<time>\d{6}))?(?!\d)"
)
_DATE = re.compile(
    r"(?<!\d)(?P<y>(?:19|20)\d\d)(?P<s>[-_.]?)(?P<m>\d\d)(?P=s)(?P<d>\d\d)(?:[T_ ]?(?P<time>(?<=[T_ ])\d{6}))?(?![\d])"
)


def date_in_name(stem: str) -> datetime | None:
    """Return the date in a file's name, in UTC; None without one, or with several that differ.

    Known are the names of Sentinel, Landsat, HLS and MODIS products, which hold more than one date, and a single date
    like 20240601, 2024-06-01, 20240601T101530 or 20240601_101530.

    Examples
    --------
    >>> date_in_name("LC08_L2SP_192029_20240601_20240610_02_T1_SR_B4").date().isoformat()
    '2024-06-01'
    >>> date_in_name("scene_20240601_20240610") is None
    True
    """
    for pattern in (_SENTINEL, _LANDSAT):
        if match := pattern.match(stem):
            fields = match.groupdict()
            return _instant(fields["date"], fields.get("time"))
    if match := _DAY_OF_YEAR.search(stem):
        return _of_day(int(match["year"]), int(match["day"]), match["time"])
    instants = {
        instant
        for match in _DATE.finditer(stem)
        if (instant := _instant(match["y"] + match["m"] + match["d"], match["time"])) is not None
    }
    # A date and the same date with its time of day agree.
    days = {instant.date() for instant in instants}
    timed = {instant for instant in instants if instant.time() != datetime.min.time()}
    if len(days) != 1 or len(timed) > 1:
        return None
    return next(iter(timed or instants))


def without_dates(stem: str) -> str:
    """Return a file's name without its dates."""
    return re.sub(r"[_.\- ]{2,}", "_", _DATE.sub("", stem)).strip("_.- ")


def _instant(date: str, time: str | None) -> datetime | None:
    try:
        instant = datetime.strptime(date + (time or "000000"), "%Y%m%d%H%M%S").replace(tzinfo=UTC)
    except ValueError:
        return None
    # A number that happens to look like a date of the future is none.
    return instant if instant < datetime.now(UTC) + timedelta(days=2) else None


def _of_day(year: int, day: int, time: str | None) -> datetime | None:
    if not 1 <= day <= 366:
        return None
    return _instant(f"{datetime(year, 1, 1) + timedelta(days=day - 1):%Y%m%d}", time)
