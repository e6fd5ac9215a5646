"""Parameters that are trained and saved whole beside an adapter: modules by name, and biases."""

import re

from jaxformers.adapters.targets import targets_of
from jaxformers.core.adapter import Site
from jaxformers.core.errors import AdapterError
from jaxformers.core.keymap import KeyMap, layer_names
from jaxformers.hub.abstract import flatten
from jaxformers.hub.model import Model


def saved_paths(
    model: Model, modules: tuple[str, ...], bias: str = "none", sites: tuple[Site, ...] = (), keys: KeyMap | None = None
) -> dict[str, str]:
    """{our logical path: transformers' name} of every parameter that is trained whole.

    modules: names of modules or ends of them. bias: "none", "lora_only" for those of the sites, or "all".
    """
    keys = model.blueprint.keys() if keys is None else keys
    own = {path for site in sites for path in site.paths}
    out: dict[str, str] = {}
    for path in flatten(model.params):
        for name in layer_names(path):
            _, (key, *_) = keys.find(name)
            module, _, leaf = key.rpartition(".")
            spellings = (module, model.blueprint.module_name(module))
            by_name = any(inside(wanted, spelling) for wanted in modules for spelling in spellings)
            is_bias = leaf == "bias" and (bias == "all" or bias == "lora_only" and name.rpartition(".")[0] in own)
            if by_name or is_bias:
                out[name] = f"{spellings[1]}.{leaf}"
    return out


def check_saved(model: Model, modules: tuple[str, ...]) -> None:
    """Raise AdapterError for a name that no module has, and for a table that cannot be trained for the words alone."""
    tied = {path for target in targets_of(model).values() if target.tied for path in target.paths} if modules else ()
    for name in modules:
        found = saved_paths(model, (name,))
        if not found:
            tops = sorted({key.rpartition(".")[0] for key in saved_paths(model, ("",)).values()})
            raise AdapterError(f"modules_to_save: no module is called {name!r}; there are {', '.join(tops[:8])}, ...")
        if shared := [path for path in found if path.rpartition(".")[0] in tied]:
            raise AdapterError(
                f"modules_to_save: {found[shared[0]]} is also the language-model head's matrix, and peft would train a "
                "copy of it for the words alone. Give it a low-rank adapter instead, or untie the head first"
            )


def inside(wanted: str, module: str) -> bool:
    """Whether a module is the one of this name, or in it."""
    return not wanted or re.match(rf"(^|.*\.){re.escape(wanted)}($|\..*)", module) is not None
