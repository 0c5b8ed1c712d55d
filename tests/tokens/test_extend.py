"""Extending and trimming real tokenizers: what they wrote before stays what it was."""

from __future__ import annotations

import io
import json
from pathlib import Path

import numpy as np
import pytest
import tokenizers
import zstandard
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import decoders, models, pre_tokenizers, processors

from headwater.core.errors import EmptyResultError, InputError, MismatchError
from headwater.core.hardware import Machine
from headwater.core.stage import Workspace
from headwater.core.store import read_json
from headwater.tokens.codec import Codec, tricky_texts
from headwater.tokens.extend import Extend
from headwater.tokens.tokenizer import tokenizer
from headwater.tokens.trim import Trim

from .conftest import write_documents
from .test_tokenizer import texts_in

KOREAN = (
    "강물은 산에서 시작하여 바다로 흐른다. 봄에는 눈이 녹아 강물이 깊어지고, 가을에는 강물이 맑아진다. "
    "사람들은 강물을 따라 마을을 세우고, 강물을 마시고, 강물에서 물고기를 잡았다. "
)


@pytest.fixture(scope="session")
def korean(documents: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished stage of documents: Korean, and the prose of the other documents."""
    folder = tmp_path_factory.mktemp("korean")
    write_documents(folder / "documents" / "korean-00000.parquet", [KOREAN * n for n in range(1, 9)])
    write_documents(folder / "held_out" / "korean-00000.parquet", [KOREAN])
    write_documents(folder / "documents" / "prose-00000.parquet", texts_in(documents / "documents")[:10])
    return folder


@pytest.fixture(scope="module")
def extended(trained: Path, korean: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished stage tokenizer: the 600 entries of `trained` and 40 learnt on Korean."""
    out = Workspace(tmp_path_factory.mktemp("extended"), Machine(workers=1))
    settings = Extend(use="extend", path=str(trained / "tokenizer"), new_tokens=40, weights={"korean": 1, "prose": 0})
    tokenizer(settings, {"documents": korean}, out)
    return out.folder


@pytest.fixture(scope="module")
def codec(extended: Path) -> Codec:
    return Codec(extended / "tokenizer")


def test_an_extended_tokenizer_writes_the_new_language_with_fewer_tokens(extended: Path, trained: Path):
    facts = read_json(extended / "facts.json")
    korean, prose = facts["sources"]["korean"], facts["sources"]["prose"]
    assert (facts["vocab_size"], facts["new_tokens"]) == (640, 40)
    assert 25 <= facts["new_tokens_used"] <= 40
    assert korean["before"]["bytes_per_token"] < 1.2
    assert korean["bytes_per_token"] > 2
    assert korean["tokens_per_word"] < korean["before"]["tokens_per_word"] / 2
    assert korean["tokens_per_character"] < korean["before"]["tokens_per_character"] / 2
    assert prose["bytes_per_token"] >= prose["before"]["bytes_per_token"]
    assert Codec(extended / "base").vocab_size == 600


def test_old_tokens_keep_their_ids_and_text_is_only_merged_further(extended: Path, trained: Path, documents: Path):
    """A text is encoded as before, and then merged further: new tokens taken apart give what was there."""
    old, new = (read_json(folder / "tokenizer" / "tokenizer.json")["model"] for folder in (trained, extended))
    assert {name: new["vocab"][name] for name in old["vocab"]} == old["vocab"]
    assert sorted(new["vocab"].values()) == list(range(640))
    assert new["merges"][: len(old["merges"])] == [list(merge) for merge in old["merges"]]
    before, after = Codec(trained / "tokenizer"), Codec(extended / "tokenizer")
    parts = {left + right: (left, right) for left, right in new["merges"]}
    names = {number: name for name, number in new["vocab"].items()}

    def apart(name: str) -> list[str]:
        return [name] if name in old["vocab"] else [piece for part in parts[name] for piece in apart(part)]

    for text in [KOREAN, *texts_in(documents / "documents")[:5], *tricky_texts()]:
        (old_ids,), (new_ids,) = before.encode([text]), after.encode([text])
        assert [old["vocab"][piece] for number in new_ids for piece in apart(names[number])] == old_ids.tolist()
        assert after.decode(new_ids) == text


@given(st.text(alphabet=st.sampled_from("강물은 산에서 the river\n0,👍"), max_size=40))
def test_every_text_comes_back(codec: Codec, text: str):
    (ids,) = codec.encode([text])
    assert codec.decode(ids) == text


def test_extending_does_not_depend_on_the_shards(extended: Path, trained: Path, korean: Path, tmp_path: Path, out):
    made = json.loads((extended / "tokenizer" / "tokenizer.json").read_text())
    write_documents(tmp_path / "again" / "documents" / "korean-00007.parquet", [KOREAN * n for n in range(8, 0, -1)])
    write_documents(tmp_path / "again" / "held_out" / "korean-00000.parquet", [KOREAN])
    settings = Extend(use="extend", path=str(trained / "tokenizer"), new_tokens=40)
    tokenizer(settings, {"documents": tmp_path / "again"}, out)
    assert json.loads((out.folder / "tokenizer" / "tokenizer.json").read_text()) == made


def test_it_loads_in_transformers_and_encodes_the_same(extended: Path):
    import transformers

    theirs = transformers.AutoTokenizer.from_pretrained(extended / "tokenizer")
    ours = Codec(extended / "tokenizer")
    for text, ids in zip([KOREAN, *tricky_texts()], ours.encode([KOREAN, *tricky_texts()]), strict=True):
        assert theirs(text)["input_ids"] == ids.tolist()


def test_a_text_that_spells_a_special_token_never_becomes_one(trained: Path, tmp_path: Path, out: Workspace):
    write_documents(tmp_path / "documents" / "odd-00000.parquet", ["<|endoftext|>"] * 50 + ["river water"] * 20)
    settings = Extend(use="extend", path=str(trained / "tokenizer"), new_tokens=8)
    tokenizer(settings, {"documents": tmp_path}, out)
    codec = Codec(out.folder / "tokenizer")
    (ids,) = codec.encode(["<|endoftext|><|endoftext|>"])
    assert codec.separator_id not in ids
    assert codec.decode(ids) == "<|endoftext|><|endoftext|>"


def test_a_token_that_there_is_already_is_merged_but_not_new(tmp_path: Path, out: Workspace):
    """The base has `abc` out of `ab` and `c`, but writes the text with `bc`: the pair is a merge to the old token."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    names = ["<|endoftext|>", *alphabet, "bc", "ab", "abc", "xa", "xabc"]
    merges = [("b", "c"), ("a", "b"), ("ab", "c"), ("x", "a"), ("xa", "bc")]
    base = tokenizers.Tokenizer(models.BPE(vocab={name: n for n, name in enumerate(names)}, merges=merges))
    base.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    base.decoder = decoders.ByteLevel()
    base.add_special_tokens(["<|endoftext|>"])
    base.save(str(tmp_path / "tokenizer.json"))
    assert base.encode("abc").tokens == ["a", "bc"]
    write_documents(tmp_path / "documents" / "text-00000.parquet", ["abc abc abc abc"] * 9)
    tokenizer(Extend(use="extend", path=str(tmp_path), new_tokens=1), {"documents": tmp_path}, out)
    codec = Codec(out.folder / "tokenizer")
    assert codec.vocab_size == len(names) + 1
    assert codec.reference.encode("abc abc").tokens == ["abc", "Ġabc"]
    assert codec.decode(codec.encode(["abc abc xabc"])[0]) == "abc abc xabc"


def test_more_tokens_than_the_text_holds_are_refused_with_a_number(trained: Path, korean: Path, out: Workspace):
    settings = Extend(use="extend", path=str(trained / "tokenizer"), new_tokens=5000, weights={"korean": 1})
    with pytest.raises(InputError, match="5,000 new tokens need as many") as caught:
        tokenizer(settings, {"documents": korean}, out)
    possible = int(caught.value.hint.split("set new_tokens to ")[1].split(" or less")[0].replace(",", ""))
    tokenizer(settings.model_copy(update={"new_tokens": possible}), {"documents": korean}, out)
    assert Codec(out.folder / "tokenizer").vocab_size == 600 + possible


def test_a_text_that_holds_no_new_token_is_refused(trained: Path, tmp_path: Path, out: Workspace):
    write_documents(tmp_path / "documents" / "text-00000.parquet", ["a b", "c d"])
    settings = Extend(use="extend", path=str(trained / "tokenizer"), new_tokens=5)
    with pytest.raises(InputError, match="hold only 0 that occur 2 times and are no tokens yet") as caught:
        tokenizer(settings, {"documents": tmp_path}, out)
    assert caught.value.hint == "give text that this tokenizer spells badly"


def test_other_kinds_of_tokenizer_are_refused(tmp_path: Path, korean: Path, out: Workspace):
    words = tokenizers.Tokenizer(models.Unigram([("<unk>", 0.0), ("▁", -1.0), ("a", -2.0), ("</s>", -3.0)], unk_id=0))
    words.pre_tokenizer = pre_tokenizers.Metaspace()
    words.add_special_tokens(["</s>"])
    words.save(str(tmp_path / "tokenizer.json"))
    for settings in (Extend(use="extend", path=str(tmp_path), new_tokens=5), Trim(use="trim", path=str(tmp_path))):
        with pytest.raises(
            MismatchError, match="not a byte-level BPE but Unigram, which cannot be extended or trimmed"
        ):
            tokenizer(settings, {"documents": korean}, out)


# --------------------------------------------------------------------------------------------------------------- trim


def test_a_trimmed_tokenizer_encodes_the_documents_as_before(trained: Path, tmp_path: Path, out: Workspace):
    korean = tmp_path
    write_documents(korean / "documents" / "korean-00000.parquet", [KOREAN * n for n in range(1, 9)])
    counts = tokenizer(Trim(use="trim", path=str(trained / "tokenizer")), {"documents": korean}, out)
    before, after = Codec(trained / "tokenizer"), Codec(out.folder / "tokenizer")
    assert counts["vocab_size"] == after.vocab_size == 600 - counts["trimmed_tokens"]
    assert counts["trimmed_tokens"] > 0
    old, new = before.reference, after.reference
    for text in texts_in(korean / "documents"):
        (old_ids,), (new_ids,) = before.encode([text]), after.encode([text])
        assert [old.id_to_token(n) for n in old_ids] == [new.id_to_token(n) for n in new_ids]
    for text in tricky_texts():
        assert after.decode(after.encode([text])[0]) == text
    assert sorted(new.get_vocab().values()) == list(range(after.vocab_size))
    kept = sorted(new.get_vocab(), key=new.token_to_id)
    assert kept == sorted(kept, key=old.token_to_id), "in the old order"
    assert after.separator == before.separator


def test_seldom_tokens_go_too(trained: Path, documents: Path, out: Workspace):
    """Whatever a token that stays is merged of stays with it, however seldom it stands alone."""
    counts = tokenizer(Trim(use="trim", path=str(trained / "tokenizer"), min_count=400), {"documents": documents}, out)
    model = read_json(out.folder / "tokenizer" / "tokenizer.json")["model"]
    made = {left + right for left, right in model["merges"]}
    assert all(len(name) == 1 or name in made or name == "<|endoftext|>" for name in model["vocab"])
    base = Codec(trained / "tokenizer")
    seen = np.bincount(np.concatenate(base.encode(texts_in(documents / "documents"))), minlength=600)
    for name, number in base.reference.get_vocab().items():
        if seen[number] >= 400:
            assert name in model["vocab"]
    assert counts["sources"]["prose"]["tokens"] > counts["sources"]["prose"]["before"]["tokens"]


def test_trimming_nothing_is_said(tmp_path: Path, out: Workspace):
    base = tokenizers.Tokenizer(models.BPE())
    base.pre_tokenizer, base.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=260,
        special_tokens=["<|endoftext|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    base.train_from_iterator(["river water river water"], trainer)
    base.save(str(tmp_path / "tokenizer.json"))
    write_documents(tmp_path / "documents" / "text-00000.parquet", ["river water river water", "water ri ver"])
    tokenizer(Trim(use="trim", path=str(tmp_path)), {"documents": tmp_path}, out)
    (warning,) = out.warnings
    assert warning.endswith("nothing was trimmed")


def test_trimming_without_documents_is_an_error(trained: Path, tmp_path: Path, out: Workspace):
    with pytest.raises(EmptyResultError, match="no documents to count tokens in"):
        tokenizer(Trim(use="trim", path=str(trained / "tokenizer")), {"documents": tmp_path}, out)


def test_what_writes_a_special_token_before_each_text_follows_its_new_id(trained: Path, korean: Path, tmp_path, out):
    given = tokenizers.Tokenizer.from_file(str(trained / "tokenizer" / "tokenizer.json"))
    given.add_special_tokens(["<|begin|>"])
    given.post_processor = processors.Sequence(
        [
            processors.ByteLevel(trim_offsets=False),
            processors.TemplateProcessing(single="<|begin|> $A", special_tokens=[("<|begin|>", 600)]),
        ]
    )
    given.save(str(tmp_path / "tokenizer.json"))
    tokenizer(Trim(use="trim", path=str(tmp_path)), {"documents": korean}, out)
    made = tokenizers.Tokenizer.from_file(str(out.folder / "tokenizer" / "tokenizer.json"))
    assert made.encode("강물").ids[0] == made.token_to_id("<|begin|>") == made.get_vocab_size() - 1


# --------------------------------------------------------------------------------------- tokenizers that people use


def gpt2(shared_data: Path, folder: Path) -> Path:
    """GPT-2's tokenizer as a tokenizer.json."""
    vocabulary, merges = (
        zstandard.ZstdDecompressor().decompress((shared_data / "tokenizers" / name).read_bytes()).decode()
        for name in ("gpt2-encoder.json.zst", "gpt2-vocab.bpe.zst")
    )
    pairs = [tuple(line.split(" ")) for line in merges.splitlines()[1:] if line]
    made = tokenizers.Tokenizer(models.BPE(vocab=json.loads(vocabulary), merges=pairs))
    made.pre_tokenizer, made.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    made.add_special_tokens(["<|endoftext|>"])
    folder.mkdir()
    made.save(str(folder / "tokenizer.json"))
    return folder


def reviews(shared_data: Path, count: int) -> list[str]:
    file = zstandard.ZstdDecompressor().stream_reader((shared_data / "lang" / "ko-nsmc-reviews.jsonl.zst").open("rb"))
    lines = io.TextIOWrapper(file, encoding="utf-8")
    return [json.loads(next(lines))["text"] for _ in range(count)]


def test_gpt2_learns_korean(shared_data: Path, tmp_path: Path, out: Workspace):
    """Films reviewed in Korean take 2 tokens a letter in GPT-2; 500 new tokens more than halve that."""
    write_documents(tmp_path / "documents" / "korean-00000.parquet", reviews(shared_data, 1500))
    write_documents(tmp_path / "held_out" / "korean-00000.parquet", reviews(shared_data, 1700)[1500:])
    base = gpt2(shared_data, tmp_path / "gpt2")
    facts = tokenizer(Extend(use="extend", path=str(base), new_tokens=500), {"documents": tmp_path}, out)
    assert facts["vocab_size"] == 50_757
    assert facts["separator_id"] == 50_256
    korean = facts["sources"]["korean"]
    assert korean["measured_on"] == "held_out"
    assert korean["before"]["tokens_per_character"] > 1.5
    assert korean["tokens_per_character"] < 0.55 * korean["before"]["tokens_per_character"]
    codec = Codec(out.folder / "tokenizer")
    assert codec.encode(["Hello world"])[0].tolist() == [15496, 995]


def test_neox_is_trimmed_to_what_korean_reviews_use(shared_data: Path, tmp_path: Path, out: Workspace):
    (tmp_path / "neox").mkdir()
    name = "gpt-neox-20b-tokenizer.json.zst"
    text = zstandard.ZstdDecompressor().decompress((shared_data / "tokenizers" / name).read_bytes())
    (tmp_path / "neox" / "tokenizer.json").write_bytes(text)
    texts = reviews(shared_data, 1000)
    write_documents(tmp_path / "documents" / "korean-00000.parquet", texts)
    facts = tokenizer(Trim(use="trim", path=str(tmp_path / "neox")), {"documents": tmp_path}, out)
    assert facts["vocab_size"] < 3000
    assert facts["sources"]["korean"]["tokens"] == facts["sources"]["korean"]["before"]["tokens"]
