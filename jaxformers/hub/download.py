"""Where a checkpoint lies: a local path as it is, a Hub id fetched into the Hub's own cache."""

import os
from collections.abc import Sequence
from fnmatch import fnmatch
from pathlib import Path

from jaxformers.core.errors import CheckpointError
from jaxformers.hub.checkpoint import ADAPTER_WEIGHTS, candidates, choose, files_of

# Everything beside the weights: configs, tokenizers, processors, chat templates, sentence-transformers' module folders.
FILES = (
    *("*.json", "*.jinja", "*.txt", "*.model", "*.tiktoken", "*.spm", "*.vocab", "merges.txt", "vocab.*"),
    *("additional_chat_templates/*", "*_*/config.json", "*_*/*.safetensors"),
    *("head.safetensors", "readout.safetensors"),  # heads beside the weights
)
WEIGHT_INDEX = "*.index*.json"


def resolve(
    source: str | os.PathLike,
    *,
    revision: str | None = None,
    cache_dir: str | os.PathLike | None = None,
    token: str | bool | None = None,
    local_files_only: bool = False,
    patterns: Sequence[str] = FILES,
    variant: str | None = None,
    weights: bool = True,
) -> Path:
    """The local folder or file of a checkpoint, downloaded first if `source` is a Hub id.

    Of the weights only the best format is fetched, none with `weights=False`. HF_HUB_OFFLINE and `local_files_only`
    keep to what is cached. Raises CheckpointError if the source is no path and no id, or cannot be had.
    """
    path = Path(source).expanduser()
    if os.fspath(source) and path.exists():
        return path
    name = check_id(source)
    where = {"revision": revision, "cache_dir": cache_dir, "token": token}
    if local_files_only or is_offline():
        return cached(name, where, variant, weights)
    import huggingface_hub as hub

    try:
        files = hub.HfApi(token=token).list_repo_files(name, revision=revision)
        chosen = wanted(files, patterns, variant, weights, name)
        return Path(hub.snapshot_download(name, allow_patterns=chosen, **where))
    except CheckpointError:
        raise
    # The Hub's client raises its HTTP library's own errors, which differ between its versions.
    except Exception as error:
        try:
            return cached(name, where, variant, weights)
        except CheckpointError:
            raise unavailable(name, revision, error) from error


def cached(name: str, where: dict, variant: str | None, weights: bool) -> Path:
    """The cached folder of a Hub id, without the network. Raises CheckpointError if it or its weights are not there."""
    import huggingface_hub as hub

    try:
        folder = Path(hub.snapshot_download(name, local_files_only=True, **where))
    except OSError as error:
        # Part of a repository is all we fetch, and newer clients call that incomplete but name the folder.
        part = getattr(error, "snapshot_path", None)
        if part is None:
            raise unavailable(name, where["revision"], None) from error
        folder = Path(part)
    if weights and not any((folder / file).exists() for file in ADAPTER_WEIGHTS):
        choose((item.name for item in folder.iterdir()), variant, f"the cached part of {name}")
    return folder


def check_id(source: str | os.PathLike) -> str:
    """A well-formed Hub id. Raises CheckpointError for anything that can only be a path, or nothing at all."""
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils import validate_repo_id

    name = os.fspath(source)
    try:
        if isinstance(source, Path) or name.startswith((".", "~", os.sep)):
            raise HFValidationError("it is written like a path")
        validate_repo_id(name)
    except HFValidationError as error:
        what = "expected a folder, a weight file or a Hub id such as 'owner/name'"
        raise CheckpointError(
            f"{name!r} does not exist and is no Hub id ({error}); {what}. Check its spelling."
        ) from error
    return name


def is_offline() -> bool:
    """Whether HF_HUB_OFFLINE is set, also after huggingface_hub was imported."""
    from huggingface_hub import constants

    return constants.HF_HUB_OFFLINE or os.environ.get("HF_HUB_OFFLINE", "").upper() in ("1", "ON", "YES", "TRUE")


def wanted(files: Sequence[str], patterns: Sequence[str], variant: str | None, weights: bool, name: str) -> list[str]:
    """The files to fetch, by name: small ones by pattern, and the weights of the best format there is."""
    top = [file for file in files if "/" not in file]
    chosen = [file for file in ADAPTER_WEIGHTS if file in top][:1] if weights else []
    if weights and (not chosen or any(file in top for file in candidates(variant))):
        chosen += files_of(choose(top, variant, name), top, variant)
    small = [file for file in files if any(matches(file, pattern) for pattern in patterns)]
    return sorted({*chosen, *(file for file in small if not fnmatch(file, WEIGHT_INDEX))})


def matches(file: str, pattern: str) -> bool:
    """Whether a pattern fits, each part of the path by itself: `*` never crosses a folder."""
    parts, wanted_parts = file.split("/"), pattern.split("/")
    return len(parts) == len(wanted_parts) and all(map(fnmatch, parts, wanted_parts))


def unavailable(name: str, revision: str | None, error: Exception | None) -> CheckpointError:
    """The error for a checkpoint that is neither cached nor reachable, with what to do; no error means offline."""
    at = f" at revision {revision!r}" if revision else ""
    if error is None:
        advice = "Download it once with the network on, pass a local folder, or unset HF_HUB_OFFLINE / local_files_only"
        return CheckpointError(f"{name!r}{at} is not in the local cache and the network is off. {advice}.")
    advice = "Check the name, the revision, your network, and the access token if it is private or gated"
    first = str(error).strip().splitlines()
    reason = f"{type(error).__name__}: {first[0][:200] if first else ''}"
    return CheckpointError(f"{name!r}{at} could not be fetched from the Hub ({reason}). {advice}.")
