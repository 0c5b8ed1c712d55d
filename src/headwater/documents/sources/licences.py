"""The licence of a package, a repository or a file as an SPDX expression, from what it says itself."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence

from packaging.licenses import InvalidLicenseExpression, canonicalize_license_expression

_NAMES = {
    "0BSD": "0bsd|zero clause bsd",
    "AGPL-3.0-only": "agpl 3|agpl 3.0|gnu affero general public 3|gnu affero general public 3 agpl 3",
    "AGPL-3.0-or-later": "agpl 3+|gnu affero general public 3 or later agpl 3+",
    "Apache-2.0": "apache|apache 2|apache 2.0|asl 2|asl 2.0|apache software|apache software 2.0",
    "BSD-2-Clause": "bsd 2 clause|2 clause bsd|simplified bsd|freebsd",
    "BSD-3-Clause": "bsd 3 clause|3 clause bsd|new bsd|modified bsd|revised bsd",
    "BSL-1.0": "boost software 1.0|boost software 1.0 bsl 1.0",
    "CC0-1.0": "cc0|cc0 1.0|cc0 1.0 universal cc0 1.0 public domain dedication",
    "EPL-2.0": "eclipse public 2.0|eclipse public 2.0 epl 2.0",
    "GPL-2.0-only": "gpl 2|gpl 2.0|gnu general public 2|gnu general public 2 gpl 2",
    "GPL-2.0-or-later": "gpl 2+|gnu general public 2 or later gpl 2+",
    "GPL-3.0-only": "gpl 3|gpl 3.0|gnu general public 3|gnu general public 3 gpl 3",
    "GPL-3.0-or-later": "gpl 3+|gnu general public 3 or later gpl 3+",
    "HPND": "hpnd|historical permission notice and disclaimer hpnd",
    "ISC": "isc|iscl|isc iscl",
    "LGPL-2.1-only": "lgpl 2.1|gnu lesser general public 2.1",
    "LGPL-2.1-or-later": "lgpl 2.1+|lgpl 2+|gnu lesser general public 2 or later lgpl 2+",
    "LGPL-3.0-only": "lgpl 3|lgpl 3.0|gnu lesser general public 3|gnu lesser general public 3 lgpl 3",
    "LGPL-3.0-or-later": "lgpl 3+|gnu lesser general public 3 or later lgpl 3+",
    "MIT": "mit|expat|mit expat",
    "MIT-0": "mit 0|mit no attribution mit 0",
    "MPL-2.0": "mpl|mpl 2|mpl 2.0|mozilla public 2.0|mozilla public 2.0 mpl 2.0",
    "PSF-2.0": "psf|psfl|psf 2.0|python software foundation",
    "Unlicense": "unlicense|un|the unlicense unlicense",
    "Zlib": "zlib|zlib/libpng",
    "ZPL-2.1": "zpl|zpl 2.1|zope public",
}
_SPDX = {name: identifier for identifier, names in _NAMES.items() for name in names.split("|")}
"""How people write licences, in the spelling of `_key`, and what they mean. Names that leave the version open stand for
the one in use; `bsd` alone is left out, because its text must tell which BSD it is.
Source: SPDX licence list 3.27; the trove classifiers of https://pypi.org/classifiers."""

_TEXTS = (
    # heads of licences, with the date that tells them from a mention
    ("AGPL-3.0-only", r"gnu affero general public license version 3, 19 november 2007"),
    ("LGPL-3.0-only", r"gnu lesser general public license version 3, 29 june 2007"),
    ("GPL-3.0-only", r"gnu general public license version 3, 29 june 2007"),
    ("LGPL-2.1-only", r"gnu lesser general public license version 2\.1, february 1999"),
    ("LGPL-2.0-only", r"gnu library general public license version 2, june 1991"),
    ("GPL-2.0-only", r"gnu general public license version 2, june 1991"),
    ("GPL-1.0-only", r"gnu general public license version 1, february 1989"),
    ("GFDL-1.3-only", r"gnu free documentation license version 1\.3, 3 november 2008"),
    ("Apache-2.0", r"apache license\W+version 2\.0"),
    ("MPL-1.1", r"mozilla public license version 1\.1"),
    ("MPL-2.0", r"mozilla public license,? version 2\.0"),
    ("EPL-1.0", r"eclipse public license\W+v(?:ersion)? ?1\.0"),
    ("EPL-2.0", r"eclipse public license\W+v(?:ersion)? ?2\.0"),
    ("EUPL-1.2", r"european union public licence v\. ?1\.2"),
    ("Artistic-2.0", r"artistic license 2\.0"),
    ("BSL-1.0", r"boost software license\W+version 1\.0"),
    ("BUSL-1.1", r"business source license 1\.1"),
    ("SSPL-1.0", r"server side public license version 1"),
    ("Elastic-2.0", r"^elastic license 2\.0"),
    ("CC0-1.0", r"cc0 1\.0 universal"),
    ("CC-BY-NC-SA-4.0", r"attribution-noncommercial-sharealike 4\.0 international"),
    ("CC-BY-NC-ND-4.0", r"attribution-noncommercial-noderivatives 4\.0 international"),
    ("CC-BY-NC-4.0", r"attribution-noncommercial 4\.0 international"),
    ("CC-BY-ND-4.0", r"attribution-noderivatives 4\.0 international"),
    ("CC-BY-SA-4.0", r"attribution-sharealike 4\.0 international"),
    ("CC-BY-4.0", r"attribution 4\.0 international"),
    ("PSF-2.0", r"python software foundation license version 2"),
    ("Unlicense", r"this is free and unencumbered software released into the public domain"),
    ("WTFPL", r"do what the fuck you want to public license"),
    # conditions that licences without a head share, from the most to the fewest
    ("BSD-4-Clause", r"redistributions? in binary form .* all advertising materials mentioning"),
    ("BSD-3-Clause", r"redistributions? in binary form .* neither the name"),
    ("BSD-3-Clause", r"redistributions? in binary form .* names? of .{0,80} may not be used to endorse"),
    ("BSD-2-Clause", r"redistributions? in binary form"),
    ("MIT-0", r"permission is hereby granted, free of charge, .* furnished to do so\. the software is provided"),
    ("MIT", r"permission is hereby granted, free of charge, .* without restriction"),
    ("0BSD", r"distribute this software for any purpose with or without fee is hereby granted\. the software is"),
    ("ISC", r"permission to use, copy, modify, and(?:/or)? distribute this software for any purpose"),
    ("Zlib", r"provided ['‘]as-is['’], without any .* altered source versions must be plainly marked"),
)
"""Phrases that tell licence texts apart, tried in order. A text of the GPL does not say "or later"; that is said
elsewhere, if at all, so it counts as this version only. Source: the texts at https://spdx.org/licenses."""
_SPDX_HEADER = re.compile(r"SPDX-License-Identifier:[ \t]*([A-Za-z0-9.+() -]+)")
_HEADER_CHARACTERS = 4096


