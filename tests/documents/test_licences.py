"""Licences of packages, in the many ways in which packages state them."""

import pytest

from headwater.documents.sources.licences import licence_of_name, licence_of_package, licence_of_text

BSD3 = (
    "Redistribution and use in source and binary forms ... Redistributions in binary form must ... Neither the name of"
)
BSD2 = "Redistribution and use in source and binary forms ... Redistributions in binary form must ... IS PROVIDED"
MIT = (
    "Permission is hereby granted, free of charge, to any\n   person ... deal in the Software without restriction, ..."
)


@pytest.mark.parametrize(
    ("name", "licence"),
    [
        ("MIT", "MIT"),
        ("MIT License", "MIT"),
        ("mpl-2.0 and mit", "MPL-2.0 AND MIT"),
        ("Apache 2.0 License", "Apache-2.0"),
        ("Apache License, Version 2.0", "Apache-2.0"),
        ("3-Clause BSD License", "BSD-3-Clause"),
        ("BSD-2-Clause", "BSD-2-Clause"),
        ("GNU Lesser General Public License v3 or later (LGPLv3+)", "LGPL-3.0-or-later"),
        ("GNU General Public License v3 (GPLv3)", "GPL-3.0-only"),
        ("Mozilla Public License 2.0 (MPL 2.0)", "MPL-2.0"),
        ("ISC License (ISCL)", "ISC"),
        ("Python Software Foundation License", "PSF-2.0"),
        ("BSD", None),
        ("Proprietary", None),
        ("", None),
    ],
)
def test_names(name: str, licence: str | None) -> None:
    assert licence_of_name(name) == licence


@pytest.mark.parametrize(
    ("text", "licence"),
    [
        (BSD3, "BSD-3-Clause"),
        (BSD2, "BSD-2-Clause"),
        (MIT, "MIT"),
        ("Apache License\n        Version 2.0, January 2004", "Apache-2.0"),
        ("All rights reserved.", None),
    ],
)
def test_texts(text: str, licence: str | None) -> None:
    assert licence_of_text(text) == licence


@pytest.mark.parametrize(
    ("expression", "field", "classifiers", "texts", "licence"),
    [
        ("Apache-2.0", "MIT", ["License :: OSI Approved :: BSD License"], [MIT], "Apache-2.0"),  # the newest form first
        (None, "MIT", ["License :: OSI Approved :: BSD License"], [], "MIT"),
        (None, "BSD", ["License :: OSI Approved :: BSD License"], [BSD3], "BSD-3-Clause"),  # only the text tells which
        (None, "BSD", ["License :: OSI Approved :: BSD License"], [], None),
        (None, BSD2, [], [], "BSD-2-Clause"),  # the field holds the whole text
        (
            None,
            None,
            ["License :: OSI Approved :: MIT License", "License :: OSI Approved :: ISC License (ISCL)"],
            [],
            None,
        ),
        (None, None, [], [MIT, BSD3], None),  # two texts that do not agree say nothing about the whole
        (None, None, ["Programming Language :: Python"], [], None),
    ],
)
def test_the_first_statement_that_is_understood_counts(
    expression: str | None, field: str | None, classifiers: list[str], texts: list[str], licence: str | None
) -> None:
    assert licence_of_package(expression, field, classifiers, texts) == licence
