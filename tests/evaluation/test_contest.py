"""Models on the same tasks: paired statistics, contaminated items, the sentence."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import scipy.stats

from headwater.core.errors import EmptyResultError, InputError, MismatchError
from headwater.core.store import write_json
from headwater.documents.document import ShardFile, documents_of
from headwater.evaluation.contamination import contaminated
from headwater.evaluation.items import Item
from headwater.evaluation.paired import compare_tasks, sentence


def write_results(
    folder: Path,
    tasks: dict[str, np.ndarray],
    *,
    metric: str = "acc",
    sizes: np.ndarray | None = None,
    clusters: list[str] | None = None,
) -> Path:
    """Results of tasks as benchmark.py writes them: marks, or nats of texts of `sizes` bytes."""
    (folder / "items").mkdir(parents=True)
    write_json(folder / "tasks.json", {"tasks": {name: {"metric": metric} for name in tasks}})
    for name, values in tasks.items():
        count = len(values)
        columns = {
            "subtask": [""] * count,
            "cluster": clusters or [""] * count,
            "hash": [f"h{n}" for n in range(count)],
            "correct": values,
            "nats": values,
            "bytes": sizes if sizes is not None else np.ones(count),
            "words": sizes if sizes is not None else np.ones(count),
        }
        pq.write_table(pa.table(columns), folder / "items" / f"{name}.parquet")
    return folder


def marks(right: int, of: int) -> np.ndarray:
    return np.array([1.0] * right + [0.0] * (of - right))


def test_a_clear_difference_is_found_and_a_small_one_is_not(tmp_path: Path) -> None:
    one = write_results(tmp_path / "a", {"easy": marks(40, 200), "hard": marks(50, 200), "same": marks(9, 20)})
    other = write_results(tmp_path / "b", {"easy": marks(80, 200), "hard": marks(53, 200), "same": marks(9, 20)})
    found = {one.task: one for one in compare_tasks(one, other, ["easy", "hard", "same"])}
    easy = found["easy"]
    assert (easy.first, easy.second, easy.difference.difference) == pytest.approx((0.2, 0.4, 0.2))
    assert (easy.difference.better, easy.difference.worse) == (40, 0)
    assert easy.p == pytest.approx(scipy.stats.binomtest(0, 40).pvalue)
    assert easy.adjusted == pytest.approx(3 * easy.p)
    assert (easy.verdict, found["hard"].verdict, found["same"].verdict) == ("better", *["no difference seen"] * 2)
    said = "B is better than A on 1 of 3 tasks, worse on none (chance of any false alarm at most 5%)."
    assert sentence("A", "B", list(found.values())) == said
    back = {one.task: one for one in compare_tasks(other, one, ["easy", "hard", "same"])}
    assert back["easy"].verdict == "worse"


def test_fewer_bits_are_better(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    sizes = random.integers(50, 150, 80).astype(float)
    nats = sizes * random.uniform(0.8, 1.2, 80)
    one = write_results(tmp_path / "a", {"text": nats}, metric="bits_per_byte", sizes=sizes)
    other = write_results(tmp_path / "b", {"text": nats * 0.95}, metric="bits_per_byte", sizes=sizes)
    (found,) = compare_tasks(one, other, ["text"])
    assert found.first == pytest.approx(nats.sum() / np.log(2) / sizes.sum())
    assert found.second == pytest.approx(0.95 * found.first)
    assert found.difference.difference == pytest.approx(0.05 * found.first)
    assert found.verdict == "better"


def test_items_that_belong_together_count_as_one(tmp_path: Path) -> None:
    groups = [f"passage {n // 20}" for n in range(60)]
    one = write_results(tmp_path / "a", {"t": marks(0, 60)}, clusters=groups)
    other = write_results(tmp_path / "b", {"t": marks(20, 60)}, clusters=groups)
    (found,) = compare_tasks(one, other, ["t"])
    assert found.difference.difference == pytest.approx(1 / 3)
    assert found.p == 1.0, "one passage of three, of which either sign is as likely"
    assert found.difference.standard_error == pytest.approx(1 / 3)


def test_only_clean_items_count_where_asked(tmp_path: Path) -> None:
    one = write_results(tmp_path / "a", {"t": marks(10, 60)})
    other = write_results(tmp_path / "b", {"t": marks(40, 60)})
    keep = [False] * 40 + [True] * 20
    (found,) = compare_tasks(one, other, ["t"], {"t": keep})
    assert (found.difference.items, found.difference.difference, found.verdict) == (20, 0.0, "no difference seen")
    with pytest.raises(MismatchError, match="no item"):
        compare_tasks(one, other, ["t"], {"t": [False] * 60})


def test_other_items_and_missing_tasks_are_refused(tmp_path: Path) -> None:
    one = write_results(tmp_path / "a", {"t": marks(10, 60)})
    other = write_results(tmp_path / "b", {"t": marks(10, 61)})
    with pytest.raises(MismatchError, match="other items of t"):
        compare_tasks(one, other, ["t"])
    with pytest.raises(InputError, match="has no results of u"):
        compare_tasks(one, other, ["u"])


QUESTION = "Which of the many animals that live beside the old river eats nothing but the bark of young willows?"


def test_items_in_training_documents_are_found(tmp_path: Path) -> None:
    items = [
        Item("x", "h", "", f"Question: {QUESTION}\nAnswer:", ("the beaver",), record={"question": QUESTION}),
        Item("x", "h", "", "Question: " + QUESTION.replace("eats", "never eats").replace("river", "sea"), ("no",)),
    ]
    texts = ["Nothing of interest is in this document, only words.", f"Somebody once asked me this: {QUESTION} I knew."]
    folder = tmp_path / "documents"
    with ShardFile(folder / "web-00000.parquet") as shard:
        shard.write(documents_of("web", texts))
    found = contaminated(folder, {"animals": items})
    assert list(found["animals"]) == [0]
    assert found["animals"][0].longest == len(QUESTION.split())
    assert found["animals"][0].coverage > 0.3
    with pytest.raises(EmptyResultError):
        contaminated(folder, {"animals": [Item("x", "h", "", "too short", ("yes",))]})