def licence_of_package(
    expression: str | None, field: str | None, classifiers: Iterable[str], texts: Sequence[str]
) -> str | None:
    """Find the licence of a package: the first of its statements that is understood counts.

    Args:
        expression: its `License-Expression`.
        field: its `License`, free text.
        classifiers: its trove classifiers.
        texts: its licence files.

    Returns:
        An SPDX expression, or None when nothing is understood.

    >>> licence_of_package(None, "BSD 3-Clause License", [], [])
    'BSD-3-Clause'
    >>> licence_of_package(None, None, ["License :: OSI Approved :: MIT License"], [])
    'MIT'
    """
    for statement in (expression, field):
        if statement and (licence := licence_of_name(statement)):
            return licence
    named = [name for name in classifiers if name.startswith("License ::")]
    licences = {licence_of_name(name.rpartition("::")[2]) for name in named}
    if len(licences) == 1 and (licence := licences.pop()):
        return licence
    found = [licence for text in (*texts, field or "") if (licence := licence_of_text(text))]
    return found[0] if found and len(set(found)) == 1 else None


def licence_of_name(name: str) -> str | None:
    """The SPDX expression that a name or expression stands for.

    >>> licence_of_name("mit OR apache-2.0"), licence_of_name("The Apache License, Version 2.0"), licence_of_name("BSD")
    ('MIT OR Apache-2.0', 'Apache-2.0', None)
    """
    try:
        return str(canonicalize_license_expression(name.strip()))
    except InvalidLicenseExpression:
        return _SPDX.get(_key(name))


def licence_of_text(text: str) -> str | None:
    """The SPDX identifier of a licence's text, recognised by its telling phrases.

    >>> licence_of_text("Permission is hereby granted, free of charge, to any person ... without restriction ...")
    'MIT'
    """
    flat = " ".join(text.lower().split())
    return next((identifier for identifier, phrase in _TEXTS if re.search(phrase, flat)), None)


def licence_of_files(texts: Mapping[str, str]) -> str | None:
    """The licence of a repository from its licence files, file name -> text.

    Files named after their licences, as LICENSE-MIT beside LICENSE-APACHE, are a choice; the GPL beside the LGPL is what
    the LGPL builds on. Other files that do not agree say nothing about the whole.

    >>> mit = "Permission is hereby granted, free of charge, to any person ... without restriction ..."
    >>> licence_of_files({"LICENSE-MIT": mit, "LICENSE-APACHE": "Apache License, Version 2.0"})
    'Apache-2.0 OR MIT'
    """
    named = {name: licence for name, text in texts.items() if (licence := licence_of_text(text))}
    found = sorted(set(named.values()))
    lesser = [licence for licence in found if licence.startswith("LGPL")]
    if lesser and all(licence.startswith(("LGPL", "GPL")) for licence in found):
        found = lesser
    is_choice = all(re.match(r"(?i)licen[sc]e-[a-z]", name) for name in named)
    return found[0] if len(found) == 1 else " OR ".join(found) if found and is_choice else None


def licence_of_header(text: str) -> str | None:
    """The licence that a file of code states at its top.

    >>> licence_of_header("/* SPDX-License-Identifier: (GPL-2.0-only OR MIT) */")
    '(GPL-2.0-only OR MIT)'
    """
    match = _SPDX_HEADER.search(text, 0, _HEADER_CHARACTERS)
    return licence_of_name(match[1].strip(" -")) if match else None


def _key(name: str) -> str:
    """Lower case, without filler words and punctuation: `GNU GPL v3 or later (GPLv3+)` -> `gnu gpl 3 or later gpl 3+`."""
    spaced = re.sub(r"v(?:ersion)?[ .]*(?=\d)", " ", name.lower())
    spaced = re.sub(r"[^a-z0-9.+/]+", " ", spaced)
    return " ".join(word for word in spaced.split() if word not in ("the", "license", "licence", "licensed", "version"))
