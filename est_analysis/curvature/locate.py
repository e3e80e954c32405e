"""Where the files of a checkpoint are: a path or a hub name -> a folder, by revision or training step.

Runs nothing that files hold.
"""

import math
import os
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from pathlib import Path

from est_analysis.curvature.weights import SAFE
from est_analysis.errors import InputError, expanded, reason

# *.py runs only under trust_remote_code.
_SMALL_FILES = ("*.json", "*.txt", "*.model", "*.tiktoken", "*.py")
_STEP = re.compile(r"(?:step|checkpoint|iter)[-_]?(\d+)(k?)(?![a-z0-9])", re.IGNORECASE)


@dataclass(frozen=True, kw_only=True)
class Located:
    """Where the files of one checkpoint are.

    Attributes:
        name: as a user would type it: `EleutherAI/pythia-70m`, `runs/est-.../checkpoints/step001000`; locating `name`
            at `revision` again gives the same checkpoint.
        folder: local folder with config.json and weights.
        revision: branch, tag, commit or subfolder that was asked for.
        commit: hub commit of the files; None for a local folder.
        step: training step, read off the revision or name (`step3000`, `step001000`, `checkpoint-500`), if it has one.
        evictable: downloaded just now, so that deleting it takes nothing that was there before.
    """

    name: str
    folder: Path
    revision: str | None
    commit: str | None
    step: int | None
    evictable: bool


def locate(name: str | Path, *, revision: str | None = None) -> Located:
    """Find the checkpoint `name`, downloading it if it is on the hub; an existing path always wins.

    Args:
        name: folder of a checkpoint, folder of a run (its last checkpoint), or hub name.
        revision: hub branch, tag or commit; for a folder, one of the checkpoints inside it.

    Raises:
        InputError: no such checkpoint, or the hub does not give it.
    """
    typed, path = str(name), expanded(name)
    if not typed.strip() or revision == "":
        raise InputError(f"checkpoint '{typed}' at revision '{revision}' names nothing; give a folder or a hub name")
    if path.is_file():
        raise InputError(f"checkpoint '{typed}' is a file; give the folder that holds config.json and the weights")
    if path.is_dir():
        return _locate_folder(typed, path, revision)
    _refuse_missing_path(typed)
    return _locate_on_hub(typed, revision)


def locate_revisions(name: str | Path, pattern: str) -> dict[str, str | None]:
    """The revisions of `name` that match a glob such as `step*`, in order of training step; none is downloaded yet.

    Args:
        name: hub name, run folder, or folder of checkpoints.
        pattern: matched against branches and tags, or against the names of the checkpoints in the folder.

    Returns:
        What `locate(name, revision=...)` takes -> the hub commit that it points at now; None for a folder.

    Raises:
        InputError: nothing of that name, or nothing in it that matches.
    """
    typed, path = str(name), expanded(name)
    if not typed.strip() or path.is_file():
        raise InputError(f"'{typed}' holds no checkpoints; give a folder or a hub name")
    if path.is_dir():
        known: dict[str, str | None] = dict.fromkeys(_inside(path))
    else:
        _refuse_missing_path(typed)
        known = _hub_references(typed)
    found = {reference: commit for reference, commit in known.items() if fnmatchcase(reference, pattern)}
    if not found:
        raise InputError(f"no revision of '{typed}' matches '{pattern}'; it has: {_listed(list(known))}")
    return found


def evict(located: Located) -> None:
    """Delete the files of a checkpoint from the hub's cache if locating it has downloaded them, else do nothing."""
    from huggingface_hub import scan_cache_dir

    if not located.evictable or located.commit is None:
        return
    cache = scan_cache_dir()
    # A copy of the repository has the same commits.
    own = frozenset(repo for repo in cache.repos if (repo.repo_id, repo.repo_type) == (located.name, "model"))
    if any(held.commit_hash == located.commit for repo in own for held in repo.revisions):
        replace(cache, repos=own).delete_revisions(located.commit).execute()


@contextmanager
def quiet() -> Iterator[None]:
    """No progress bars, load reports or conversion thread of transformers; its settings are put back afterwards."""
    from huggingface_hub.utils import are_progress_bars_disabled, disable_progress_bars
    from transformers.utils import logging

    verbosity, bars, no_hub_bars = (
        logging.get_verbosity(),
        logging.is_progress_bar_enabled(),
        are_progress_bars_disabled(),
    )
    conversion = os.environ.get("DISABLE_SAFETENSORS_CONVERSION")
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    os.environ["DISABLE_SAFETENSORS_CONVERSION"] = "1"
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
        with warnings.catch_warnings(action="ignore"):  # about the user's own choice of no bars
            if bars:
                logging.enable_progress_bar()
        if no_hub_bars:
            disable_progress_bars()
        del os.environ["DISABLE_SAFETENSORS_CONVERSION"]
        if conversion is not None:
            os.environ["DISABLE_SAFETENSORS_CONVERSION"] = conversion


def _locate_folder(typed: str, path: Path, revision: str | None) -> Located:
    if revision is None and (path / "config.json").is_file():
        step = _step(path.resolve().name)
        return Located(name=typed, folder=path, revision=None, commit=None, step=step, evictable=False)
    inside = _inside(path)
    if revision is not None and revision not in inside:
        raise InputError(f"no checkpoint '{revision}' in '{typed}'; it has: {_listed(list(inside))}")
    steps = [reference for reference in inside if _step(reference) is not None]
    if revision is None and not steps:
        hint = f"give one of its checkpoints: {_listed(list(inside))}" if inside else "give the folder of a checkpoint"
        raise InputError(f"folder '{typed}' holds no config.json; {hint}")
    reference = revision or steps[-1]
    name = typed if revision else str(Path(typed) / inside[reference].relative_to(path))
    step = _step(reference)
    return Located(name=name, folder=inside[reference], revision=revision, commit=None, step=step, evictable=False)


