"""Data: text sources -> documents -> tokens -> batches that are a pure function of (seed, step)."""

from est_analysis.data.batches import Batches, validation_batches
from est_analysis.data.corpus import Corpus, open_corpus
from est_analysis.data.tokenizer import build_tokenizer, separator_id
from est_analysis.data.tokens import TokenData, load_tokens

__all__ = [
    "Batches",
    "Corpus",
    "TokenData",
    "build_tokenizer",
    "load_tokens",
    "open_corpus",
    "separator_id",
    "validation_batches",
]
