"""Lines and paragraphs of texts as stretches of bytes with a hash: a compiled loop, see kernels.py."""

from __future__ import annotations

import numpy as np

from headwater.documents.text.kernels import GRAM, HASH_BASIS, HASH_PRIME, MIX, compiled


def parts(data: np.ndarray, starts: np.ndarray, *, by_paragraph: bool) -> tuple[np.ndarray, ...]:
    """Part texts in lines, or in paragraphs, which are parted by lines without a visible character.

    Args:
        data: bytes of all texts.
        starts: [D + 1] where each begins.
        by_paragraph: paragraphs, not lines.

    Returns:
        rows [P] int64: which text; begins and ends [P] int64: bytes of the text, with the line end, or the blank lines,
        behind it; hashes [P] uint64 of the lines without white space around them; sizes [P] int64: characters of these.
        Blank lines are no parts.
    """
    size = (int(starts[-1]) - int(starts[0])) // 16 + len(starts)
    while True:
        rows, begins, ends, sizes = (np.empty(size, np.int64) for _ in range(4))
        hashes = np.empty(size, np.uint64)
        count = _parts(data, starts, by_paragraph, rows, begins, ends, hashes, sizes)
        if count >= 0:
            return rows[:count], begins[:count], ends[:count], hashes[:count], sizes[:count]
        size *= 2


@compiled
def _is_space(byte):  # noqa: ANN001, ANN202
    return byte == 32 or 9 <= byte <= 13


@compiled
def _parts(data, starts, by_paragraph, rows, begins, ends, hashes, sizes):  # noqa: ANN001, ANN202
    """See `parts`: the number of parts, or -1 when there is no place for all of them."""
    count = 0
    for document in range(len(starts) - 1):
        start, end = np.int64(starts[document]), np.int64(starts[document + 1])
        at, is_open = start, False
        while at < end:
            begin = at
            while at < end and data[at] != 10 and _is_space(data[at]):
                at += 1
            hashed, gap, size = HASH_BASIS, at, 0
            while at < end and data[at] != 10:
                if not _is_space(data[at]):
                    for byte in range(gap, at + 1):  # white space only counts where something follows
                        hashed = (hashed ^ np.uint64(data[byte])) * HASH_PRIME
                        size += data[byte] & 0xC0 != 0x80
                    gap = at + 1
                at += 1
            at = min(at + 1, end)
            if size == 0:
                if is_open:
                    ends[count - 1] = at - start
                    if by_paragraph:
                        is_open = False
                        while at < end:  # further blank lines belong to it
                            ahead = at
                            while ahead < end and data[ahead] != 10 and _is_space(data[ahead]):
                                ahead += 1
                            if ahead < end and data[ahead] != 10:
                                break
                            at = min(ahead + 1, end)
                            ends[count - 1] = at - start
                continue
            if by_paragraph and is_open:
                hashes[count - 1] = (hashes[count - 1] ^ hashed) * GRAM
                sizes[count - 1] += size
                ends[count - 1] = at - start
                continue
            if count == len(rows):
                return -1
            rows[count], begins[count], ends[count] = document, begin - start, at - start
            hashes[count], sizes[count] = (HASH_BASIS ^ hashed) * GRAM, size
            count += 1
            is_open = by_paragraph
        is_open = False
    for part in range(count):
        mixed = (hashes[part] ^ hashes[part] >> np.uint64(32)) * MIX
        hashes[part] = mixed ^ mixed >> np.uint64(29)
    return count
