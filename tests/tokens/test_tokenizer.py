from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import tokenizers
import transformers
import zstandard
from pydantic import TypeAdapter, ValidationError

from headwater.core.errors import EmptyResultError, InputError, MismatchError
from headwater.core.stage import Workspace
from headwater.core.store import hash_file, read_json
from headwater.documents.document import read_batches, shards_in
from headwater.tokens.codec import Codec, tricky_texts
from headwater.tokens.sample import Sample
from headwater.tokens.tokenizer import Tokenizer, TokenizerFolder, TrainBpe, tokenizer


def texts_in(folder: Path) -> list[str]:
    return [
        text
        for shard in shards_in(folder)
        for batch in read_batches(shard, ["text"])
        for text in batch.column("text").to_pylist()
    ]


def test_a_trained_tokenizer_spells_every_text(trained: Path):
    codec = Codec(trained / "tokenizer")
    texts = [*tricky_texts(), "".join(map(chr, range(0x20, 0x3000)))]
    for text, ids in zip(texts, codec.encode(texts), strict=True):
        assert codec.decode(ids) == text
        assert ids.max(initial=0) < codec.vocab_size == 600


def test_what_spells_the_separator_is_text(trained: Path):
    for fast in (True, False):
        codec = Codec(trained / "tokenizer", fast=fast)
        text = "a <|endoftext|> in the text"
        (ids,) = codec.encode([text])
        assert codec.separator_id not in ids
        assert codec.decode(ids) == text


def test_fast_and_reference_give_the_same_tokens(trained: Path, documents: Path):
    fast, reference = Codec(trained / "tokenizer"), Codec(trained / "tokenizer", fast=False)
    assert fast.fast
    assert not reference.fast
    texts = [*texts_in(documents / "documents"), "", "a", ""]
    for left, right in zip(fast.encode(texts, threads=2), reference.encode(texts, threads=2), strict=True):
        assert np.array_equal(left, right)
    assert fast.encode([]) == []


def test_it_loads_in_transformers_and_encodes_the_same(trained: Path, documents: Path):
    theirs = transformers.AutoTokenizer.from_pretrained(trained / "tokenizer")
    ours = Codec(trained / "tokenizer")
    texts = texts_in(documents / "held_out") + list(tricky_texts())
    for text, ids in zip(texts, ours.encode(texts), strict=True):
        encoded = theirs(text)["input_ids"]
        assert encoded == ids.tolist()
        assert theirs.decode(encoded) == text
    assert theirs.eos_token_id == theirs.bos_token_id == ours.separator_id
    assert len(theirs) == ours.vocab_size


def test_training_is_the_same_whatever_the_shards(documents: Path, trained: Path, out: Workspace, tmp_path: Path):
    moved = tmp_path / "moved"
    shutil.copytree(documents, moved)
    (moved / "documents" / "prose-00000.parquet").rename(moved / "documents" / "prose-00007.parquet")
    tokenizer(TrainBpe(use="train_bpe", vocab_size=600, sample_bytes=300_000), {"documents": moved}, out)
    assert hash_file(out.folder / "tokenizer" / "tokenizer.json") == hash_file(trained / "tokenizer" / "tokenizer.json")


def test_facts_are_measured_on_held_out_text(trained: Path, documents: Path):
    facts = read_json(trained / "facts.json")
    code = texts_in(documents / "held_out")[0]
    codec = Codec(trained / "tokenizer")
    assert facts["sources"]["code"]["bytes"] == len(code.encode())
    assert facts["sources"]["code"]["tokens"] == len(codec.encode([code])[0])
    assert facts["sources"]["code"]["bytes_per_token"] == pytest.approx(
        len(code.encode()) / len(codec.encode([code])[0])
    )
    assert 1.5 < facts["bytes_per_token"] < 4
    assert 0.7 < facts["vocabulary_used"] <= 1
    assert facts["tokenizer_sha256"] == hash_file(trained / "tokenizer" / "tokenizer.json")
    assert facts["sources"].keys() == {"prose", "code"}