def _inside(path: Path) -> dict[str, Path]:
    """The checkpoints of a run, or else those directly in a folder, by name in order of step."""
    root = path / "checkpoints" if (path / "checkpoints").is_dir() else path
    found = [child.parent for child in root.glob("*/config.json") if not child.parent.name.startswith(".")]
    return {child.name: child for child in sorted(found, key=lambda child: _by_step(child.name))}


def _refuse_missing_path(typed: str) -> None:
    if typed.startswith((".", "~", "/")) or typed.endswith("/") or typed.count("/") > 1 or "\\" in typed:
        raise InputError(f"no folder '{typed}'; give an existing folder, or a hub name such as EleutherAI/pythia-70m")
    folder, slash, _ = typed.partition("/")
    if slash and (runs := sorted(spec.parent.name for spec in Path(folder).glob("*/spec.json"))):
        raise InputError(f"no folder '{typed}'; '{folder}' has the runs {_listed(runs)}")


def _locate_on_hub(name: str, revision: str | None) -> Located:
    from huggingface_hub import HfApi, constants
    from huggingface_hub.errors import HFValidationError, RepositoryNotFoundError, RevisionNotFoundError
    from huggingface_hub.file_download import repo_folder_name

    evictable = False
    with quiet():
        try:
            info = HfApi().model_info(name, revision=revision)
        except (HFValidationError, RepositoryNotFoundError, RevisionNotFoundError) as error:
            raise _hub_failure(name, revision, error) from error
        except Exception as error:  # out of reach: every version of the hub client has network errors of its own
            folder = _snapshot(name, revision, "model*.safetensors", offline=error)
        else:
            files = {file.rfilename for file in info.siblings or ()}
            weights = "model*.safetensors" if files & {SAFE, f"{SAFE}.index.json"} else "pytorch_model*.bin"
            repository = Path(constants.HF_HUB_CACHE, repo_folder_name(repo_id=name, repo_type="model"))
            known = (repository / "snapshots" / str(info.sha)).exists()
            folder = _snapshot(name, revision, weights)
            evictable = not known and folder.name == info.sha
    if not (folder / "config.json").is_file():
        raise InputError(f"hub model '{name}' has no config.json; give one in the format of transformers")
    step = _step(revision or name)
    return Located(name=name, folder=folder, revision=revision, commit=folder.name, step=step, evictable=evictable)


def _snapshot(name: str, revision: str | None, weights: str, offline: Exception | None = None) -> Path:
    """The folder of a hub model in the cache; downloaded, unless `offline` says why it cannot be."""
    from huggingface_hub import snapshot_download

    try:
        # By branch or tag rather than commit, so that the cache knows it when the hub is out of reach.
        folder = snapshot_download(
            name,
            revision=revision,
            local_files_only=offline is not None,
            allow_patterns=[*_SMALL_FILES, weights],
            ignore_patterns=["*/*"],
        )
    except Exception as error:
        raise _hub_failure(name, revision, offline or error) from error
    return Path(folder)


def _hub_references(name: str) -> dict[str, str | None]:
    """Branches and tags and the commits that they point at, in order of step."""
    from huggingface_hub import HfApi

    try:
        references = HfApi().list_repo_refs(name)
    except Exception as error:
        raise _hub_failure(name, None, error) from error
    commits = {reference.name: reference.target_commit for reference in (*references.tags, *references.branches)}
    return {reference: commits[reference] for reference in sorted(commits, key=_by_step)}


def _hub_failure(name: str, revision: str | None, error: Exception) -> InputError:
    from huggingface_hub.errors import GatedRepoError, HFValidationError, RepositoryNotFoundError, RevisionNotFoundError

    if isinstance(error, GatedRepoError):
        return InputError(f"hub model '{name}' is gated; ask for access on its page, then log in with: hf auth login")
    if isinstance(error, HFValidationError | RepositoryNotFoundError):
        return InputError(f"'{name}' is neither a folder nor a model on the hub; check it, or log in: hf auth login")
    if isinstance(error, RevisionNotFoundError):
        try:
            known = _listed(list(_hub_references(name)))
        except InputError:
            known = "unknown"
        return InputError(f"hub model '{name}' has no revision '{revision}'; it has: {known}")
    at = f" at '{revision}'" if revision else ""
    return InputError(
        f"cannot get '{name}'{at} from the hub ({reason(error)}) nor its cache; go online or give a folder"
    )


def _step(reference: str) -> int | None:
    found = _STEP.search(reference)
    return int(found[1]) * (1000 if found[2] else 1) if found else None


def _by_step(reference: str) -> tuple[float, list[tuple[int, str]]]:
    """Sorts by training step, what has none last; then so that `a2` comes before `a10`."""
    step = _step(reference)
    parts = [(int(part), "") if part.isdigit() else (-1, part) for part in re.split(r"([0-9]+)", reference)]
    return math.inf if step is None else step, parts


def _listed(names: list[str], most: int = 8) -> str:
    if not names:
        return "none"
    return ", ".join(names if len(names) <= most else [*names[: most // 2], "...", *names[-most // 2 :]])
