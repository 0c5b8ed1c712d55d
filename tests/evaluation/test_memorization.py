"""A model that has learnt passages by heart is found out, and one that has not is not accused."""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import pytest
import torch

from headwater.core.errors import MismatchError
from headwater.core.hardware import Machine
from headwater.core.stage import Workspace
from headwater.documents.document import ShardFile, documents_of
from headwater.evaluation.config import Memorization
from headwater.evaluation.memorization import draw, measure
from headwater.evaluation.shares import effective, rows, share, wilson
from headwater.model.transformer import Transformer
from headwater.tokens.codec import Codec
from headwater.tokens.encode import Encode, encode
from headwater.tokens.index import Index, index
from headwater.tokens.loader import Batches
from headwater.tokens.mixture import Mixture
from headwater.tokens.shards import HELD_OUT, TRAINING, TokenFolder
from headwater.tokens.text_index import TextIndex
from headwater.tokens.tokenizer import TrainBpe, tokenizer

from .conftest import make_model

SETTINGS = Memorization(shown_tokens=8, continued_tokens=16, passages=24, samples=4)
COPIES = 6


class Trained:
    """A tiny model trained until it knows some documents by heart."""

    def __init__(self, folder: Path) -> None:
        rng = random.Random(0)
        words = ["".join(rng.choices("abcdefghijklmnop", k=4)) for _ in range(300)]
        texts = [" ".join(rng.choices(words, k=40)) for _ in range(40)]
        often, once, held_out = texts[:4], texts[4:8], texts[8:]
        training = [f"{name} {text}" for text in often for name in words[:COPIES]] + once
        places = {name: folder / name for name in ("documents", "tokenizer", "tokens", "index")}
        for name, some in (("documents", training), ("held_out", held_out)):
            with ShardFile(places["documents"] / name / "prose-00000.parquet") as shard:
                shard.write(documents_of("prose", some))
        machine = Machine(workers=1)
        for place in places.values():
            place.mkdir(exist_ok=True)
        tokenizer(TrainBpe(use="train_bpe", vocab_size=400), places, Workspace(places["tokenizer"], machine))
        encode(Encode(), places, Workspace(places["tokens"], machine))
        index(Index(), places, Workspace(places["index"], machine))
        (places["index"] / "manifest.json").write_text("{}")
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("headwater.tokens.text_index.check_quickly", lambda folder: None)
            self.index = TextIndex(places["index"])
        self.tokens = TokenFolder(places["tokens"])
        self.codec = Codec(places["tokenizer"] / "tokenizer")
        self.model = self._train(places["tokens"])

    def _train(self, tokens: Path) -> Transformer:
        torch.manual_seed(0)
        model = make_model(vocab_size=400, hidden_size=48, context_length=64)
        for parameter in model.parameters():
            parameter.data *= 0.1 if parameter.ndim > 1 else 1
        optimizer = torch.optim.AdamW(model.parameters(), lr=6e-3)
        batches = Batches(tokens, Mixture(max_epochs=1000), 64, 8, 0)
        for step in range(140):
            batch = [torch.from_numpy(array).long() for array in batches.batch(step)]
            optimizer.zero_grad()
            model.loss(*batch).backward()
            optimizer.step()
        return model.eval()


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Trained:
    return Trained(tmp_path_factory.mktemp("memorised"))


def test_what_was_learnt_by_heart_is_found_and_what_was_held_out_is_not(trained: Trained) -> None:
    result = measure(trained.model, trained.codec, trained.tokens, SETTINGS, trained.index)
    often = result["by_duplicates"]["5 to 19"]
    assert often["passages"] == 24
    assert often["value"] >= 0.9, "passages that stand six times in the training documents"
    assert often["low"] > 0.5
    assert result["held_out"]["passages"] == 24
    assert result["held_out"]["value"] == 0
    assert result["held_out"]["mean_tokens"] < 1
    assert result["training"]["value"] > result["held_out"]["high"]
    assert result["held_out_in_training"] == 0
    assert result["not_told"] == ["whether training read a passage: it is not known which steps read what"]
    best = result["samples"][0]
    assert best["split"] == TRAINING
    assert best["matched_tokens"] == 16
    assert best["document"] == best["written"] == ""
    assert best["same"]
    assert [name for name, _ in rows(result)][-1] == "held out, the control"


def test_a_model_that_knows_nothing_continues_nothing(trained: Trained) -> None:
    fresh = make_model(seed=1, vocab_size=400, hidden_size=64, context_length=64)
    result = measure(fresh, trained.codec, trained.tokens, SETTINGS, trained.index)
    assert result["training"]["memorised"] == 0
    assert result["training"]["high"] < 0.25


