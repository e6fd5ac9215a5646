"""How fast are 8 sounds of 30 seconds made whisper's features, against transformers' extractor?

transformers computes in float32 with torch, or with numpy where torch is missing; we in float64 with numpy, and on
jax's default device. Differences are from transformers' numpy path, which is the definition.
"""

import argparse
from collections.abc import Callable
from typing import Any

import numpy as np
from measure import refuse_when_busy, save, side_by_side, summary, table

BATCH, SECONDS, RATE = 8, 30, 16000
SIZES = {"80 mels": 80, "128 mels": 128}
THEIRS = "transformers"


def sounds() -> np.ndarray:
    """Noise whose colour changes, over tones."""
    random = np.random.default_rng(0)
    t = np.arange(SECONDS * RATE) / RATE
    tones = np.stack([0.3 * np.sin(2 * np.pi * (200 + 90 * i) * t * (1 + 0.1 * np.sin(t))) for i in range(BATCH)])
    return (tones + 0.02 * random.standard_normal(tones.shape)).astype(np.float32)


def case(mels: int) -> tuple[dict[str, Callable[[], Any]], Callable[[], dict[str, float]]]:
    """What is timed, by name, and a function that gives the largest differences."""
    import jax
    import transformers

    from jaxformers.ops.mel import log_mel
    from jaxformers.processing.audio.whisper_features import WhisperFeatureExtractor

    ours, theirs = WhisperFeatureExtractor(feature_size=mels), transformers.WhisperFeatureExtractor(feature_size=mels)
    waves = sounds()
    rows, batch = list(waves), jax.device_put(waves)
    call = dict(sampling_rate=RATE, return_tensors="np")
    cases = {
        THEIRS: lambda: theirs(rows, **call)["input_features"],
        "transformers again": lambda: theirs(rows, **call)["input_features"],
        "transformers, numpy": lambda: theirs._np_extract_fbank_features(rows, "cpu"),
        "jaxformers": lambda: ours(rows, **call)["input_features"],
        "device": lambda: log_mel(batch, mels=mels).block_until_ready(),
    }

    def differences() -> dict[str, float]:
        wanted = cases["transformers, numpy"]()
        names = (THEIRS, "jaxformers", "device")
        return {name: float(np.abs(np.asarray(cases[name]()) - wanted).max()) for name in names}

    return cases, differences


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--anyway", action="store_true", help="measure on a busy machine; nothing is saved")
    args = parser.parse_args()
    if not args.anyway:
        refuse_when_busy()
    import jax

    rows = []
    for name, mels in SIZES.items():
        cases, differences = case(mels)
        times = summary(side_by_side(cases, rounds=5, least=0.2), THEIRS)
        rows.append({"case": name, "device": jax.devices()[0].device_kind, "times": times, "off": differences()})
    if not args.anyway:
        refuse_when_busy()  # what came while we measured spoils it as well
        save("preprocess_audio", "python benchmarks/preprocess_audio.py", rows)
    names = ("transformers again", "transformers, numpy", "jaxformers", "device")
    lines = []
    for row in rows:
        ratios = [f"{row['times'][name]['ratio']:.2f}" for name in names]
        off = [f"{row['off'][name]:.1g}" for name in (THEIRS, "jaxformers", "device")]
        lines.append([row["case"], f"{row['times'][THEIRS]['median_ms']:.0f}", *ratios, *off])
    header = ["case", "transformers ms", "A/A", "its numpy", "jaxformers", "device", "off: its torch", "ours", "device"]
    print(table(header, lines))


if __name__ == "__main__":
    main()
