"""Dates as files and servers write them, in ISO 8601."""

from __future__ import annotations

import datetime
import email.utils
import functools
import re

_YEARS = range(1000, 2200)
"""Years that a document can be of: what stands outside of them is another number."""
_PART = re.compile(r"(\d{4})(?:-(\d\d))?")
_SECONDS = re.compile(r"(\d{10})(?:\.\d+)?|(\d{13})")
"""Unix time since September 2001, in seconds or milliseconds; shorter numbers could be anything."""
_STAMP = re.compile(r"\d{14}")
_FORMATS = ("%Y/%m/%d", "%Y.%m.%d", "%d %B %Y", "%d %b %Y", "%B %d, %Y", "%b %d, %Y", "%B %d %Y", "%B %Y", "%d.%m.%Y")
"""With English names of months. 03/04/2024 is not among them: nobody knows which of the two is the month."""


@functools.lru_cache(maxsize=4096)
def iso_date(text: str) -> str | None:
    """A date in ISO 8601, as exact as it was given; None when it is no date that can be told.

    What is in ISO 8601 already stays as it is; a blank between date and time becomes a T.

    >>> iso_date("2024-05"), iso_date("2024-03-05 17:30"), iso_date("Tue, 05 Mar 2024 17:30:00 GMT")
    ('2024-05', '2024-03-05T17:30', '2024-03-05T17:30:00+00:00')
    >>> iso_date("1709659800"), iso_date("5 March 2024"), iso_date("03/04/2024"), iso_date("2024-02-30")
    ('2024-03-05T17:30:00+00:00', '2024-03-05', None, None)
    """
    text = text.strip()
    if part := _PART.fullmatch(text):
        return text if int(part[1]) in _YEARS and 1 <= int(part[2] or 1) <= 12 else None
    if match := _SECONDS.fullmatch(text):
        seconds = int(match[1] or match[2][:-3])
        return datetime.datetime.fromtimestamp(seconds, datetime.UTC).isoformat()
    try:
        if _STAMP.fullmatch(text):  # as in web archives
            return _sound(datetime.datetime.strptime(text, "%Y%m%d%H%M%S").replace(tzinfo=datetime.UTC).isoformat())
        datetime.datetime.fromisoformat(text)
        return _sound(text[:10] + text[10:].replace(" ", "T", 1))
    except ValueError:
        pass
    try:
        return _sound(email.utils.parsedate_to_datetime(text).isoformat())
    except (ValueError, IndexError, OverflowError):
        pass
    for form in _FORMATS:
        try:
            found = datetime.datetime.strptime(text, form).date().isoformat()
        except ValueError:
            continue
        return _sound(found if "%d" in form else found[:7])
    return None


def _sound(text: str) -> str | None:
    """A date whose year a document can be of."""
    return text if text[:4].isdecimal() and int(text[:4]) in _YEARS else None
