"""Data sets of the Hugging Face Hub, or of the cache of an earlier download."""

from __future__ import annotations

from functools import lru_cache

from align.configs.base import DatasetConfig
from align.data.readers import Row
from align.errors import UsageError

_PATIENCE = 5.0
"""Seconds to wait for an answer of the Hub."""

_unavailable: dict[str, str] = {}
"""Hub data sets that could not be had, and why. The next stage that names one is told at once."""


def rows(dataset: DatasetConfig) -> list[Row]:
    """All rows of a data set of the Hub.

    Raises:
        UsageError: it could not be had, from the Hub or the cache.
    """
    known = repr((dataset.hub, dataset.subset, dataset.split, dataset.revision))
    if known not in _unavailable:
        try:
            return _downloaded(dataset)
        except Exception as error:  # the Hub's client raises its own, OSErrors, ValueErrors: all mean "not to be had"
            _unavailable[known] = str(error)
    split = f" ({dataset.split})" if dataset.split else ""
    raise UsageError(
        f"hub:{dataset.hub}{split}: could not be loaded from the Hub: {_unavailable[known]}. Without a network, fetch "
        "it elsewhere and name the file: --set 'datasets.NAME={path: FILE.jsonl}'"
    )


def _downloaded(dataset: DatasetConfig) -> list[Row]:
    """The rows from the Hub, or from the cache of an earlier download where nothing answers."""
    import datasets
    from huggingface_hub import constants

    before = constants.HF_HUB_OFFLINE, datasets.config.HF_HUB_OFFLINE
    if not _answers():  # both libraries then look into the cache alone, rather than try again for half a minute
        constants.HF_HUB_OFFLINE = datasets.config.HF_HUB_OFFLINE = True
    try:
        loaded = datasets.load_dataset(
            dataset.hub, dataset.subset, split=dataset.split or "train", revision=dataset.revision
        )
    finally:
        constants.HF_HUB_OFFLINE, datasets.config.HF_HUB_OFFLINE = before
    return [dict(row) for row in loaded]


@lru_cache(maxsize=1)
def _answers() -> bool:
    from huggingface_hub import constants, get_session

    try:
        get_session().head(constants.ENDPOINT, timeout=_PATIENCE)
    except Exception:  # which class it is depends on the client's version; each means no answer
        return False
    return True
