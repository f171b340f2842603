"""How active every expert was in every document: what the criterion `contribution` needs.

8 bytes per document and expert of every layer: 24,000 documents on 30 layers of 128 experts are
740 MB. So it is made on request only.
"""

from __future__ import annotations

from secateur.calibration.observers.base import Observations, Observer, Values


def _norms(seen: Observations, _: Values) -> Values:
    """|gate * output| of every assignment."""
    return abs(seen.gate * seen.norm)


SAMPLE_NORMS = Observer(
    "sample_norms",
    "per document the sum of |gate * output|, for the criterion `contribution`; "
    "8 bytes per document, expert and layer",
    _norms,
    kind="per_sample",
)