def test_the_patterns_differ_in_digits(documents: Path, out: Workspace):
    tokenizer(TrainBpe(use="train_bpe", vocab_size=300, pattern="gpt2"), {"documents": documents}, out)
    made = tokenizers.Tokenizer.from_file(str(out.folder / "tokenizer" / "tokenizer.json"))
    assert [piece for piece, _ in made.pre_tokenizer.pre_tokenize_str("a 12345")] == ["a", "Ġ12345"]


def test_the_llama3_pattern_keeps_three_digits(trained: Path):
    made = tokenizers.Tokenizer.from_file(str(trained / "tokenizer" / "tokenizer.json"))
    assert [piece for piece, _ in made.pre_tokenizer.pre_tokenize_str("a 12345")] == ["a", "Ġ", "123", "45"]


def test_a_vocabulary_larger_than_the_text_supports_is_refused_with_a_number(documents: Path, out: Workspace):
    settings = TrainBpe(use="train_bpe", vocab_size=50_000, sample_bytes=20_000)
    with pytest.raises(InputError, match=r"needs 49,743 merges, but 19\.5 KiB of text hold only") as caught:
        tokenizer(settings, {"documents": documents}, out)
    possible = int(caught.value.hint.split("set vocab_size to ")[1].split(" or less")[0].replace(",", ""))
    tokenizer(settings.model_copy(update={"vocab_size": possible}), {"documents": documents}, out)
    assert Codec(out.folder / "tokenizer").vocab_size == possible


def test_no_documents_is_an_error(tmp_path: Path, out: Workspace):
    with pytest.raises(EmptyResultError, match="no documents to train a tokenizer on"):
        tokenizer(TrainBpe(use="train_bpe", vocab_size=300), {"documents": tmp_path}, out)


def test_a_sample_is_exact_and_shared_out(documents: Path):
    sample = Sample(documents / "documents", 120_000, None)
    assert sample.bytes == 120_000
    texts = list(sample.texts())
    assert sum(len(text.encode()) for text in texts) == pytest.approx(120_000, abs=8)
    code = sum(len(text.encode()) for text in texts if "def __init__" in text)
    assert code > 40_000
    assert texts == list(Sample(documents / "documents", 120_000, None).texts())


def test_a_sample_larger_than_the_text_is_all_of_it(documents: Path):
    assert list(Sample(documents / "documents", 1 << 40, None).texts()) == texts_in(documents / "documents")


def test_weights_of_the_sample(documents: Path):
    only = "".join(Sample(documents / "documents", 50_000, {"prose": 1}).texts())
    assert all(text[:2000] not in only for text in texts_in(documents / "documents")[:4])
    with pytest.raises(MismatchError, match="weight for 'proze', which is not a source; did you mean 'prose'"):
        Sample(documents / "documents", 50_000, {"proze": 1})


# --------------------------------------------------------------------------------------------- existing tokenizers


def folder_of(path: Path, separator: str | None = None) -> TokenizerFolder:
    return TokenizerFolder(use="folder", path=str(path), separator=separator)


def test_an_existing_folder_is_taken_over(trained: Path, documents: Path, out: Workspace):
    settings = folder_of(trained / "tokenizer")
    tokenizer(settings, {"documents": documents}, out)
    (text,) = texts_in(documents / "held_out")[:1]
    again, before = Codec(out.folder / "tokenizer"), Codec(trained / "tokenizer")
    assert np.array_equal(again.encode([text])[0], before.encode([text])[0])
    assert again.separator_id == before.separator_id
    assert settings.fingerprint(hash_file) == folder_of(trained / "tokenizer" / "tokenizer.json").fingerprint(hash_file)


def test_a_tokenizer_without_separator_asks_for_one(trained: Path, documents: Path, out: Workspace, tmp_path: Path):
    facts = json.loads((trained / "tokenizer" / "tokenizer.json").read_text())
    facts["added_tokens"][0]["content"] = "<go>"
    facts["model"]["vocab"]["<go>"] = facts["model"]["vocab"].pop("<|endoftext|>")
    (tmp_path / "tokenizer.json").write_text(json.dumps(facts))
    with pytest.raises(MismatchError, match=r"names no end-of-text token.*one of its special tokens: <go>"):
        tokenizer(folder_of(tmp_path), {"documents": documents}, out)
    with pytest.raises(MismatchError, match=r"no token '<goo>'; did you mean '<go>'\?"):
        tokenizer(folder_of(tmp_path, "<goo>"), {"documents": documents}, out)
    tokenizer(folder_of(tmp_path, "<go>"), {"documents": documents}, out)
    assert Codec(out.folder / "tokenizer").separator == "<go>"


