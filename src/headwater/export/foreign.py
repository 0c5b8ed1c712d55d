"""Run other software on an exported model, in a process of its own: `python foreign.py RUNTIME MODEL ASKED.json OUT.npz`.

This file imports nothing of Headwater, so that any Python can run it in which the software is installed: it is the only
place that knows transformers and llama.cpp. ASKED.json holds texts and rows of tokens; OUT.npz gets the version of the
software, its own tokens of each text, and its logits of each row.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

import numpy as np

Answer = dict[str, Any]


def transformers(path: str, asked: dict[str, Any]) -> Answer:
    """Load a folder, or a .gguf file, as any user of transformers would."""
    os.environ["HF_HUB_OFFLINE"] = "1"
    import torch
    import transformers as library

    torch.set_num_threads(asked["threads"])
    library.utils.logging.set_verbosity_error()
    library.utils.logging.disable_progress_bar()
    if path.endswith(".gguf"):
        place, more = str(Path(path).parent), {"gguf_file": Path(path).name}
    else:
        place, more = path, {}
    model = library.AutoModelForCausalLM.from_pretrained(place, dtype=torch.float32, **more).eval()
    with torch.inference_mode():
        logits = [model(torch.tensor([row])).logits[0].numpy() for row in asked["rows"]]
    tokens = None
    if not more:  # its reader of GGUF ignores how the tokenizer cuts text
        tokenizer = library.AutoTokenizer.from_pretrained(place)
        tokens = [tokenizer(text, add_special_tokens=False)["input_ids"] for text in asked["texts"]]
    return {"version": library.__version__, "logits": logits, "tokens": tokens}


def llama_cpp(path: str, asked: dict[str, Any]) -> Answer:
    """Load a .gguf file with llama.cpp, by way of llama-cpp-python."""
    import llama_cpp as library  # pyright: ignore[reportMissingImports]

    model = library.Llama(
        path,
        n_ctx=max(map(len, asked["rows"])),
        n_batch=max(map(len, asked["rows"])),
        logits_all=True,
        type_k=library.GGML_TYPE_F32,  # keys and values are fp16 by default
        type_v=library.GGML_TYPE_F32,
        flash_attn=False,
        n_threads=asked["threads"],
        verbose=False,
    )
    logits = []
    for row in asked["rows"]:
        model.reset()
        model.eval(row)
        logits.append(np.array(model.scores[: len(row)], np.float32))
    tokens = [model.tokenize(text.encode(), add_bos=False, special=False) for text in asked["texts"]]
    return {"version": library.__version__, "logits": logits, "tokens": tokens}


def main(runtime: str, path: str, asked: str, out: str) -> None:
    """Answer what is asked."""
    answer = {"transformers": transformers, "llama_cpp": llama_cpp}[runtime](path, json.loads(Path(asked).read_text()))
    facts = {"version": answer["version"], "tokens": answer["tokens"]}
    rows = {f"logits_{index}": logits for index, logits in enumerate(answer["logits"])}
    np.savez(out, facts=json.dumps(facts), **rows)


if __name__ == "__main__":
    main(*sys.argv[1:])
