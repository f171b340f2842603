"""What a metric is: numbers per scored token, and how they become one number with an interval.

A metric is one file in this folder (docs/extending.md has a worked example). It may define

    ARRAYS    numbers that it needs of every scored token, computed while the artefact runs
    METRICS   numbers of a report, each a statistic of such arrays, by their names

and everything else is derived from these: what is kept of a run, the report's columns, the lines
printed, the quality gates and their help (`registry.py`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:  # scipy takes half a second to import, and --help lists the metrics
    from secateur.evaluation.intervals import Clusters, Draws

Better = Literal["lower", "higher"]


class Routing(NamedTuple):
    """The experts that n tokens chose in L layers, K each, all by the original's numbers."""

    original: NDArray[np.integer[Any]]
    """[n, L, K]: those of the original."""
    artefact: NDArray[np.integer[Any]]
    """[n, L, K]: those of the artefact."""
    is_there: NDArray[np.bool_]
    """[n, L, K]: which of the original's the artefact still has."""


@dataclass(frozen=True, slots=True)
class ScoredTokens:
    """What the original and an artefact say of n tokens; natural logarithms, float32.

    Bins are the original's K most probable tokens and, last, all other tokens together.
    """

    original: NDArray[np.float32]
    """[n, K + 1]: the original's log-probabilities of the bins."""
    artefact: NDArray[np.float32]
    """[n, K + 1]: the artefact's, of the same bins."""
    original_actual: NDArray[np.float32]
    """[n]: the original's log-probability of the token that is there."""
    artefact_actual: NDArray[np.float32]
    """[n]: the artefact's."""
    original_best: NDArray[np.integer[Any]]
    """[n]: the token most probable to the original."""
    artefact_best: NDArray[np.integer[Any]]
    """[n]: the token most probable to the artefact."""
    top_kept: NDArray[np.bool_]
    """[n, m]: which of the original's m most probable tokens are among the artefact's m."""
    routing: Routing | None = None
    """None where it is not known which experts of the original the artefact's are."""


@dataclass(frozen=True, slots=True)
class TokenArray:
    """A number per scored token: its name in the scores file, its type, and how it is computed.

    `routed` needs the routing, and is left out where that is not known; `by_layer` has a number
    for each layer that has experts.
    """

    name: str
    dtype: type[np.generic]
    compute: Callable[[ScoredTokens], NDArray[Any]]
    """Maps n tokens to n numbers ([n, L] by layer); one that is not finite is an error."""
    routed: bool = False
    by_layer: bool = False


class Statistic(Protocol):
    """One number of a group of tokens, from the arrays named in `needs`."""

    @property
    def needs(self) -> tuple[str, ...]: ...

    @property
    def has_interval(self) -> bool:
        """Whether resampling the answers says how sure the number is."""

    def is_defined(self, tokens: int) -> bool:
        """Whether so many tokens are enough for it."""

    def evaluate(self, arrays: Mapping[str, Clusters], draws: Draws) -> NDArray[np.float64]:
        """The number for every draw of answers: [..., A] -> [...]."""


@dataclass(frozen=True, slots=True)
class FunctionOfMeans:
    """A function of the means of arrays over all tokens; of one mean, by default that mean."""

    needs: tuple[str, ...]
    function: Callable[..., NDArray[np.float64]] = lambda mean: mean
    has_interval: bool = True

    def is_defined(self, tokens: int) -> bool:
        return tokens > 0

    def evaluate(self, arrays: Mapping[str, Clusters], draws: Draws) -> NDArray[np.float64]:
        return self.function(*(arrays[name].mean(draws) for name in self.needs))


def mean(array: str) -> FunctionOfMeans:
    """The mean over all tokens."""
    return FunctionOfMeans((array,))


@dataclass(frozen=True, slots=True)
class Quantile:
    """The smallest value that at least a part `q` of the tokens do not exceed.

    Given only when at least one token is expected beyond it.
    """

    array: str
    q: float
    has_interval: bool = True

    @property
    def needs(self) -> tuple[str, ...]:
        return (self.array,)

    def is_defined(self, tokens: int) -> bool:
        return (1 - self.q) * tokens >= 1

    def evaluate(self, arrays: Mapping[str, Clusters], draws: Draws) -> NDArray[np.float64]:
        return arrays[self.array].quantile(draws, self.q)


@dataclass(frozen=True, slots=True)
class Maximum:
    """The largest value. Resampling cannot exceed the largest value seen: it has no interval."""

    array: str
    has_interval: bool = False

    @property
    def needs(self) -> tuple[str, ...]:
        return (self.array,)

    def is_defined(self, tokens: int) -> bool:
        return tokens > 0

    def evaluate(self, arrays: Mapping[str, Clusters], draws: Draws) -> NDArray[np.float64]:
        return arrays[self.array].quantile(draws, 1.0)


@dataclass(frozen=True, slots=True)
class Metric:
    """A number of the report.

    `name` is what JSON and gates call it, `title` heads its column. `better` says which way is
    nearer to the original; a metric without it describes, so it is neither a gate nor compared.
    """

    name: str
    title: str
    unit: str
    better: Better | None
    help: str
    statistic: Statistic
    in_summary: bool = False
    """Shown next to the sizes, and printed."""
    in_table: bool = False
    """Shown for every domain."""
    is_share: bool = False
    """A mean of numbers from 0 to 1, whose interval is not empty where all answers are alike."""

    @property
    def is_gate(self) -> bool:
        """Whether a limit may be set to it."""
        return self.better is not None