def test_without_an_index_it_says_what_it_cannot_tell(trained: Trained) -> None:
    result = measure(trained.model, trained.codec, trained.tokens, SETTINGS)
    assert result["by_duplicates"] is None
    assert result["held_out_in_training"] is None
    assert len(result["not_told"]) == 3
    assert result["training"]["passages"] == 24


def test_passages_that_no_step_read_are_counted_apart(trained: Trained) -> None:
    def seen(source: str, document: int, tokens: tuple[int, int]) -> int:
        assert tokens[1] - tokens[0] == 24
        return 0 if document % 2 else 3

    result = measure(trained.model, trained.codec, trained.tokens, SETTINGS, trained.index, seen)
    assert result["training"]["passages"] == result["never_read"]["passages"] == 24
    assert result["not_told"] == []
    assert {sample["steps"] for sample in result["samples"] if sample["split"] == TRAINING} <= {0, 3}


def test_the_continuation_is_the_greedy_one(trained: Trained) -> None:
    passages = draw(trained.tokens, TRAINING, 24, 5, 0)
    result = measure(trained.model, trained.codec, trained.tokens, SETTINGS.model_copy(update={"passages": 5}))
    for passage in passages:
        ids = passage.tokens.astype(np.int64).tolist()
        matched = 0
        with torch.inference_mode():
            for place in range(8, 24):
                logits = trained.model.logits(trained.model.hidden(torch.tensor([ids[:place]]))[:, -1])
                if int(logits[0, : trained.codec.vocab_size].argmax()) != ids[place]:
                    break
                matched += 1
        passage.matched = matched
    expected = float(np.mean([passage.matched for passage in passages]))
    assert result["training"]["mean_tokens"] == pytest.approx(expected)


def test_passages_are_drawn_evenly_from_all_places_and_lie_within_documents(trained: Trained) -> None:
    for split in (TRAINING, HELD_OUT):
        source = trained.tokens.source("prose", split)
        room = int(np.maximum(source.lengths.astype(int) - 24, 0).sum())
        every = draw(trained.tokens, split, 24, 50 * room, 0)
        assert len(every) == room == len({(passage.document, passage.first) for passage in every})
        for passage in every[:200]:
            document = source.document(passage.document)
            assert 1 <= passage.first <= len(document) - 24
            np.testing.assert_array_equal(passage.tokens, document[passage.first : passage.first + 24])
        few = draw(trained.tokens, split, 24, 40, 0)
        assert [(p.document, p.first) for p in few] != [
            (p.document, p.first) for p in draw(trained.tokens, split, 24, 40, 1)
        ]
        assert np.mean([passage.document for passage in few]) == pytest.approx(source.num_documents / 2, rel=0.3)


def test_too_long_passages_are_refused(trained: Trained) -> None:
    with pytest.raises(MismatchError, match="82 tokens are more than the model's context of 64"):
        measure(trained.model, trained.codec, trained.tokens, Memorization())
    long = make_model(vocab_size=400, hidden_size=64, context_length=2048)
    with pytest.raises(MismatchError, match="no training document has a passage of 1,050 tokens"):
        measure(long, trained.codec, trained.tokens, Memorization(shown_tokens=1000))


def test_bands_are_wilsons_for_as_many_passages_as_are_independent() -> None:
    low, high = wilson(0.1, 50)  # scipy.stats.binomtest(5, 50).proportion_ci(method="wilson")
    assert (low, high) == pytest.approx((0.0434758, 0.2136023), abs=1e-6)
    assert [wilson(0.0, count)[0] for count in (3, 205, 1e6)] == [0.0] * 3
    assert [wilson(1.0, count)[1] for count in (3, 205, 1e6)] == [1.0] * 3
    hits = np.array([1.0, 1, 1, 1, 0, 0, 0, 0])
    assert effective(hits, range(8)) == pytest.approx(7), "independent: all but the one that the mean takes"
    assert effective(hits, [0, 0, 0, 0, 1, 1, 1, 1]) == pytest.approx(1), "two documents that differ"
    assert effective(np.zeros(8), [0, 0, 0, 0, 1, 1, 1, 1]) == 2
    alone, together = (
        share([50] * 5 + [0] * 45, range(50), 50),
        share([50] * 5 + [0] * 45, [i // 5 for i in range(50)], 50),
    )
    assert alone.value == together.value == 0.1
    assert together.low < alone.low < alone.high < together.high
    assert share([], [], 50).value is None
