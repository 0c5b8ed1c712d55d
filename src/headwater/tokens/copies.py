"""How often each document of a source is seen in one epoch, by what was measured of it; 0 leaves it out."""

from __future__ import annotations

from typing import Annotated, Literal

import numpy as np
from pydantic import Field, model_validator

from headwater.core.config import Config
from headwater.core.errors import MismatchError
from headwater.tokens.packing import permutation
from headwater.tokens.shards import TokenSource


class QualityCurve(Config):
    """Leave out the worst documents, and repeat the rest the more often the better they are.

    With q the share of a source's documents that are worse, copies(q) is 0 below `drop_share`, then rises as a power
    of q from 0 to `max_copies` at 1 - `top_share`, and stays there. The power follows from `mean_copies`:
    power = max_copies (1 - top_share - drop_share) / (mean_copies - top_share max_copies) - 1.

    Source: OLMo 3 (arXiv:2512.13961), quality-aware upsampling of Dolma 3: the lowest 40 % left out, the best 5 % seen
    7 times. Its curve is fitted per topic to a token budget; ours has one free power, fixed by the mean.
    """

    use: Literal["quality"]
    """`quality`: by the score that the cleaning step quality gave."""
    drop_share: float = Field(default=0.4, ge=0, lt=1)
    """Share of the documents that is left out."""
    top_share: float = Field(default=0.05, ge=0, lt=1)
    """Share of the documents that is seen most often."""
    max_copies: float = Field(default=7.0, ge=1)
    """How often these are seen in one epoch."""
    mean_copies: float = Field(default=1.0, gt=0)
    """Copies of a document on average: 1 leaves the source about as large as it is."""

    @model_validator(mode="after")
    def _has_a_power(self) -> QualityCurve:
        middle = 1 - self.top_share - self.drop_share
        lowest, highest = self.top_share * self.max_copies, (self.top_share + max(middle, 0)) * self.max_copies
        if middle <= 0 or not lowest < self.mean_copies < highest:
            raise ValueError(
                f"no curve has these means: drop_share and top_share must leave documents between them, and mean_copies "
                f"must lie between {lowest:g} and {highest:g}, not be {self.mean_copies:g}"
            )
        return self

    @property
    def power(self) -> float:
        """How steeply copies rise."""
        middle = 1 - self.top_share - self.drop_share
        return self.max_copies * middle / (self.mean_copies - self.top_share * self.max_copies) - 1

    def __call__(self, scores: np.ndarray) -> np.ndarray:
        """Copies of each document [documents] float64, from their scores.

        >>> copies = QualityCurve(use="quality")(np.arange(1000.0))
        >>> float(copies[399]), float(copies[-1]), round(float(copies.mean()), 2)
        (0.0, 7.0, 1.0)
        """
        rank = np.empty(len(scores))
        rank[np.argsort(scores, kind="stable")] = (np.arange(len(scores)) + 0.5) / max(len(scores), 1)
        risen = (rank - self.drop_share) / (1 - self.top_share - self.drop_share)
        return np.where(risen <= 0, 0.0, self.max_copies * np.clip(risen, 0, 1) ** self.power)


class ClusterSizes(Config):
    """Repeat a document by how many near-duplicates of it there were: what many pages copied is seldom the worst.

    Source: the data card of FineWeb2 (Penedo et al. 2025, arXiv:2506.20920), "re-hydration", with its weights.
    """

    use: Literal["cluster_size"]
    """`cluster_size`: by the size of the cluster of which the stage dedup kept this document."""
    copies: dict[int, float] = Field(default={1: 1, 2: 2, 3: 3, 5: 5, 100: 8, 1000: 1}, min_length=1)
    """Smallest size of a cluster -> copies."""

    @model_validator(mode="after")
    def _covers_all(self) -> ClusterSizes:
        if min(self.copies) != 1 or min(self.copies.values()) < 0:
            raise ValueError("copies must say how often clusters of size 1 are seen, and 0 or more for each size")
        return self

    def __call__(self, sizes: np.ndarray) -> np.ndarray:
        """Copies of each document [documents] float64, from the sizes of their clusters.

        >>> ClusterSizes(use="cluster_size")(np.array([1, 4, 99, 100, 5000])).tolist()
        [1.0, 3.0, 5.0, 8.0, 1.0]
        """
        limits = sorted(self.copies)
        copies = np.array([self.copies[limit] for limit in limits], np.float64)
        return copies[np.searchsorted(limits, sizes, side="right") - 1]


Copies = Annotated[QualityCurve | ClusterSizes, Field(discriminator="use")]
"""How often each document is seen in one epoch."""


def repeated(source: TokenSource, rule: Copies, seed: str) -> np.ndarray:
    """The documents of a source, each as often as a rule says: an index for each copy [copies] int64.

    Parts of copies are rounded up for some documents and down for others, so that all together are right to within one.

    Raises:
        MismatchError: a document was not measured, or no document is left.
    """
    values = source.fact(rule.use)
    place = f"mixture.copies.{source.name}"
    missing = np.isnan(values)
    if rule.use == "cluster_size" and not missing.all():
        values[missing], missing[:] = 1.0, False  # the stage dedup writes it where there were copies
    if count := int(missing.sum()):
        made_by = {"quality": "the cleaning step quality", "cluster_size": "the stage dedup, where it finds copies"}
        problem = f"{count:,} of {source.num_documents:,} documents of source '{source.name}' have no {rule.use}"
        raise MismatchError(problem, place=place, hint=f"it comes from {made_by[rule.use]}; or leave the rule out")
    order = permutation(source.num_documents, f"{seed}/copies")
    ends = np.floor(np.cumsum(rule(values)[order]) + 0.5).astype(np.int64)
    counts = np.empty(source.num_documents, np.int64)
    counts[order] = np.diff(ends, prepend=0)
    if not counts.any():
        raise MismatchError(f"no document of source '{source.name}' is left", place=place, hint="raise its copies")
    return np.repeat(np.arange(source.num_documents), counts)
