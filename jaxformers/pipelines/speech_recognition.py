"""Speech recognition: what is said in a sound, by CTC models and by Whisper, in one piece or in overlapping ones."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from jaxformers.pipelines.audio_rows import AudioPipeline
from jaxformers.pipelines.rows import Padding, Row
from jaxformers.pipelines.writing import WritingOptions, WritingPipeline
from jaxformers.processing.audio.chunks import Chunking, Stride, iter_chunks, merge_frames, rescale_stride
from jaxformers.processing.audio.ctc import offsets_to_seconds, samples_per_frame

log = logging.getLogger(__name__)
FEATURES = ("input_values", "input_features", "attention_mask")


@dataclass(frozen=True)
class SpeechOptions(WritingOptions):
    """chunk_length_s: cut longer sounds into pieces that overlap by stride_length_s. Further words go to generate."""

    chunk_length_s: float = 0
    stride_length_s: float | Sequence[float] | None = None
    return_timestamps: bool | str | None = None
    return_language: bool | None = None
    ignore_warning: bool = False


@dataclass(frozen=True)
class Piece:
    """A piece of a sound: its samples, its stride in samples if it is one of several, and its length in frames."""

    samples: int
    stride: Stride | None = None


class SpeechRecognition(AudioPipeline, WritingPipeline):
    """A sound to {"text"}, with return_timestamps to {"text", "chunks": [{"text", "timestamp"}]}."""

    task = "automatic-speech-recognition"
    heads = ("CTC", "SpeechSeq2Seq")
    parts = ("tokenizer", "feature_extractor")
    options = SpeechOptions
    usual = {"max_new_tokens": 256, "num_beams": 5}

    @property
    def hears_frames(self) -> bool:
        """Whether this is a CTC model, which gives a letter for each frame."""
        return self.model.task == "CTC"

    @property
    def frame(self) -> int:
        """Samples of a CTC model's frame."""
        return samples_per_frame(self.model.config.conv_stride) if self.hears_frames else 1

    @property
    def padding(self) -> Padding:
        """Waves go together where the model reads a mask; without one only equal lengths do, as padding is heard."""
        if not self.hears_frames:
            return Padding({}, bucketed=False)
        masked = bool(getattr(self.feature_extractor, "return_attention_mask", False))
        return Padding({"input_values": 0, "attention_mask": 0}, exact=not masked)

    def prepare(self, item: Any, options: SpeechOptions) -> list[Row]:
        self.check_timestamps(options)
        stride = None
        if isinstance(item, Mapping) and "stride" in item:
            stride = item["stride"]
            item = {k: v for k, v in item.items() if k != "stride"}
        wave = self.wave(item)
        if stride is not None:
            return [self.row(wave, self.given_stride(wave, item, stride))]
        if not options.chunk_length_s:
            long = not self.hears_frames and len(wave) > self.feature_extractor.n_samples
            whole = {"truncation": False, "padding": "longest"} if long else {}
            return [self.row(wave, None, **whole)]
        if not self.hears_frames and not options.ignore_warning:
            log.warning(
                "chunk_length_s cuts sentences where pieces meet; without it Whisper goes through a long sound window "
                "by window, which is exact. ignore_warning=True silences this"
            )
        rate = self.feature_extractor.sampling_rate
        chunking = Chunking.of_seconds(options.chunk_length_s, options.stride_length_s, rate, self.frame)
        return [self.row(wave[c.start : c.start + chunking.length], c.stride) for c in iter_chunks(len(wave), chunking)]

    def given_stride(self, wave: np.ndarray, item: Any, stride: Sequence[int]) -> Stride:
        """A stride that came with a sound, in samples of the model's rate."""
        ratio = self.feature_extractor.sampling_rate / item["sampling_rate"]
        left, right = (int(round(x * ratio)) for x in stride)
        if left + right > len(wave):
            raise ValueError(f"the stride {tuple(stride)} is longer than the sound")
        return len(wave), left, right

    def row(self, wave: np.ndarray, stride: Stride | None, **chosen: Any) -> Row:
        """One piece as the model reads it."""
        if not len(wave):
            raise ValueError("the sound is empty")
        rate = self.feature_extractor.sampling_rate
        if not self.hears_frames:
            chosen = {"return_attention_mask": True, **chosen}
        given = self.feature_extractor(wave, sampling_rate=rate, return_tensors="np", **chosen)
        return Row({k: np.asarray(v)[0] for k, v in given.items() if k in FEATURES}, Piece(len(wave), stride))

    def check_timestamps(self, options: SpeechOptions) -> None:
        """Raises ValueError for times that the kind of model cannot give."""
        asked = options.return_timestamps
        if options.return_language and self.hears_frames:
            raise ValueError("return_language is for Whisper; a CTC model does not say the language")
        if not asked:
            return
        if self.hears_frames and asked not in ("char", "word"):
            raise ValueError(f"return_timestamps is {asked!r}; a CTC model takes 'char' or 'word'")
        if not self.hears_frames and asked == "char":
            raise ValueError("return_timestamps is 'char'; Whisper takes True for phrases or 'word'")

    def forward(self, batch: dict[str, Any], options: SpeechOptions) -> Mapping[str, Any]:
        if self.hears_frames:
            return {"tokens": self.model(**batch).logits.argmax(-1)}
        chosen = self.generate_options(options)
        asked = options.return_timestamps or self.model.generation_config.extra.get("return_timestamps")
        if asked:
            chosen["return_timestamps"] = True
        if asked == "word":
            chosen |= {"return_token_timestamps": True, "return_segments": True}
        if options.return_language:
            chosen["return_segments"] = True
        out = self.model.generate(**batch, **chosen)
        if not isinstance(out, dict):
            return {"tokens": np.asarray(out)}
        found = {"tokens": np.asarray(out["sequences"])}
        if asked == "word":
            # Rows differ in length: they stay objects until a row is taken.
            times = [np.concatenate([np.asarray(s["token_timestamps"]) for s in row]) for row in out["segments"]]
            found["token_timestamps"] = np.array([*times, None], dtype=object)[:-1]
        if options.return_language:
            found["language"] = np.array([self.language_id(row) for row in out["segments"]])
        return found

    def language_id(self, segments: Sequence[Mapping[str, Any]]) -> int:
        """The token of the language that was heard, -1 when there is none."""
        if not segments:
            return -1
        result = segments[0]["result"]
        tokens = np.asarray(result["sequences"] if isinstance(result, Mapping) else result).ravel()
        known = set((self.model.generation_config.extra.get("lang_to_id") or {}).values())
        return next((int(t) for t in tokens if int(t) in known), -1)

    def finish(self, item: Any, rows: list[Row], outputs: list[dict[str, Any]], options: SpeechOptions) -> Any:
        text, found = (self.letters if self.hears_frames else self.words)(rows, outputs, options)
        known = {"array", "raw", "sampling_rate", "path", "bytes", "url", "stride"}
        extra = {k: [v] for k, v in item.items() if k not in known} if isinstance(item, Mapping) else {}
        return {"text": text, **found, **extra}

    def letters(self, rows: list[Row], outputs: list[dict[str, Any]], options: SpeechOptions) -> tuple[str, dict]:
        """What a CTC model's frames say."""
        pieces, strides = [], []
        for row, output in zip(rows, outputs, strict=True):
            piece: Piece = row.note
            tokens = np.asarray(output["tokens"])[: self.frames(row)]
            stride = (len(tokens), 0, 0) if piece.stride is None else rescale_stride(piece.stride, 1 / self.frame)
            pieces.append(tokens)
            strides.append(stride)
        tokens = merge_frames(pieces, strides)
        text = self.tokenizer.decode(tokens, skip_special_tokens=False)
        if not options.return_timestamps:
            return text, {}
        kind = str(options.return_timestamps)
        heard = self.tokenizer.decode(tokens, skip_special_tokens=False, **{f"output_{kind}_offsets": True})
        rate = self.feature_extractor.sampling_rate
        return text, {"chunks": offsets_to_seconds(heard[f"{kind}_offsets"], self.frame, rate)}

    def frames(self, row: Row) -> int:
        """How many frames the model makes of a piece, padding left out."""
        length = len(row.inputs["input_values"])
        c = self.model.config
        for width, step in zip(c.conv_kernel, c.conv_stride, strict=True):
            length = (length - width) // step + 1
        for _ in range(c.num_adapter_layers if c.add_adapter else 0):
            length = (length - 1) // c.adapter_stride + 1
        return length

    def words(self, rows: list[Row], outputs: list[dict[str, Any]], options: SpeechOptions) -> tuple[str, dict]:
        """What Whisper wrote about every piece, joined."""
        rate, pad = self.feature_extractor.sampling_rate, self.model.generation_config.pad_token_id
        asked = options.return_timestamps or self.model.generation_config.extra.get("return_timestamps")
        heard = []
        for row, output in zip(rows, outputs, strict=True):
            tokens = np.asarray(output["tokens"])
            real = np.flatnonzero(tokens != pad)
            tokens = tokens[: real[-1] + 1] if len(real) else tokens[:0]
            one: dict[str, Any] = {"tokens": tokens[None]}
            if "token_timestamps" in output:
                one["token_timestamps"] = np.asarray(output["token_timestamps"].item(), np.float32)[None]
            if int(output.get("language", -1)) >= 0:
                one["tokens"] = np.concatenate([[[int(output["language"])]], one["tokens"]], axis=1)
            if row.note.stride is not None:
                one["stride"] = tuple(x / rate for x in row.note.stride)
            heard.append(one)
        return self.tokenizer.decode_asr(
            heard,
            return_timestamps=asked,
            return_language=options.return_language,
            time_precision=self.feature_extractor.chunk_length / self.model.config.max_source_positions,
        )
