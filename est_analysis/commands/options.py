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
DatasetConfig = Annotated[str, typer.Option(help="Configuration of an hf: data set, such as wikitext-103-raw-v1.")]
TextColumn = Annotated[str, typer.Option(help="Column of an hf: data set that holds the text.")]
Device = Annotated[str, typer.Option(help="cpu, cuda or cuda:NUMBER.")]
Threads = Annotated[int, typer.Option(help="CPU threads; 0 leaves torch's choice.")]
Seeds = Annotated[int | None, typer.Option(help="How many seeds; the scale's own unless given.")]
Workers = Annotated[int, typer.Option(help="Processes at once; 0: two on a CPU, one on a GPU.")]
