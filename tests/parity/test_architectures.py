"""Shapes of published families counted as transformers builds them, on torch's device without memory."""

from __future__ import annotations

import json
from typing import Any

import pytest
import torch

from headwater.advice.foreign_config import architecture_of

transformers = pytest.importorskip("transformers")

SMALL = {"hidden_size": 64, "num_hidden_layers": 4, "num_attention_heads": 4, "vocab_size": 320}
LLAMA = SMALL | {"intermediate_size": 96, "num_key_value_heads": 2}
LATENT = SMALL | {
    "intermediate_size": 96, "num_key_value_heads": 4, "kv_lora_rank": 16, "q_lora_rank": 24, "qk_nope_head_dim": 12,
    "qk_rope_head_dim": 8, "v_head_dim": 16, "n_routed_experts": 8, "num_experts_per_tok": 2, "n_shared_experts": 1,
    "moe_intermediate_size": 24, "first_k_dense_replace": 1, "n_group": 2, "topk_group": 1,
}  # fmt: skip
MODELS: list[tuple[str, dict[str, Any]]] = [
    ("llama", LLAMA), ("llama", LLAMA | {"attention_bias": True, "mlp_bias": True, "tie_word_embeddings": True}),
    ("mistral", LLAMA), ("mixtral", LLAMA | {"num_local_experts": 4}), ("qwen2", LLAMA), ("qwen3", LLAMA | {"head_dim": 32}),
    ("qwen3_moe", LLAMA | {"head_dim": 32, "num_experts": 8, "num_experts_per_tok": 2, "moe_intermediate_size": 24, "mlp_only_layers": [], "decoder_sparse_step": 1}),
    ("deepseek_v3", LATENT), ("gemma", LLAMA | {"head_dim": 32}), ("gemma2", LLAMA | {"head_dim": 32}),
    ("olmo", LLAMA), ("olmo2", LLAMA), ("gpt_neox", SMALL | {"intermediate_size": 96}), ("phi", LLAMA | {"num_key_value_heads": 4}),
    ("opt", SMALL | {"ffn_dim": 96, "max_position_embeddings": 64, "word_embed_proj_dim": 64}),
    ("bloom", {"hidden_size": 64, "n_layer": 4, "n_head": 4, "vocab_size": 320}),
    ("falcon", SMALL), ("falcon", SMALL | {"new_decoder_architecture": True, "num_kv_heads": 2}),
    ("gpt2", {"n_embd": 64, "n_layer": 4, "n_head": 4, "vocab_size": 320, "n_positions": 64}),
    ("smollm3", LLAMA), ("arcee", LLAMA), ("granite", LLAMA),
]  # fmt: skip


@pytest.mark.parametrize(("kind", "settings"), MODELS)
def test_counts_are_those_of_transformers(kind: str, settings: dict[str, Any]) -> None:
    config = transformers.AutoConfig.for_model(kind, **settings, pad_token_id=0)
    with torch.device("meta"):
        model = transformers.AutoModelForCausalLM.from_config(config)
    theirs = sum(parameter.numel() for parameter in {id(p): p for p in model.parameters()}.values())
    values = json.loads(config.to_json_string(use_diff=False))
    # the bias of DeepSeek's routers is a buffer there
    buffers = sum(b.numel() for name, b in model.named_buffers() if name.endswith("e_score_correction_bias"))
    assert architecture_of(values, "config.json").parameters() == theirs + buffers
