"""Backends from SentencePiece models: vocabulary and merges as transformers takes them, and the plain pipeline."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers

from jaxformers.core.errors import CheckpointError
from jaxformers.processing.charsmap import check_charsmap
from jaxformers.processing.sentencepiece import (
    CONTROL,
    UNIGRAM,
    USER_DEFINED,
    SentencePieceModel,
    read_sentencepiece,
)

Vocabulary = list[tuple[str, float]]  # pieces in the order of their ids, with their scores


def load_sentencepiece(file: Path) -> SentencePieceModel:
    """Read and check a `.model` file. Raises CheckpointError when it is damaged."""
    try:
        model = read_sentencepiece(file.read_bytes())
        if model.charsmap:
            check_charsmap(model.charsmap)
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{file} is no SentencePiece model that can be read: {error}") from error
    return model


def vocabulary_of(model: SentencePieceModel) -> Vocabulary:
    """Return the pieces with their scores."""
    return [(piece.text, piece.score) for piece in model.pieces]


def own_tokens(model: SentencePieceModel) -> list[AddedToken]:
    """Return control symbols, which are special, and user-defined symbols, which are not."""
    return [
        AddedToken(piece.text, normalized=False, special=piece.kind == CONTROL)
        for piece in model.pieces
        if piece.kind in (CONTROL, USER_DEFINED)
    ]


def merges_of(ids: Mapping[str, int]) -> list[tuple[str, str]]:
    """Return every way to make a piece of two others, in the order of the ids and of the left part's length."""
    return [
        (piece[:i], piece[i:])
        for piece in sorted(ids, key=ids.__getitem__)
        for i in range(1, len(piece))
        if piece[:i] in ids and piece[i:] in ids
    ]


def bare_backend(kind: str, model: SentencePieceModel, vocabulary: Vocabulary) -> Tokenizer:
    """Return a backend of the given kind, "BPE" or "Unigram", with only the model's table of replacements."""
    if kind == "BPE":
        ids = {piece: index for index, (piece, _) in enumerate(vocabulary)}
        backend = Tokenizer(models.BPE(ids, merges_of(ids)))
    else:
        backend = Tokenizer(models.Unigram(vocabulary, unk_id=model.unk_id, byte_fallback=False))
    if model.charsmap:
        backend.normalizer = normalizers.Precompiled(model.charsmap)
    return backend


def plain_backend(model: SentencePieceModel, renamed: Mapping[int, str]) -> Tokenizer:
    """Return the backend of classes without rules of their own; `renamed` gives placeholders their tokens."""
    vocabulary = vocabulary_of(model)
    if model.algorithm == UNIGRAM:
        backend = Tokenizer(models.Unigram(vocabulary, unk_id=model.unk_id, byte_fallback=model.byte_fallback))
    else:
        ids = {piece: index for index, (piece, _) in enumerate(vocabulary)}
        merges = merges_of(ids)
        gone = _rename(ids, renamed)
        backend = Tokenizer(
            models.BPE(
                ids,
                [pair for pair in merges if gone.isdisjoint((*pair, "".join(pair)))],
                unk_token=model.unk_piece,
                fuse_unk=True,
                byte_fallback=model.byte_fallback,
            )
        )
    steps: list = [normalizers.Replace(" ", "▁")]
    if model.charsmap:
        steps.insert(0, normalizers.Precompiled(model.charsmap))
    backend.normalizer = normalizers.Sequence(steps)
    blanks = decoders.Replace("▁", " ")
    rest: Iterable = (decoders.ByteFallback(), decoders.Fuse()) if model.byte_fallback else ()
    backend.decoder = decoders.Sequence([blanks, *rest])
    return backend


def _rename(ids: dict[str, int], renamed: Mapping[int, str]) -> set[str]:
    """Give ids the tokens that the checkpoint put there; returns the pieces that are gone."""
    pieces = {index: piece for piece, index in ids.items()}
    gone = set()
    for index, token in renamed.items():
        piece = pieces.get(index)
        if piece and piece != token and token not in ids:
            ids[token] = ids.pop(piece)
            pieces[index] = token
            gone.add(piece)
    return gone
