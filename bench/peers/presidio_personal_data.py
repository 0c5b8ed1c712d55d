"""The peer's half of bench/personal_data.py: presidio's recognizers that work by patterns, in an environment of its own.

python presidio_personal_data.py texts.jsonl     what it finds in each text, one JSON list a line; CPU seconds on the last

The named-entity model is left out (spaCy's blank English stands in), which names and places would need and which takes most
of presidio's time: so it is faster here than as it is shipped.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

import spacy
from presidio_analyzer import AnalyzerEngine, RecognizerRegistry
from presidio_analyzer.nlp_engine import NerModelConfiguration, SpacyNlpEngine

KINDS = {
    "EMAIL_ADDRESS": "email",
    "IP_ADDRESS": "ip",
    "PHONE_NUMBER": "phone",
    "CREDIT_CARD": "credit_card",
    "IBAN_CODE": "iban",
    "US_SSN": "national_id",
}


class Blank(SpacyNlpEngine):
    """An engine whose model only parts words."""

    def __init__(self) -> None:
        super().__init__(ner_model_configuration=NerModelConfiguration(labels_to_ignore=[]))
        self.nlp = {"en": spacy.blank("en")}


def main() -> None:
    registry = RecognizerRegistry()
    registry.load_predefined_recognizers(languages=["en"])
    analyzer = AnalyzerEngine(nlp_engine=Blank(), registry=registry, supported_languages=["en"])
    texts = [json.loads(line) for line in Path(sys.argv[1]).read_text(encoding="utf-8").splitlines()]
    analyzer.analyze(texts[0], "en", list(KINDS))
    before = time.process_time()
    found = [analyzer.analyze(text, "en", list(KINDS), score_threshold=0.4) for text in texts]
    seconds = time.process_time() - before
    for results in found:
        print(json.dumps([[KINDS[result.entity_type], result.start, result.end] for result in results]))
    print(seconds)


if __name__ == "__main__":
    main()
