"""Models against transformers: the same logits, and the same greedy text, with and without cache.

Trained weights are stories260K of llama2.c, whose published greedy text is a second referee.
"""

from __future__ import annotations

import json
import math
import struct
from pathlib import Path

import pytest
import torch
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers

from headwater.core.hardware import Machine
from headwater.evaluation.perplexity import open_scorer
from headwater.model import hf
from headwater.model.config import ModelConfig
from headwater.model.families import architecture
from headwater.model.initialize import random_model
from headwater.model.transformer import KVCache, Transformer

transformers = pytest.importorskip("transformers")
transformers.utils.logging.disable_progress_bar()
torch.set_num_threads(1)

TOLERANCE = 1e-5
SHAPES = {
    "llama": {},
    "llama, grouped queries, untied": {"num_kv_heads": 2, "tie_embeddings": False, "norm_epsilon": 1e-5},
    "llama, head size of its own": {"num_kv_heads": 1, "head_size": 10, "rope_theta": 500_000.0},
    "llama, biases": {"bias": True, "num_kv_heads": 2},
    "qwen3": {"qk_norm": True},
    "qwen3, grouped queries, untied": {"qk_norm": True, "num_kv_heads": 2, "head_size": 20, "tie_embeddings": False},
    "arcee": {"ffn": "relu2"},
    "arcee, biases, grouped queries, untied": {
        "ffn": "relu2",
        "bias": True,
        "num_kv_heads": 1,
        "tie_embeddings": False,
    },
    "gpt2": {"positions": "learned", "norm": "layer", "ffn": "gelu", "bias": True},
    "gpt2, untied": {"positions": "learned", "norm": "layer", "ffn": "gelu", "bias": True, "tie_embeddings": False},
    "padding rows": {"vocab_size": 320, "padding_rows": 63},
}


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tokenizer of one token per byte, the separator first."""
    folder = tmp_path_factory.mktemp("tokenizer")
    vocabulary = {"<|endoftext|>": 0} | {c: i + 1 for i, c in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(["<|endoftext|>"])
    tokenizer.save(str(folder / "tokenizer.json"))
    facts = {"eos_token": "<|endoftext|>", "tokenizer_class": "PreTrainedTokenizerFast"}
    (folder / "tokenizer_config.json").write_text(json.dumps(facts))
    return folder


@pytest.fixture(params=SHAPES.values(), ids=SHAPES.keys())
def model(request: pytest.FixtureRequest) -> Transformer:
    """Random weights whose norms are not 1 and whose logits span several nats."""
    shape = {"vocab_size": 257, "hidden_size": 64, "num_layers": 3, "num_heads": 4, "ffn_size": 96}
    model = random_model(ModelConfig.model_validate({"context_length": 160, **shape, **request.param}), 0, "plain")
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() == 1:
                parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.3)
            else:
                parameter.mul_(4)
    return model


@pytest.fixture(scope="module")
def stories(shared_data: Path) -> Transformer:
    """Trained weights: a Llama of 260,032 parameters."""
    return read_llama2c(shared_data / "models" / "stories260K.bin")


def read_llama2c(path: Path) -> Transformer:
    """Read a checkpoint of llama2.c (version 0), whose rotary positions turn neighbouring numbers.

    Source: github.com/karpathy/llama2.c, export.py: legacy_export, and its permute_reverse for Hugging Face.
    """
    content = path.read_bytes()
    dim, ffn, layers, heads, kv_heads, vocabulary, context = struct.unpack("7i", content[:28])
    config = ModelConfig(
        vocab_size=vocabulary,
        hidden_size=dim,
        num_layers=layers,
        num_heads=heads,
        num_kv_heads=kv_heads,
        ffn_size=ffn,
        context_length=context,
        norm_epsilon=1e-5,
    )
    numbers = torch.frombuffer(bytearray(content[28:]), dtype=torch.float32)
    place = 0

    def take(*shape: int) -> torch.Tensor:
        nonlocal place
        count = int(torch.Size(shape).numel())
        place += count
        return numbers[place - count : place].view(shape)

    def halves(weight: torch.Tensor, count: int) -> torch.Tensor:
        return weight.view(layers, count, -1, 2, dim).transpose(2, 3).reshape(layers, -1, dim)

    kv = kv_heads * config.head_size
    embedding, attention_norm = take(vocabulary, dim), take(layers, dim)
    q, k, v, out = take(layers, dim, dim), take(layers, kv, dim), take(layers, kv, dim), take(layers, dim, dim)
    ffn_norm, gate, down, up = take(layers, dim), take(layers, ffn, dim), take(layers, dim, ffn), take(layers, ffn, dim)
    weights = {"embedding.weight": embedding, "norm.weight": take(dim)}
    for i in range(layers):
        weights |= {
            f"blocks.{i}.attention_norm.weight": attention_norm[i],
            f"blocks.{i}.attention.qkv.weight": torch.cat([halves(q, heads)[i], halves(k, kv_heads)[i], v[i]]),
            f"blocks.{i}.attention.out.weight": out[i],
            f"blocks.{i}.ffn_norm.weight": ffn_norm[i],
            f"blocks.{i}.ffn.gate_up.weight": torch.cat([gate[i], up[i]]),
            f"blocks.{i}.ffn.down.weight": down[i],
        }
    model = Transformer(config)
    model.load_state_dict(weights)
    return model


def rows(vocab_size: int, length: int = 150) -> torch.Tensor:
    return torch.randint(0, vocab_size, (3, length), generator=torch.Generator().manual_seed(2))


def greedy(model: Transformer, prompt: torch.Tensor, count: int) -> list[int]:
    tokens, cache = prompt, KVCache(model.config, 1)
    with torch.no_grad():
        logits = model(prompt, cache=cache)
        for _ in range(count):
            best = logits[:, -1:].argmax(dim=-1)
            tokens = torch.cat([tokens, best], dim=1)
            logits = model(best, cache=cache)
    return tokens[0].tolist()


def test_an_exported_model_is_the_same_in_transformers(model, tokenizer, tmp_path):
    hf.write_folder(tmp_path, model, tokenizer)
    theirs = transformers.AutoModelForCausalLM.from_pretrained(tmp_path).eval()
    assert type(theirs).__name__ == architecture(model.config)
    with torch.no_grad():
        expected, found = theirs(input_ids=rows(257)).logits, model(rows(257))
    assert expected.abs().max() > 2
    assert (expected - found).abs().max() < TOLERANCE


def test_it_generates_the_same_text_with_and_without_cache(model, tokenizer, tmp_path):
    hf.write_folder(tmp_path, model, tokenizer)
    theirs = transformers.AutoModelForCausalLM.from_pretrained(tmp_path).eval()
    loaded = transformers.AutoTokenizer.from_pretrained(tmp_path)
    assert loaded.eos_token_id == theirs.generation_config.eos_token_id == 0
    prompt = loaded("Spring water", return_tensors="pt")
    settings = {"max_new_tokens": 40, "min_new_tokens": 40, "do_sample": False}
    cached = theirs.generate(**prompt, **settings, use_cache=True)[0].tolist()
    plain = theirs.generate(**prompt, **settings, use_cache=False)[0].tolist()
    assert cached == plain
    if 0 not in cached:  # min_new_tokens forbids the separator, we do not
        assert greedy(model, prompt["input_ids"], 40) == cached
    assert loaded.decode(cached).startswith("Spring water")


THEIRS = {
    "llama": ("Llama", {"rope_theta": 50_000.0}),
    "llama, biases": ("Llama", {"attention_bias": True, "mlp_bias": True}),
    "qwen3": ("Qwen3", {"head_dim": 16}),
    "qwen3, its window off": ("Qwen3", {"head_dim": 16, "sliding_window": 20, "use_sliding_window": False}),
    "mistral, no window": ("Mistral", {"sliding_window": None}),
    "mistral, a window beyond its context": ("Mistral", {"sliding_window": 200, "head_dim": 12}),
    "arcee": ("Arcee", {}),
    "arcee, biases": ("Arcee", {"attention_bias": True, "mlp_bias": True, "tie_word_embeddings": True}),
    "gpt2": ("GPT2", {}),
    "gpt2, own ffn size, untied": ("GPT2", {"n_inner": 100, "tie_word_embeddings": False}),
}


@pytest.fixture(params=THEIRS.values(), ids=THEIRS.keys())
def theirs(request: pytest.FixtureRequest):
    """A model of transformers with random weights, biases and norms included."""
    kind, changes = request.param
    if kind == "GPT2":
        shape = {"vocab_size": 257, "n_embd": 64, "n_layer": 2, "n_head": 4, "n_positions": 160}
        make = transformers.GPT2LMHeadModel
    else:
        shape = {
            "vocab_size": 257,
            "hidden_size": 64,
            "intermediate_size": 96,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "max_position_embeddings": 160,
        }
        make = getattr(transformers, f"{kind}ForCausalLM")
    model = make(getattr(transformers, f"{kind}Config")(**shape, initializer_range=0.1, **changes)).eval()
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() == 1:
                parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.1)
    return model


def test_a_model_of_transformers_is_the_same_here_and_back_again(theirs, tokenizer, tmp_path):
    theirs.save_pretrained(tmp_path / "given")
    ours = hf.read_folder(tmp_path / "given", warn=pytest.fail)
    with torch.no_grad():
        expected, found = theirs(input_ids=rows(257)).logits, ours(rows(257))
    assert expected.abs().max() > 1
    assert (expected - found).abs().max() < TOLERANCE
    hf.write_folder(tmp_path / "back", ours, tokenizer)
    back = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "back").eval()
    name = type(theirs).__name__
    assert type(back).__name__ == ("LlamaForCausalLM" if name == "MistralForCausalLM" else name)
    given = theirs.state_dict()
    assert given.keys() == back.state_dict().keys()
    for key, tensor in back.state_dict().items():
        assert torch.equal(tensor, given[key]), key


@pytest.mark.parametrize("kind", ["Mistral", "Qwen3"])
def test_a_window_shorter_than_the_context_shortens_the_context(kind, tmp_path):
    """Within its window a Mistral is a Llama; beyond it is not, so that much is not claimed."""
    shape = {"vocab_size": 257, "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2}
    shape |= {"num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 160}
    if kind == "Qwen3":
        shape |= {"use_sliding_window": True, "max_window_layers": 1}
    config = getattr(transformers, f"{kind}Config")(**shape, sliding_window=100)
    theirs = getattr(transformers, f"{kind}ForCausalLM")(config).eval()
    theirs.save_pretrained(tmp_path)
    told: list[str] = []
    ours = hf.read_folder(tmp_path, warn=told.append)
    assert ours.config.context_length == 100
    assert "sees 100 tokens back of 160; it is taken with a context of 100" in told[0]
    with torch.no_grad():
        assert (theirs(input_ids=rows(257, 100)).logits - ours(rows(257, 100))).abs().max() < TOLERANCE


def test_trained_weights_are_the_same_in_transformers(stories, tmp_path):
    config = hf.huggingface_config(stories.config, 1)
    (tmp_path / "config.json").write_text(json.dumps(config))
    tensors = {name: tensor.contiguous() for name, tensor in hf.to_huggingface(stories).items()}
    theirs = transformers.LlamaForCausalLM(transformers.LlamaConfig.from_pretrained(tmp_path)).eval()
    theirs.load_state_dict(tensors | {"lm_head.weight": tensors["model.embed_tokens.weight"]})
    with torch.no_grad():
        expected, found = theirs(input_ids=rows(512, 300)).logits, stories(rows(512, 300))
    assert expected.abs().max() > 10
    # logits of 19: between two attention kernels of its own, transformers differs by 1.7e-5
    assert (expected - found).abs().max() < TOLERANCE * expected.abs().max()


def test_trained_weights_tell_the_published_story(stories, shared_data):
    pieces, content, place = [], (shared_data / "models" / "tok512.bin").read_bytes(), 4
    while place < len(content):
        _, length = struct.unpack_from("fi", content, place)
        pieces.append(content[place + 8 : place + 8 + length].decode())
        place += 8 + length
    text = "".join(pieces[token] for token in greedy(stories, torch.tensor([[1]]), 256)[1:]).replace("<0x0A>", "\n")
    published = (shared_data / "models" / "stories260K.md").read_text()
    story = published.split("-t 0.0\n")[1].split("\n```")[0]
    assert text.strip().startswith(story)


def llama2c_tokenizer(path: Path, folder: Path) -> Path:
    """The tokenizer of stories260K as a folder: two pieces merge to the piece that they spell, the likeliest first.

    Source: github.com/karpathy/llama2.c, run.c: encode, and tokenizer.py: export, which writes spaces for SentencePiece's
    marks; LlamaConverter of transformers does the same.
    """
    content, pieces, scores, place = path.read_bytes(), [], [], 4
    while place < len(content):
        score, length = struct.unpack_from("fi", content, place)
        pieces.append(content[place + 8 : place + 8 + length].decode())
        scores.append(score)
        place += 8 + length
    pieces[:3] = ["<unk>", "<s>", "</s>"]
    known = {piece: at for at, piece in enumerate(pieces)}
    merges = [
        (-scores[at], piece[:cut], piece[cut:])
        for at, piece in enumerate(pieces)
        if at >= 259  # before them are the special tokens and the 256 bytes
        for cut in range(1, len(piece))
        if piece[:cut] in known and piece[cut:] in known
    ]
    tokenizer = Tokenizer(
        models.BPE(vocab=known, merges=[(a, b) for _, a, b in sorted(merges)], unk_token="<unk>", byte_fallback=True)
    )
    tokenizer.normalizer = normalizers.Prepend(" ")
    tokenizer.decoder = decoders.Sequence([decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)])
    tokenizer.add_special_tokens(["<unk>", "<s>", "</s>"])
    tokenizer.save(str(folder / "tokenizer.json"))
    facts = {"bos_token": "<s>", "eos_token": "</s>", "tokenizer_class": "PreTrainedTokenizerFast"}
    (folder / "tokenizer_config.json").write_text(json.dumps(facts))
    return folder


def losses_of_transformers(folder: Path, texts: list[str], first: int) -> list[float]:
    """Bits per byte by transformers: each text alone, with its own loss."""
    theirs = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    found = []
    for text in texts:
        ids = torch.tensor([[first, *tokenizer(text, add_special_tokens=False)["input_ids"]]])
        with torch.no_grad():
            loss = float(theirs(input_ids=ids, labels=ids).loss)
        found.append(loss * (ids.shape[1] - 1) / math.log(2) / len(text.encode()))
    return found


TEXTS = ["Once upon a time, there was a little girl named Lily.", "naïve café: 12%\n\nÜber", "a", "Tom had a dog. " * 6]


def test_bits_per_byte_are_the_loss_of_transformers(model, tokenizer, tmp_path):
    hf.write_folder(tmp_path, model, tokenizer)
    found = open_scorer(tmp_path, tmp_path, Machine(threads=1, device="cpu"))(TEXTS)
    assert found == pytest.approx(losses_of_transformers(tmp_path, TEXTS, 0), rel=1e-5)


def test_bits_per_byte_of_trained_weights_are_the_loss_of_transformers(stories, shared_data, tmp_path):
    llama2c_tokenizer(shared_data / "models" / "tok512.bin", tmp_path)
    hf.write_folder(tmp_path / "model", stories, tmp_path)
    story = (shared_data / "models" / "stories260K.md").read_text().split("-t 0.0\n")[1].split("\n```")[0]
    shakespeare = (shared_data / "text" / "tinyshakespeare.txt").read_text()[:600]
    texts = [story[:600], shakespeare, *TEXTS]
    found = open_scorer(tmp_path / "model", tmp_path / "model", Machine(threads=1, device="cpu"))(texts)
    assert found == pytest.approx(losses_of_transformers(tmp_path / "model", texts, 1), rel=1e-5)
    assert found[0] < 0.6  # its own story
    assert found[1] > 2.5  # it knows no Shakespeare
