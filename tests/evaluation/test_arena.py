"""Votes survive what happens to files; ratings are those of a brute-force search; bands hold the truth."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.optimize import minimize

from headwater.core.errors import StoreError
from headwater.evaluation.arena import MEAN, PRIOR, SCALE, Side, Vote, Votes, intervals, ranking, ratings, tally


def vote(left: str, right: str, choice: str) -> Vote:
    sides = [Side(label=name.upper(), weights=name, step=1, text="a\ntext\u2028") for name in (left, right)]
    time = datetime(2026, 1, 1, tzinfo=UTC)
    return Vote(time=time, prompt="p\n", sampling={"seed": 1}, left=sides[0], right=sides[1], choice=choice)  # type: ignore[arg-type]


def counted(wins: Sequence[Sequence[int]], ties: Sequence[Sequence[int]] | None = None) -> np.ndarray:
    return np.array([wins, np.zeros_like(wins) if ties is None else np.triu(ties, 1)])


def likeliest(counts: np.ndarray) -> np.ndarray:
    """Ratings by maximising the likelihood as it is written, with other people's search."""
    wins = counts[0] + (counts[1] + counts[1].T) / 2

    def minus_log_likelihood(s: np.ndarray) -> float:
        told = sum(
            wins[i, j] * np.log1p(np.exp(s[j] - s[i])) for i in range(len(s)) for j in range(len(s)) if wins[i, j]
        )
        return float(told + PRIOR / 2 * sum(np.log1p(np.exp(-s)) + np.log1p(np.exp(s))))

    found = minimize(minus_log_likelihood, np.zeros(len(wins)), method="BFGS", options={"gtol": 1e-9})
    return MEAN + SCALE * (found.x - found.x.mean())


TABLES = st.integers(2, 5).flatmap(
    lambda k: st.tuples(
        *[st.lists(st.lists(st.integers(0, 40), min_size=k, max_size=k), min_size=k, max_size=k) for _ in range(2)]
    )
)


@given(TABLES)
def test_ratings_are_the_likeliest(tables: tuple[list[list[int]], list[list[int]]]) -> None:
    counts = counted(*tables)
    counts[0, range(len(counts[0])), range(len(counts[0]))] = 0
    np.testing.assert_allclose(ratings(counts[None])[0], likeliest(counts), atol=0.05)


def test_many_votes_of_known_shares_give_the_known_difference() -> None:
    # 10 to 1 is 400 points on Elo's scale, and what is given beforehand fades
    found = ratings(counted([[0, 1_000_000], [100_000, 0]])[None])[0]
    assert found[0] - found[1] == pytest.approx(400, abs=0.1)
    # a chain: a over b and b over c by 10 to 1, so a is 800 over c without having met it
    chain = ratings(counted([[0, 10**7, 0], [10**6, 0, 10**7], [0, 10**6, 0]])[None])[0]
    assert chain[0] - chain[2] == pytest.approx(800, abs=0.1)


def test_ties_draw_models_together_and_one_sided_votes_stay_finite() -> None:
    assert ratings(counted([[0, 0], [0, 0]], [[0, 9], [0, 0]])[None])[0].tolist() == pytest.approx([MEAN, MEAN])
    decided, with_ties = (ratings(counted([[0, 9], [1, 0]], [[0, n], [0, 0]])[None])[0] for n in (0, 20))
    assert decided[0] > with_ties[0] > MEAN
    always = ratings(counted([[0, 10_000], [0, 0]])[None])[0]
    assert np.isfinite(always).all()
    assert always[0] - always[1] > 1_000


def test_one_vote_tells_little_and_the_band_says_so() -> None:
    (first, second) = ranking([vote("a", "b", "left")])
    assert (first.label, first.won, first.lost, first.tied) == ("A", 1, 0, 0)
    assert first.low <= second.rating < first.rating <= first.high
    assert (first.rank_low, first.rank_high) == (1, 2)


