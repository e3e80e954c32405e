"""Hugging Face data sets, on the hub or in a local folder, as streams of text."""

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

from est_analysis.errors import InputError, expanded, reason

_COMMIT = re.compile(r"[0-9a-f]{40}")


@dataclass(frozen=True, kw_only=True)
class HubSource:
    """A data set and where to read it.

    Attributes:
        name: hub name or local folder.
        config: its configuration, if it has several.
        commit: the hub commit it is pinned to; None for a folder, and for a hub data set while the hub is out of reach,
            which is then read from the local cache of `datasets`.
        streaming: read while downloading, rather than from the local cache.
    """

    name: str
    config: str | None
    commit: str | None
    streaming: bool


def resolve(name: str, config: str | None) -> HubSource:
    """Find the data set `name` (`NAME`, `NAME@REVISION` or a folder) and pin it to a commit.

    Raises:
        InputError: no such data set or revision on the hub, or no such folder.
    """
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HFValidationError, RepositoryNotFoundError, RevisionNotFoundError

    if not name:
        raise InputError("'hf:' names no data set; use hf:NAME or hf:FOLDER")
    if expanded(name).is_dir():
        return HubSource(name=str(expanded(name)), config=config, commit=None, streaming=True)
    repository, _, revision = name.partition("@")
    if _COMMIT.fullmatch(revision):
        return HubSource(name=repository, config=config, commit=revision, streaming=True)
    try:
        commit = HfApi().dataset_info(repository, revision=revision or None).sha
    except (HFValidationError, RepositoryNotFoundError, RevisionNotFoundError) as error:
        raise InputError(
            f"no data set '{name}': neither a folder nor on the Hugging Face hub; check hf:NAME"
        ) from error
    except Exception:  # out of reach: every version of the hub client has network errors of its own
        if revision:
            raise InputError(f"hub out of reach: cannot look up '{name}'; name a full commit, or drop @") from None
        return HubSource(name=repository, config=config, commit=None, streaming=False)
    return HubSource(name=repository, config=config, commit=commit, streaming=True)


def texts(source: HubSource, text_column: str) -> dict[str, Iterator[str]]:
    """The non-empty texts of the splits `train` and, if the data set has one, `validation`, each lazily.

    Raises:
        InputError: the data set cannot be loaded or has no train split, or (while reading) `text_column` is no text.
    """
    from datasets import load_dataset

    load: Callable[[], Any] = partial(
        load_dataset, source.name, source.config, revision=source.commit, streaming=source.streaming
    )
    with _readable(source.name):
        splits = load()
    if "train" not in splits:
        raise InputError(f"data set '{source.name}' has no train split, only {', '.join(splits)}; give another one")
    return {name: _column(source.name, splits[name], text_column) for name in ("train", "validation") if name in splits}


def _column(name: str, rows: Any, text_column: str) -> Iterator[str]:
    with _readable(name):
        for row in rows:
            if text_column not in row:
                raise InputError(
                    f"data set '{name}' has no column '{text_column}'; set text_column to one of: {', '.join(row)}"
                )
            text = row[text_column]
            if not isinstance(text, str | None):
                raise InputError(f"column '{text_column}' of data set '{name}' holds {type(text).__name__}, not text")
            if text:
                yield text


@contextmanager
def _readable(name: str) -> Iterator[None]:
    try:
        yield
    except InputError:
        raise
    except Exception as error:  # `datasets` raises from a dozen file formats and clients; the first line says why
        raise InputError(f"cannot read data set '{name}': {reason(error)}") from error
