"""How text is cut into pieces before a byte-level BPE merges inside each."""

from __future__ import annotations

PATTERNS = {
    "gpt2": r"'(?:[sdmt]|ll|ve|re)| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+",
    "llama3": r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+",
}
"""How text is cut before merging. Source: GPT-2's encoder.py (openai/gpt-2) and Llama 3's tokenizer.py
(meta-llama/llama3), letter for letter, so that llama.cpp and other software know them."""
