"""from_pretrained and save_pretrained: folders and Hub ids to models and back."""

import json
import re
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import jax
from jax.sharding import Mesh

from jaxformers.core.config import Config, read_json
from jaxformers.core.keymap import logical_path
from jaxformers.core.sharding import FSDP, Rules, auto_mesh
from jaxformers.hub.abstract import Path as ParamPath
from jaxformers.hub.abstract import abstract_params, as_dtype
from jaxformers.hub.atomic import staged_folder
from jaxformers.hub.beside import with_head_beside
from jaxformers.hub.carried import carried_entries, read_carried
from jaxformers.hub.checkpoint import open_checkpoint
from jaxformers.hub.compressed import CompressedCheckpoint, take_scheme
from jaxformers.hub.download import resolve
from jaxformers.hub.init import init_params
from jaxformers.hub.layout import relayout
from jaxformers.hub.load import choose_prefix, load_params
from jaxformers.hub.model import Model, above
from jaxformers.hub.progress import byte_bar
from jaxformers.hub.read_quantized import QuantizedReader
from jaxformers.hub.rounded import Rounding, is_head, names_of
from jaxformers.hub.safetensors import Entry, in_order, write_sharded
from jaxformers.hub.save import hf_entries, on_several_processes
from jaxformers.hub.save_quantized import scheme_of
from jaxformers.models import blueprint, family_of, read_config, task_of

M = TypeVar("M")
ADAPTER_CONFIG = "adapter_config.json"  # peft's
HUB_ARGUMENTS = ("revision", "cache_dir", "token", "local_files_only")
AUTO = "auto"


def load_config(source: str | Path, **kwargs: Any) -> Config:
    """Read the config of a folder, a file or a Hub id; other keywords override its fields."""
    hub = {k: kwargs.pop(k) for k in HUB_ARGUMENTS if k in kwargs}
    raw = read_json(resolve(source, patterns=("config.json",), weights=False, **hub))
    return read_config(take_scheme(raw)[0], **kwargs)


def rounding_for(source: str | Path, kind: str | None = None) -> Rounding | None:
    """How a checkpoint's matrices are quantised, by its config, or as if they were, to `kind`; None: they are not."""
    if kind is not None:
        return Rounding(kind)
    scheme = take_scheme(read_json(resolve(source, patterns=("config.json",), weights=False)))[1]
    return None if scheme is None else Rounding.of_scheme(scheme)


def load_pretrained(
    cls: Callable[..., M],
    source: str | Path,
    *,
    task: str | None = AUTO,
    config: Config | None = None,
    mesh: Mesh | None = None,
    rules: Rules = FSDP,
    dtype: Any = None,
    compute_dtype: Any = None,
    scan: bool = False,
    remat: str | None = None,
    key: jax.Array | None = None,
    variant: str | None = None,
    progress: bool | None = None,
    with_adapter: bool = True,
    quantize: str | Rounding | None = None,
    **kwargs: Any,
) -> M:
    """Load a checkpoint into a Model, each device reading only its shard.

    A folder with peft's adapter_config.json gives its base model with the adapter, unless with_adapter is False.

    dtype: of the parameters, None keeps the checkpoint's. compute_dtype: they are cast to it in every call. scan: stack
    equal layers (training). key: to initialise a head that the checkpoint lacks. quantize: "int8", "int4", "fp8" or a
    `Rounding`: matrices are rounded while they are read, as `jaxformers.quantize` does it, and never lie in memory as
    they were. Further keywords are the Hub's (revision, cache_dir, token, local_files_only) or override config fields
    (num_labels=3).
    Raises CheckpointError and ConfigError.
    """
    hub = {k: kwargs.pop(k) for k in HUB_ARGUMENTS if k in kwargs}
    folder = resolve(source, variant=variant, **hub)
    if with_adapter and (folder / ADAPTER_CONFIG).exists():
        given: dict[str, Any] = dict(task=task, config=config, mesh=mesh, rules=rules, dtype=dtype, scan=scan)
        given |= dict(compute_dtype=compute_dtype, remat=remat, key=key, variant=variant, progress=progress)
        given |= dict(quantize=quantize)
        return above("adapters.load").load_with_base(partial(load_pretrained, cls), folder, hub, **given, **kwargs)
    raw, scheme = read_scheme(folder if folder.is_dir() else folder.parent, needed=config is None)
    if config is None:
        found = read_config(raw, **kwargs)
    else:
        found = config.replace(**kwargs) if kwargs else config
    tensors: Any = open_checkpoint(folder, variant=variant)
    if (adapt := family_of(found.model_type).adapt) is not None:
        found = adapt(found, tensors)
    mesh = None if mesh is None else auto_mesh(mesh, rules)
    task = task_of(found) if task == AUTO else task
    found, tensors = with_head_beside(found, task, folder, tensors)
    plan = blueprint(found, task)
    module = relayout(plan.module, scan=scan, remat=remat)
    boxed = abstract_params(module)
    tensors = tensors if scheme is None else CompressedCheckpoint(tensors)
    rounding = Rounding(quantize) if isinstance(quantize, str) else quantize
    chosen = {} if rounding is None else rounding.chosen(boxed, plan)

    def fresh(paths: list[ParamPath]) -> dict[ParamPath, jax.Array]:
        seed = jax.random.key(0) if key is None else key
        return init_params(
            module, boxed, plan.family, found, seed, mesh=mesh, rules=rules, dtype=as_dtype(dtype), only=paths
        )

    prefix = choose_prefix(plan.prefixes, plan.base_keys, tensors)
    with byte_bar(f"loading {found.model_type}", tensors.nbytes, progress) as advance:
        params = load_params(
            plan.keys(prefix),
            boxed,
            tensors,
            prefix=prefix,
            mesh=mesh,
            rules=rules,
            dtype=as_dtype(dtype),
            fresh=fresh,
            keyed=key is not None,
            may_be_fresh=lambda path: is_head(path, plan),
            is_constant=lambda path: any(re.search(p, logical_path(path)[0]) for p in plan.family.constants),
            progress=advance,
            quantized=QuantizedReader(tensors, names_of(boxed), rounding, chosen, mesh, rules, as_dtype(dtype)),
        )
    model = cls(
        params,
        module,
        found,
        task,
        mesh=mesh,
        rules=rules,
        compute_dtype=as_dtype(compute_dtype),
        carried=read_carried(tensors, prefix, plan.prefix),
        generation_config=read_generation_config(folder),
    )
    if isinstance(model, Model):
        model.source = str(source)
    return model


