"""Generation: from scores to tokens, as pure functions with whole loops in one compiled program.

Names are imported when first used.
"""

import importlib

_HOME = {
    "GenerationConfig": "config",
    "DisjunctiveConstraint": "constraints",
    "PhrasalConstraint": "constraints",
    "transition_scores": "scores",
    "TextIteratorStreamer": "streaming",
    "TextStreamer": "streaming",
    "stream": "streaming",
    "stream_text": "streaming",
    "chain": "transform",
    "Seen": "seen",
    "LogitsTransform": "transform",
    "writer_of": "writer",
}


def __getattr__(name: str) -> object:
    if name not in _HOME:
        raise AttributeError(f"module 'jaxformers.generation' has no attribute {name!r}; it offers {sorted(_HOME)}")
    value = getattr(importlib.import_module(f"jaxformers.generation.{_HOME[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOME})
