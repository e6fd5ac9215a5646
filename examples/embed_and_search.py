"""Find the sentence nearest in meaning to a question.

    python examples/embed_and_search.py ./all-MiniLM-L6-v2 "how do I open an archive?"

Without a folder it uses the MiniLM weights that `make demo` installs.
"""

import sys

import numpy as np

import jaxformers as jf
from jaxformers.demos.search import weights

TEXTS = [
    "zipfile reads and writes ZIP archives.",
    "difflib compares sequences and writes the differences.",
    "random picks numbers, shuffles lists and draws samples.",
    "timeit measures how long small pieces of code take.",
]


def main(folder: str | None = None, question: str = "how do I open a zip file?") -> list[str]:
    """Print the texts, the nearest first, and return them in that order."""
    embedder = jf.Embedder.from_pretrained(folder or weights())
    vectors = embedder.encode(TEXTS)  # [N,D], of length one
    scores = np.asarray(vectors @ embedder.encode([question])[0])
    order = [int(n) for n in np.argsort(-scores)]
    print(question)
    for n in order:
        print(f"{scores[n]:6.3f}  {TEXTS[n]}")
    return [TEXTS[n] for n in order]


if __name__ == "__main__":
    main(*sys.argv[1:])
