"""The trained model for other software, with the proof that it computes the same there. The door of the stage export.

proof.py     reload the files elsewhere, compare logits token by token, refuse what differs
referee.py   an independent reader in NumPy
foreign.py   transformers and llama.cpp, each in a process of its own
card.py      the model card
"""

from __future__ import annotations

import copy
import re
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import tokenizers
import torch

from headwater.core.gguf import GgufFile
from headwater.core.hardware import Machine
from headwater.core.log import logger
from headwater.core.stage import Counts, Inputs, Workspace, library_versions
from headwater.core.store import atomic_folder, atomic_path, hash_file, write_json
from headwater.export.card import model_card
from headwater.export.proof import Exported, prove, texts_of
from headwater.model import checkpoint, gguf, hf
from headwater.model.config import Export
from headwater.model.families import architecture
from headwater.model.fold import fold
from headwater.model.transformer import Transformer
from headwater.report.evidence import Evidence
from headwater.tokens.gguf import metadata, read_tokenizer

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


def export(settings: Export, inputs: Inputs, out: Workspace) -> Counts:
    """Write the trained model as `model/`: the door of the stage export.

    Raises:
        MismatchError: tokenizer and model do not fit, the format cannot hold the model, or what was written computes
            something else.
        StoreError: the checkpoint is damaged.
    """
    return _write(settings, inputs, inputs["checkpoint"] / "checkpoint", out.folder / "model", out.machine)


def convert(settings: Export, inputs: Inputs, source: Path, folder: Path, machine: Machine) -> Counts:
    """Write the model of a checkpoint folder as a folder elsewhere, which appears whole and proven or not at all.

    Args:
        settings: in which format.
        inputs: role -> finished folder of a stage, as for `export`.
        source: the checkpoint.
        folder: where; must not exist.
        machine: where and how.

    Raises:
        StoreError: the checkpoint is damaged, or `folder` exists.
        MismatchError: see `export`.
    """
    with atomic_folder(folder) as temporary:
        return _write(settings, inputs, source, temporary, machine)


def _write(settings: Export, inputs: Inputs, source: Path, folder: Path, machine: Machine) -> Counts:
    """Write, read back, prove, describe."""
    torch.set_num_threads(machine.processor_threads)
    trained, info = checkpoint.load_model(source)
    model = fold(trained)
    tokenizer = inputs["tokenizer"] / "tokenizer"
    hf.check_vocabulary(model.config.token_types, tokenizer)
    special = [token.content for token in _open(tokenizer).get_added_tokens_decoder().values()]
    texts, what = texts_of(inputs["documents"], special)
    folder.mkdir(parents=True, exist_ok=True)
    try:
        exported = _FORMATS[settings.format](settings, model, info.step, tokenizer, folder)
        proof = {"compared_on": what, **prove(trained, tokenizer, exported, texts, machine)}
    except BaseException:
        shutil.rmtree(folder)
        raise
    facts = {
        "format": settings.format,
        "architecture": architecture(model.config),
        "dtype": settings.dtype,
        "step": info.step,
        "parameters": model.config.parameters(),
        "proof": proof,
        "bytes_out": sum(path.stat().st_size for path in folder.iterdir()),
    }
    evidence = Evidence({name: path for name, path in inputs.items() if name not in _ROLES}, machine)
    for line in _told(proof):
        logger.info("  %s", line)
    files = {path.name: hash_file(path) for path in sorted(folder.iterdir())}
    versions = library_versions()
    write_json(folder / "export.json", {"headwater": versions["headwater"], **facts, "files": files})
    with atomic_path(folder / "README.md") as temporary:
        temporary.write_text(model_card(settings, evidence, model.config, facts, list(files)), encoding="utf-8")
    return facts


_ROLES = ("documents", "tokenizer", "checkpoint")


def _write_huggingface(settings: Export, model: Transformer, _: int, tokenizer: Path, folder: Path) -> Exported:
    hf.write_folder(folder, model, tokenizer, settings.dtype)
    return Exported("huggingface", settings.dtype, folder, None, model, hf.read_folder(folder), _open(folder))


def _write_gguf(settings: Export, model: Transformer, _: int, tokenizer: Path, folder: Path) -> Exported:
    opened = _open(tokenizer)
    separator = hf.separator_id(tokenizer)
    words = metadata(opened, model.config.token_types, str(tokenizer))
    words |= {f"tokenizer.ggml.{kind}_token_id": separator for kind in ("bos", "eos", "padding")}
    words |= {"tokenizer.ggml.add_bos_token": False, "tokenizer.ggml.add_space_prefix": False}
    facts = {"general.type": "model", "general.name": settings.title or "a base model"}
    if settings.licence:
        facts["general.license"] = settings.licence
    name = re.sub(r"[^A-Za-z0-9._-]+", "-", settings.title).strip("-") or "model"
    path = folder / f"{name}-{gguf.TYPES[settings.dtype]}.gguf"
    gguf.write_file(path, model, words, settings.dtype, facts)
    reread, tokens = gguf.read_file(path)[0], read_tokenizer(GgufFile(path))
    return Exported("gguf", settings.dtype, folder, path, model, reread, tokens)


def _write_safetensors(settings: Export, model: Transformer, step: int, tokenizer: Path, folder: Path) -> Exported:
    folder.rmdir()  # save() makes it, whole
    rounded = model if settings.dtype == "float32" else copy.deepcopy(model).to(DTYPES[settings.dtype])
    checkpoint.save(folder, rounded, step, notes={"dtype": settings.dtype})
    hf.copy_tokenizer(tokenizer, folder)
    reread = checkpoint.load_model(folder)[0]
    return Exported("safetensors", settings.dtype, folder, None, model, reread, _open(folder))


def _open(folder: Path) -> tokenizers.Tokenizer:
    return tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json"))


_FORMATS: Mapping[str, Any] = {
    "huggingface": _write_huggingface,
    "gguf": _write_gguf,
    "safetensors": _write_safetensors,
}


def _told(proof: Mapping[str, Any]) -> Iterator[str]:
    """What was proven, in a line for each software."""
    if folded := proof["folded"]:
        yield (
            f"folded into plain weights: {', '.join(folded['tricks'])}; in fp64 the logits are at most "
            f"{folded['largest_fp64']:.1e} standard deviations apart, in fp32 {folded['largest_fp32']:.1e}"
        )
    for check in proof["checks"]:
        yield (
            f"{check['runtime']} computes the same: over {proof['tokens']:,} tokens the logits are at most "
            f"{check['largest']:.1e} standard deviations apart"
        )
    for missing in proof["not_checked"]:
        yield f"not checked by {missing['runtime']}: {missing['why']}"
