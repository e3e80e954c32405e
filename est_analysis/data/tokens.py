"""Token streams on disk: a corpus tokenized once, then memory-mapped."""

import hashlib
from collections import deque
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from est_analysis.data.cache import cache_root, cached_folder
from est_analysis.data.corpus import SPLITS, Corpus, require_splits
from est_analysis.data.tokenizer import build_tokenizer, encode, load_saved, save, separator_id, tokenizer_key

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

_FORMAT = 2  # raise it when the same corpus and tokenizer shall give other files


@dataclass(frozen=True, kw_only=True, eq=False)
class TokenData:
    """A tokenized corpus.

    Attributes:
        corpus: the corpus's name.
        train: token ids, 1-D and memory-mapped: uint16 up to 65536 entries, else uint32. Each document is followed by
            one separator.
        validation: the same for the held-out text.
        vocab_size: one more than the largest id that the tokenizer can give.
        separator_id: the id between documents.
        num_bytes: split -> UTF-8 bytes of text, separators not counted. Bits per byte is the summed loss in nats over a
            split, divided by ln 2 and by this.
        hash: sha256 (hex) of both token streams and of the vocabulary.
        tokenizer_folder: where the tokenizer is saved.
    """

    corpus: str
    train: np.ndarray
    validation: np.ndarray
    vocab_size: int
    separator_id: int
    num_bytes: dict[str, int]
    hash: str
    tokenizer_folder: Path

    @cached_property
    def tokenizer(self) -> "PreTrainedTokenizerFast":
        """The tokenizer, loaded when first asked for."""
        return load_saved(self.tokenizer_folder)


def load_tokens(
    corpus: Corpus, tokenizer_spec: "str | PreTrainedTokenizerFast", *, cache_dir: str | Path | None = None
) -> TokenData:
    """Tokenize `corpus`, or open the result of having done so before.

    Args:
        corpus: from `open_corpus`.
        tokenizer_spec: see `build_tokenizer`.
        cache_dir: where the tokens are kept, under `tokens/`; see `cache_root`.

    Returns:
        The token streams of both splits.

    Raises:
        InputError: the tokenizer cannot be had, or the corpus has no text for one of the splits.
    """
    key = hashlib.sha256(repr((_FORMAT, corpus.identity, tokenizer_key(tokenizer_spec))).encode()).hexdigest()
    folder = cache_root(cache_dir) / "tokens" / key
    meta = cached_folder(folder, partial(_write, corpus=corpus, tokenizer_spec=tokenizer_spec, cache_dir=cache_dir))
    streams = {split: np.memmap(folder / f"{split}.bin", dtype=meta["dtype"], mode="r") for split in SPLITS}
    return TokenData(
        corpus=corpus.name,
        **streams,
        **{name: meta[name] for name in ("vocab_size", "separator_id", "num_bytes", "hash")},
        tokenizer_folder=folder / "tokenizer",
    )


def _write(
    folder: Path,
    *,
    corpus: Corpus,
    tokenizer_spec: "str | PreTrainedTokenizerFast",
    cache_dir: str | Path | None,
) -> dict[str, Any]:
    """Write the files of `folder` and return its `meta.json`; memory does not grow with the corpus."""
    tokenizer = build_tokenizer(tokenizer_spec, corpus, cache_dir)
    save(tokenizer, folder / "tokenizer")
    vocabulary = sorted(tokenizer.get_vocab().items())
    vocab_size = 1 + max(index for _, index in vocabulary)
    dtype = np.dtype("<u2" if vocab_size <= 1 << 16 else "<u4")
    separator = separator_id(tokenizer)
    digests = {split: hashlib.sha256() for split in SPLITS}
    num_bytes = dict.fromkeys(SPLITS, 0)
    order: deque[str] = deque()  # the splits of the documents that `encode` has read ahead

    def texts() -> Iterator[str]:
        for split, text in corpus.documents():
            num_bytes[split] += len(text.encode())
            order.append(split)
            yield text

    with ExitStack() as stack:
        files = {split: stack.enter_context((folder / f"{split}.bin").open("wb")) for split in SPLITS}
        for ids in encode(tokenizer, texts()):
            split = order.popleft()
            data = np.append(ids, separator).astype(dtype).tobytes()
            files[split].write(data)
            digests[split].update(data)
    require_splits(corpus.name, [split for split in SPLITS if num_bytes[split]])
    content = repr(([digests[split].hexdigest() for split in SPLITS], vocabulary, separator))
    return {
        "corpus": corpus.name,
        "tokenizer": tokenizer_spec if isinstance(tokenizer_spec, str) else str(tokenizer_spec.name_or_path),
        "dtype": dtype.str,
        "vocab_size": vocab_size,
        "separator_id": separator,
        "num_bytes": num_bytes,
        "hash": hashlib.sha256(content.encode()).hexdigest(),
    }
