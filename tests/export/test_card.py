"""The model card: what the hub reads of it, and what a user reads."""

from __future__ import annotations

from pathlib import Path

import pytest

from headwater.core.hardware import Machine
from headwater.core.store import write_json
from headwater.export.card import model_card
from headwater.model.config import Export, ModelConfig
from headwater.report.evidence import Evidence

CONFIG = ModelConfig(vocab_size=300, hidden_size=48, num_layers=3, num_heads=4, ffn_size=80)
CHECK = {"largest": 3.2e-6, "mean": 1e-7, "divergence": 0.0, "same_choice": 1.0, "limit": 1e-3}
FACTS = {
    "format": "gguf",
    "architecture": "LlamaForCausalLM",
    "dtype": "q8_0",
    "step": 10,
    "proof": {
        "texts": 3,
        "tokens": 384,
        "compared_on": "the beginnings of held-out documents",
        "deviation": 2.5,
        "folded": None,
        "rounding": {**CHECK, "divergence": 0.0012, "loss_before": 3.1, "loss_after": 3.1004},
        "checks": [{"runtime": "the independent reader", "version": "2.4", "tokens_equal": None, **CHECK}],
        "not_checked": [{"runtime": "llama.cpp", "why": "llama-cpp-python is not installed"}],
    },
}
SOURCES = {
    "prose": {
        "documents_out": 900,
        "bytes_out": 90_000,
        "licences": {"MIT": 800, "unknown": 100},
        "languages": {"en": 890, "fr": 10},
    }
}
TRAIN = {
    "steps": 20,
    "tokens": 10_240,
    "flops_per_token": 900_000,
    "flops_convention": "6 N",
    "precision": "fp32",
    "device": "cpu",
    "initial_loss": 6.2,
    "final_loss": 5.1,
    "mixture": {"prose": {"weight": 1.0, "requested_tokens": 10_240, "epochs": 0.25}},
}


@pytest.fixture
def evidence(tmp_path: Path) -> Evidence:
    hardware = {"processor": "a | processor", "cores": 2, "memory_bytes": 2**33}
    common = {"seconds": 30.0, "warnings": [], "hardware": hardware}
    optimizer = {"use": "adamw", "learning_rate": 3e-3}
    training = {"sequence_length": 64, "batch_tokens": 512, "seed": 0, "clip_norm": 1.0, "optimizer": optimizer}
    for name, settings, counts in (
        ("clean", {"steps": []}, {"dropped": {}, "sources": SOURCES}),
        ("initialize", {"use": "gguf", "path": "/home/me/base.gguf"}, {"tensor_types": {"Q4_1": 21, "F32": 7}}),
        ("train", {**training, "schedule": {"use": "constant"}}, TRAIN),
    ):
        write_json(tmp_path / name / "manifest.json", {"settings": settings, "counts": counts, **common})
    return Evidence({name: tmp_path / name for name in ("clean", "initialize", "train")}, Machine(watts=100))


def test_the_hub_reads_its_head(evidence):
    hub = pytest.importorskip("huggingface_hub")
    settings = Export(format="gguf", licence="apache-2.0", base_model="someone/base")
    head = hub.ModelCard(model_card(settings, evidence, CONFIG, FACTS, ["a.gguf"])).data.to_dict()
    assert (head["license"], head["base_model"], head["library_name"]) == ("apache-2.0", "someone/base", "gguf")
    assert head["language"] == ["en", "fr"]
    assert set(head["tags"]) == {"headwater", "base-model", "gguf"}
    head = hub.ModelCard(model_card(Export(), evidence, CONFIG, {**FACTS, "format": "huggingface"}, [])).data.to_dict()
    assert (head["license"], head["license_name"]) == ("other", "not-chosen-yet")
    assert "base_model" not in head


def test_it_says_what_a_user_must_know(evidence):
    card = model_card(
        Export(format="gguf", title="Small | model", about="For tests."), evidence, CONFIG, FACTS, ["a.gguf"]
    )
    assert "# Small   model\n\nFor tests.\n" in card
    for line in (
        "begun with the weights of base.gguf (its tensors were 21 Q4_1, 7 F32), and trained on 5,120 tokens",
        "llama-completion -m a.gguf",
        "Nobody has chosen a licence",
        "It goes back to other weights, whose licence binds it",
        "100 documents (11.1 %) have no licence on record.",
        "| prose | 900 | 87.9 KiB | MIT 88.9 %, unknown 11.1 % |",
        "| prose | 100.0 % | 10,240 | 0.25 |",
        "Nothing was done about personal data",
        "| optimizer | adamw: learning rate 0.003 |",
        "5.12k tokens x 900k FLOPs = 4.61e+09 FLOPs (6 N)",
        "On: a   processor, 2 cores, 8 GiB of memory.",
        "about 2.5 Wh",  # 100 W for 90 s
        "What the weights cost that it began with is not counted here.",
        "| independent reader (NumPy 2.4) | 3.2e-06 | 0.001 | 1.0e-07 | 100.0 % | not compared |",
        "Not verified: with llama.cpp, llama-cpp-python is not installed.",
        "Written as q8_0, the weights are rounded.",
        "loss on these texts 3.1000 before and 3.1004 after",
    ):
        assert line in card, line


def test_words_of_ones_own(evidence):
    settings = Export(intended_use="To write river reports.", licence="mit", base_model="someone/base")
    card = model_card(settings, evidence, CONFIG, {**FACTS, "format": "huggingface", "dtype": "float32"}, [])
    assert "To write river reports." in card
    assert "aligned" not in card
    assert "Nobody has chosen" not in card
    assert "It goes back to other weights" not in card
    assert "The weights are those that were trained, bit for bit." in card
