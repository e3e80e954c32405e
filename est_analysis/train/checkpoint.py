"""Checkpoints: a Hugging Face folder plus the trainer's state, written whole or not at all.

`checkpoints/step000100/` holds config.json, model.safetensors and the tokenizer, which `transformers` opens as they
are, and `trainer.pt` (optimizer, counters, unfinished row), which resuming needs. A folder is written under a
temporary name, synced and renamed, so one that has its final name is complete. The latest is found by looking, never
by a stored pointer.
"""

import os
import pickle
import shutil
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError

from est_analysis.data.tokenizer import save as save_tokenizer
from est_analysis.errors import InputError, reason
from est_analysis.models.conversion import SpecialIds
from est_analysis.models.hf import load_folder, save_folder
from est_analysis.models.language_model import LanguageModel

_STATE = "trainer.pt"
_STATES_KEPT = 2
# How torch.save names a failed write: there is no exception type for it.
_FAILED_WRITE = ("PytorchStreamWriter", "inline_container")


def sync(path: Path) -> None:
    """Force a file or folder to disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


@dataclass(frozen=True, kw_only=True)
class Checkpoints:
    """The checkpoints of one run.

    Attributes:
        folder: `<run>/checkpoints`.
        tokenizer: saved into every checkpoint if given; anything with `save_pretrained`.
        separator: token id that ends a document.
        permanent: steps whose weights are kept for good (start, stage transitions, end); others go when superseded.
    """

    folder: Path
    tokenizer: Any = None
    separator: int | None = None
    permanent: frozenset[int] = frozenset()

    def path(self, step: int) -> Path:
        """Where the checkpoint of `step` is."""
        return self.folder / f"step{step:06d}"

    def steps(self) -> list[int]:
        """Steps with a complete checkpoint, ascending."""
        found = (p.name.removeprefix("step") for p in self.folder.glob("step*") if p.is_dir())
        return sorted(int(name) for name in found if name.isdigit())

    def resumable(self) -> list[int]:
        """Steps whose checkpoint still has the trainer's state, ascending."""
        return [step for step in self.steps() if (self.path(step) / _STATE).exists()]

    def sweep(self) -> None:
        """Delete what a kill left half-written or half-deleted; only the process that holds the run may."""
        for left in self.folder.glob(".*-step*"):
            shutil.rmtree(left, ignore_errors=True)

    def save(self, step: int, model: LanguageModel, state: dict[str, Any]) -> Path:
        """Write the checkpoint of `step` and drop what it supersedes; the ones before it survive any failure here.

        Raises:
            InputError: the disk is full or not writable.
        """
        final = self.path(step)
        temporary = self.folder / f".writing-step{step:06d}"
        try:
            shutil.rmtree(temporary, ignore_errors=True)
            temporary.mkdir(parents=True)
            save_folder(model, temporary, special=self._special())
            if self.tokenizer is not None:
                save_tokenizer(self.tokenizer, temporary)
            torch.save(state, temporary / _STATE)
            for path in temporary.iterdir():
                sync(path)
            sync(temporary)
            if final.exists():
                self._remove(step)
            temporary.rename(final)
            sync(self.folder)
        except (OSError, SafetensorError, RuntimeError) as error:
            shutil.rmtree(temporary, ignore_errors=True)
            why = getattr(error, "strerror", None) or reason(error)
            if isinstance(error, RuntimeError):
                if not any(name in str(error) for name in _FAILED_WRITE):
                    raise
                why = "the disk is full or not writable"
            raise InputError(
                f"could not write the checkpoint of step {step} to {self.folder} ({why}); {self._last_good()}; "
                "free some space and run the same command to resume"
            ) from error
        self._prune()
        return final

    def _special(self) -> SpecialIds:
        pad, eos = (getattr(self.tokenizer, name, None) for name in ("pad_token_id", "eos_token_id"))
        return SpecialIds(end=self.separator, pad=pad, eos=eos)

    def _last_good(self) -> str:
        steps = self.resumable()
        return f"last good checkpoint: {self.path(steps[-1])}" if steps else "no earlier checkpoint exists"

    def _prune(self) -> None:
        for step in self.resumable()[:-_STATES_KEPT]:
            with suppress(OSError):  # the new checkpoint is whole; a later save or sweep cleans up
                if step in self.permanent:
                    (self.path(step) / _STATE).unlink()
                else:
                    self._remove(step)

    def _remove(self, step: int) -> None:
        # Renamed first: a kill half-way must not leave a part under a name that means complete.
        leaving = self.folder / f".removing-step{step:06d}"
        self.path(step).rename(leaving)
        shutil.rmtree(leaving)

    def load(self, step: int, model: LanguageModel) -> dict[str, Any]:
        """Put the weights of `step` into `model` and return the trainer's state.

        Raises:
            InputError: the checkpoint is damaged; the message names it and the one to fall back on.
        """
        folder = self.path(step)
        try:
            weights = load_folder(folder).state_dict()
            # On the CPU, wherever it was saved: the optimizer moves it to its parameters.
            state = torch.load(folder / _STATE, map_location="cpu", weights_only=True)
            model.load_state_dict(weights)
        except torch.OutOfMemoryError:  # a RuntimeError, but no damage
            raise
        except (OSError, RuntimeError, EOFError, ValueError, KeyError, pickle.UnpicklingError) as error:
            raise self.damaged(step, error) from error
        return state

    def damaged(self, step: int, error: Exception) -> InputError:
        """What to raise where the checkpoint of `step` cannot be used: it names the one to fall back on."""
        earlier = [s for s in self.resumable() if s < step]
        fallback = f"delete it to resume from step {earlier[-1]}" if earlier else "delete the run to start again"
        return InputError(f"checkpoint {self.path(step)} is damaged ({reason(error)}); {fallback}")