def test_bands_hold_the_truth_about_as_often_as_they_say() -> None:
    random = np.random.default_rng(5)
    truth = np.array([1.0, 0.3, -0.4, -0.9])
    held = []
    for n in range(60):
        counts = np.zeros((2, 4, 4), np.int64)
        for _ in range(150):
            i, j = random.choice(4, 2, replace=False)
            wins = random.uniform() < 1 / (1 + np.exp(truth[j] - truth[i]))
            counts[0, *((i, j) if wins else (j, i))] += 1
        low, high, *_ = intervals(counts, 300, seed=n)
        rating = MEAN + SCALE * truth
        held += ((low <= rating) & (rating <= high)).tolist()
    assert 0.90 <= np.mean(held) <= 0.99


def test_the_ranking_knows_models_by_their_weights() -> None:
    given_votes = [vote("a", "b", "left")] * 6 + [vote("b", "c", "right")] * 2 + [vote("c", "a", "tie")]
    renamed = vote("a", "b", "right")
    renamed = renamed.model_copy(update={"left": renamed.left.model_copy(update={"label": "new name"})})
    found = ranking([*given_votes, vote("b", "b", "left"), renamed])
    assert {one.weights: (one.label, one.won, one.lost, one.tied) for one in found} == {
        "a": ("new name", 6, 1, 1),
        "b": ("B", 1, 8, 0),
        "c": ("C", 2, 0, 1),
    }
    assert [one.rating for one in found] == sorted((one.rating for one in found), reverse=True)
    assert np.mean([one.rating for one in found]) == pytest.approx(MEAN)
    assert ranking([]) == ranking([vote("b", "b", "left")]) == []


def test_sides_do_not_matter() -> None:
    one = [vote("a", "b", "left"), vote("b", "c", "tie"), vote("c", "a", "right")]
    other = [vote("b", "a", "right"), vote("c", "b", "tie"), vote("a", "c", "left")]
    assert (tally(one, "abc") == tally(other, "abc")).all()


def test_votes_are_there_after_a_restart_and_seen_by_another_server(tmp_path: Path) -> None:
    path = tmp_path / "new" / "votes.jsonl"
    first, second = Votes(path), Votes(path)
    first.add(vote("a", "b", "left"))
    second.add(vote("a", "b", "tie"))
    first.add(vote("b", "a", "right"))
    assert [one.choice for one in first.refresh()] == ["left", "tie", "right"]
    assert Votes(path).votes == first.votes
    assert second.refresh() == first.votes
    assert path.read_bytes().count(b"\n") == 3, "a line a vote, whatever the texts hold"


@pytest.mark.parametrize("kept", [1, 12, 40, -2])
def test_a_vote_that_a_crash_cut_off_is_not_counted_and_not_joined(tmp_path: Path, kept: int) -> None:
    path = tmp_path / "votes.jsonl"
    votes = Votes(path)
    votes.add(vote("a", "b", "left"))
    whole = path.read_bytes()
    path.write_bytes(whole + whole[:kept])
    again = Votes(path)
    assert len(again.votes) == 1
    again.add(vote("a", "b", "tie"))
    assert [one.choice for one in again.votes] == [one.choice for one in Votes(path).votes] == ["left", "tie"]


def test_a_line_that_is_no_vote_is_named(tmp_path: Path) -> None:
    path = tmp_path / "votes.jsonl"
    Votes(path).add(vote("a", "b", "left"))
    with path.open("a") as file:
        file.write('{"schema":1,"choice":"both"}\n')
    with pytest.raises(StoreError) as caught:
        Votes(path)
    assert "votes.jsonl:2: is no vote" in str(caught.value)
    path.write_bytes(b"\xff\xfe\n")
    with pytest.raises(StoreError):
        Votes(path)


def test_votes_that_cannot_be_written_are_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError):
        Votes(tmp_path / "file" / "votes.jsonl").add(vote("a", "b", "left"))
