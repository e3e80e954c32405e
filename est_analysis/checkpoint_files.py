"""The folder of a checkpoint, for all who read one: its JSON files, and which files hold its weights."""

import json
from pathlib import Path
from typing import Any

from est_analysis.errors import InputError, reason


def read_json(path: Path) -> dict[str, Any]:
    """The object in a JSON file.

    Raises:
        InputError: no such file, or damaged.
    """
    try:
        content = json.loads(path.read_text())
    except FileNotFoundError as error:
        raise InputError(f"no {path.name} in '{path.parent}'; give the folder of a checkpoint") from error
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f"'{path}' is damaged ({reason(error)}); download or save the checkpoint again") from error
    if not isinstance(content, dict):
        raise InputError(f"'{path}' is damaged (no JSON object); download or save the checkpoint again")
    return content


def weight_files(folder: Path, *names: str) -> list[Path]:
    """The file in `folder` of the first of `names` that is there, or the shards that its index lists.

    Raises:
        InputError: none of them, a damaged index, or a shard that is not in `folder`, wherever its index says it is.
    """
    for name in names:
        index = folder / f"{name}.index.json"
        if (folder / name).exists():
            return [folder / name]
        if index.exists():
            shards = read_json(index).get("weight_map")
            if not isinstance(shards, dict) or not all(isinstance(shard, str) for shard in shards.values()):
                raise InputError(f"'{index}' is damaged (no weight_map); download or save the checkpoint again")
            files = [folder / Path(shard).name for shard in sorted(set(shards.values()))]
            for file in files:
                if not file.exists():
                    raise InputError(
                        f"'{folder}' lacks the shard '{file.name}' that its index lists; download it again"
                    )
            return files
    raise InputError(f"no weights in '{folder}'; it needs {' or '.join(names)} (or its shards and index)")