def read_scheme(folder: Path, needed: bool) -> tuple[dict[str, Any], dict[str, Any] | None]:
    """A folder's config.json, and apart from it how its weights are quantised; needed: refuse a folder without one."""
    if not needed and folder.is_dir() and not (folder / "config.json").exists():
        return {}, None
    return take_scheme(read_json(folder))


def read_generation_config(folder: Path) -> Any:
    """How the checkpoint's makers generate with it; None where no file says so."""
    file = (folder if folder.is_dir() else folder.parent) / "generation_config.json"
    if not file.exists():
        return None
    return above("generation.config").GenerationConfig.from_dict(read_json(file))


def save_pretrained(model: Any, path: str | Path, *, shard_size: str = "5GB", progress: bool | None = None) -> None:
    """Write config.json and safetensors as transformers would, aside first: a failure leaves the old folder whole.

    Of a model with an adapter the adapter alone is written, in peft's files. A model that lies on several processes is
    saved by all of them: the first one writes, one gathered tensor at a time.
    """
    if model.adapters is not None:
        return above("adapters.save").save_adapter(model, path)
    plan = model.blueprint
    entries = hf_entries(plan.keys(), model.params) | carried_entries(model.carried)
    # Floats of 8 bits are what quantised matrices are stored as, and not what the model computes in.
    dtypes = {str(e.dtype) for e in entries.values() if e.dtype.kind in "fV" and e.dtype.itemsize > 1}
    config = model.config.replace(
        architectures=(plan.architecture,), dtype=dtypes.pop() if len(dtypes) == 1 else model.config.dtype
    )
    if on_several_processes(model.params):
        from jax.experimental import multihost_utils

        if jax.process_index() > 0:
            for entry in in_order(entries, shard_size):
                entry.materialise()
        else:
            write_folder(model, config, entries, path, shard_size=shard_size, progress=progress)
        multihost_utils.sync_global_devices(f"saved {path}")
    else:
        write_folder(model, config, entries, path, shard_size=shard_size, progress=progress)


def write_folder(
    model: Any, config: Config, entries: dict[str, Entry], path: str | Path, *, shard_size: str, progress: bool | None
) -> None:
    """All the files, by one process."""
    total = sum(e.nbytes for e in entries.values())
    with staged_folder(path) as folder, byte_bar(f"saving {config.model_type}", total, progress) as advance:
        written = config.to_json() | scheme_of(model)
        text = json.dumps(written, indent=2, sort_keys=True, ensure_ascii=False) + "\n"
        (Path(folder) / "config.json").write_text(text, encoding="utf-8")
        if model.task is not None and model.generation_config is not None:
            model.generation_config.save_pretrained(folder)
        write_sharded(folder, entries, shard_size=shard_size, progress=advance)
