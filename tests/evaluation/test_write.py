from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

from headwater.core.store import write_json
from headwater.evaluation.config import Sampling
from headwater.evaluation.write import TextStream, write
from headwater.tokens.codec import Codec


@pytest.fixture(scope="module")
def codec(tmp_path_factory: pytest.TempPathFactory) -> Codec:
    """A tokenizer of single bytes, and one token between documents."""
    folder = tmp_path_factory.mktemp("bytes")
    vocabulary = {letter: n for n, letter in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}
    tokenizer = Tokenizer(models.BPE(vocabulary, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(["<|endoftext|>"])
    tokenizer.save(str(folder / "tokenizer.json"))
    write_json(folder / "tokenizer_config.json", {"eos_token": "<|endoftext|>"})
    return Codec(folder)


def told(codec: Codec, prompt: str, text: str, stops: tuple[str, ...] = ()) -> tuple[list[str], bool]:
    """The pieces in which a text is handed out, and whether it was stopped."""
    before, ids = (found.tolist() for found in codec.encode([prompt, text]))
    stream = TextStream(codec, before, stops)
    pieces = [stream.add(token) for token in ids]
    return [*pieces, stream.finish()], stream.stopped


@given(prompt=st.text(max_size=10), text=st.text(max_size=40))
def test_the_pieces_are_the_text(codec: Codec, prompt: str, text: str) -> None:
    pieces, stopped = told(codec, prompt, text)
    assert "".join(pieces) == text
    assert not stopped


def test_a_character_is_handed_out_when_all_its_bytes_are_there(codec: Codec) -> None:
    assert told(codec, "a", "é한b")[0] == ["", "é", "", "", "한", "b", ""]


def test_bytes_that_never_become_a_character_are_handed_out_at_the_end(codec: Codec) -> None:
    (ids,) = codec.encode(["한"])
    stream = TextStream(codec, [])
    assert [stream.add(token) for token in ids.tolist()[:2]] == ["", ""]
    assert stream.finish() == "\ufffd"


@given(text=st.text("ab\n", max_size=30), stops=st.lists(st.text("ab\n", min_size=1, max_size=4), max_size=3))
def test_a_text_ends_at_its_first_stop_string(codec: Codec, text: str, stops: list[str]) -> None:
    pieces, stopped = told(codec, "", text, tuple(stops))
    found = [text.find(stop) for stop in stops if stop in text]
    end = min(found, default=len(text))
    # a stop string that is whole earlier wins, even where another one began before it
    assert stopped == bool(found)
    first = next((n for n in range(len(text) + 1) if any(stop in text[:n] for stop in stops)), len(text))
    end = min((text[:first].find(stop) for stop in stops if stop in text[:first]), default=end)
    assert "".join(pieces) == text[:end]


def test_what_may_become_a_stop_string_is_held_back(codec: Codec) -> None:
    assert told(codec, "", "x\n\ny", ("\n\n",)) == (["x", "", "", "", ""], True)
    assert told(codec, "", "x\nyz", ("\n\n",)) == (["x", "", "\ny", "z", ""], False)


def test_a_model_stops_at_a_string(finished: dict[str, Path]) -> None:
    from headwater.model.checkpoint import load_model

    codec = Codec(finished["tokenizer"] / "tokenizer")
    model, _ = load_model(finished["checkpoint"] / "checkpoint")

    def written(**settings: object) -> list[str]:
        texts = ["", ""]
        for number, piece, _ in write(
            model, codec, ["The value", "A"], Sampling.model_validate({"temperature": 0} | settings), warnings.append
        ):
            texts[number] += piece
        return texts

    warnings: list[str] = []
    whole = written()
    assert not warnings
    assert len(whole[0]) > 10
    stop = whole[0][5:8]
    assert written(stop=(stop,))[0] == whole[0][: whole[0].index(stop)]


def test_of_a_prompt_that_is_too_long_the_end_is_seen(finished: dict[str, Path]) -> None:
    from headwater.model.checkpoint import load_model

    codec = Codec(finished["tokenizer"] / "tokenizer")
    model, _ = load_model(finished["checkpoint"] / "checkpoint")
    long = "The value of an expression is what it evaluates to. " * 10
    warnings: list[str] = []
    settings = Sampling(temperature=0, max_new_tokens=20)
    pieces = list(write(model, codec, [long], settings, warnings.append))
    size = len(np.concatenate(codec.encode([long]))) + 1
    assert warnings == [f"prompt 1 has {size} tokens, too many for a context of 64: the models see its last 44"]
    assert sum(tokens for _, _, tokens in pieces) == 20