def test_a_tokenizer_that_loses_text_is_refused(documents: Path, out: Workspace, tmp_path: Path):
    words = tokenizers.Tokenizer(tokenizers.models.WordLevel({"[UNK]": 0, "the": 1, "</s>": 2}, unk_token="[UNK]"))
    words.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    words.add_special_tokens(["</s>", "[UNK]"])
    words.save(str(tmp_path / "tokenizer.json"))
    with pytest.raises(MismatchError, match=r"the tokenizer loses text: .* comes back as"):
        tokenizer(folder_of(tmp_path), {"documents": documents}, out)


def test_a_normalising_tokenizer_is_taken_with_a_warning(
    trained: Path, documents: Path, out: Workspace, tmp_path: Path
):
    made = tokenizers.Tokenizer.from_file(str(trained / "tokenizer" / "tokenizer.json"))
    made.normalizer = tokenizers.normalizers.Lowercase()
    made.save(str(tmp_path / "tokenizer.json"))
    tokenizer(folder_of(tmp_path), {"documents": documents}, out)
    assert any("documents of 'prose' come back changed" in warning for warning in out.warnings)


def test_a_published_tokenizer_is_taken_over(shared_data: Path, documents: Path, out: Workspace, tmp_path: Path):
    """GPT-NeoX: Unicode NFC, tokens of runs of blanks, and a separator that nothing but its name tells."""
    packed = (shared_data / "tokenizers" / "gpt-neox-20b-tokenizer.json.zst").read_bytes()
    (tmp_path / "tokenizer.json").write_bytes(zstandard.ZstdDecompressor().stream_reader(packed).read())
    facts = tokenizer(folder_of(tmp_path), {"documents": documents}, out)
    assert (facts["vocab_size"], facts["separator"], facts["separator_id"]) == (50_280, "<|endoftext|>", 0)
    assert 3 < facts["bytes_per_token"] < 5
    codec = Codec(out.folder / "tokenizer")
    text = (shared_data / "text" / "tinyshakespeare.txt").read_text(encoding="utf-8")[:200_000]
    theirs = tokenizers.Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    assert codec.fast
    assert codec.encode([text])[0].tolist() == theirs.encode(text).ids
    assert codec.check_round_trip(["Cafe\u0301"], "here") == 1


@pytest.mark.parametrize("content", [None, "{}", "not json"])
def test_what_is_no_tokenizer_is_named(documents: Path, out: Workspace, tmp_path: Path, content: str | None):
    if content is not None:
        (tmp_path / "tokenizer.json").write_text(content)
    with pytest.raises(InputError, match=r"holds no tokenizer\.json|is not a tokenizer"):
        tokenizer(folder_of(tmp_path), {"documents": documents}, out)


def test_a_choice_must_be_named():
    adapter = TypeAdapter(Tokenizer)
    assert adapter.validate_python({"use": "train_bpe", "vocab_size": "8k"}).vocab_size == 8000
    for wrong in ({"vocab_size": 8000}, {"use": "train_bpe", "vocab_size": 256}, {"use": "folder"}):
        with pytest.raises(ValidationError):
            adapter.validate_python(wrong)


def test_a_tokenizer_that_cannot_be_read_is_named(trained: Path):
    def refuse(path: Path) -> str:
        raise PermissionError(13, "Permission denied", str(path))

    settings = TokenizerFolder(use="folder", path=str(trained / "tokenizer"))
    with pytest.raises(InputError, match=r"tokenizer\.json: cannot be read \(Permission denied\); hint: "):
        settings.fingerprint(refuse)


def test_a_plan_knows_the_vocabulary_of_an_existing_tokenizer(trained: Path):
    size = TokenizerFolder(use="folder", path=str(trained / "tokenizer")).vocab_size
    assert size == json.loads((trained / "facts.json").read_text())["vocab_size"]
