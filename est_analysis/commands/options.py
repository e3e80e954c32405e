"""Options that several commands share."""

from pathlib import Path
from typing import Annotated

import typer

Json = Annotated[bool, typer.Option("--json", help="Print one JSON object instead of text.")]
Runs = Annotated[Path, typer.Option(help="Folder of all runs; finished ones are not repeated.")]
Corpus = Annotated[
    str,
    typer.Option(
        help="'python' (the installed Python's own source), a file, a folder, hf:NAME or hmm:STATES,VOCAB,SEED."
    ),
]
Family = Annotated[
    str,
    typer.Option(
        help="Family of the model: gpt2, llama, t5, bert or megatron-bert; without --model, its usual one.",
        show_default=False,
    ),
]
