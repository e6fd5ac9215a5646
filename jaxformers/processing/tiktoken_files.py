"""tiktoken files: lines of a token in base64 and its rank, made into a byte-level BPE."""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Mapping
from pathlib import Path

from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, processors

from jaxformers.core.errors import CheckpointError
from jaxformers.processing.tokenizer_pipelines import QWEN_SPLIT

GPT2_SPLIT = r"'(?:[sdmt]|ll|ve|re)| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
LLAMA3_SPLIT = QWEN_SPLIT.replace(r"|\p{N}|", r"|\p{N}{1,3}|")
_CASED = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]", r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
_ENDING = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)?"
O200K_SPLIT = "|".join(
    [
        rf"[^\r\n\p{{L}}\p{{N}}]?{_CASED[0]}*{_CASED[1]}+{_ENDING}",
        rf"[^\r\n\p{{L}}\p{{N}}]?{_CASED[0]}+{_CASED[1]}*{_ENDING}",
        r"\p{N}{1,3}",
        r" ?[^\s\p{L}\p{N}]+[\r\n/]*",
        r"\s*[\r\n]+",
        r"\s+(?!\S)",
        r"\s+",
    ]
)
# How the model types whose vocabulary came as such a file cut text; transformers has Llama 3's expression alone.
SPLITS: Mapping[str, str] = {
    **dict.fromkeys(("gpt2", "whisper", "opt"), GPT2_SPLIT),
    **dict.fromkeys(("qwen", "qwen2", "qwen3", "qwen2_moe", "qwen3_moe"), QWEN_SPLIT),
    "gpt_oss": O200K_SPLIT,
}
LINE = re.compile(rb"[A-Za-z0-9+/]+=* \d+")


def is_tiktoken(file: Path) -> bool:
    """Whether the file's first line is a token in base64 and a rank."""
    with file.open("rb") as stream:
        return LINE.fullmatch(stream.readline(4096).strip()) is not None


def read_ranks(file: Path) -> dict[bytes, int]:
    """Return the rank of every token. Raises CheckpointError on a line that is none."""
    ranks: dict[bytes, int] = {}
    for number, line in enumerate(file.read_bytes().splitlines(), 1):
        if not line.strip():
            continue
        try:
            token, rank = line.split()
            ranks[base64.b64decode(token, validate=True)] = int(rank)
        except (ValueError, binascii.Error) as error:
            raise CheckpointError(
                f"{file}, line {number}: expected a token in base64 and its rank, found {line[:60]!r}"
            ) from error
    single = sum(len(token) == 1 for token in ranks)
    if single != 256:
        raise CheckpointError(
            f"{file} has ranks for {single} of the 256 bytes: the file is cut off or is no tiktoken file"
        )
    return ranks


def tiktoken_backend(file: Path, model_type: str | None) -> Tokenizer:
    """Build the tokenizer of a tiktoken file; the model type decides how text is cut into words."""
    ranks = read_ranks(file)
    letters = _byte_letters()
    names = {token: "".join(letters[byte] for byte in token) for token in ranks}
    merges = []
    for token in sorted(ranks, key=ranks.__getitem__):
        splits = [(token[:i], token[i:]) for i in range(1, len(token))]
        known = [(left, right) for left, right in splits if left in ranks and right in ranks]
        known.sort(key=lambda pair: (ranks[pair[0]], ranks[pair[1]]))
        merges += [(names[left], names[right]) for left, right in known]
    vocabulary = {names[token]: rank for token, rank in ranks.items()}
    backend = Tokenizer(models.BPE(vocabulary, merges, fuse_unk=False, ignore_merges=True))
    split = Regex(SPLITS.get(model_type or "", LLAMA3_SPLIT))
    backend.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(split, behavior="isolated", invert=False),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    backend.decoder = decoders.ByteLevel()
    backend.post_processor = processors.ByteLevel(trim_offsets=False)
    return backend


def _byte_letters() -> list[str]:
    """Return the letter that stands for each byte in byte-level vocabularies: itself if it prints, or from U+0100."""
    printing = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = iter(range(0x100, 0x200))
    shown = set(printing)
    return [chr(byte) if byte in shown else chr(next(others)) for byte in range(256)]
