"""Train steps in bfloat16 on one GPU: tokens/s, share of the peak (MFU) and memory, against torch and transformers.

python benchmarks/gpu/train.py [--output results/gpu_train.json] [--only 1B,...] [--tiny]

Every side computes in bfloat16 with float32 weights and moments (torch by autocast), clips by the global norm and takes
fused AdamW; it loads the same weights in a process of its own, so that none keeps another's memory. Losses of the first
step must agree. The two sides that matter run twice, in turning order: the A/A pair. FLOPs are counted once, in our
program, and attention counts whole. --tiny: small models on the CPU, for a try.
"""

import argparse
import json
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from measure import hardware, in_own_process, table
from train_sides import CLIP, DECAY, RATE, SMALL, Case, batch_of, write

AGREE = 0.02  # bfloat16 has eight bits
REMAT = ("none", "save:qkv,context", "full")  # tried in this order until one fits
LLAMA_1B = dict(
    vocab_size=128256, hidden_size=2048, intermediate_size=8192, num_hidden_layers=16, num_attention_heads=32,
    num_key_value_heads=8, head_dim=64, max_position_embeddings=8192, tie_word_embeddings=True,
)  # fmt: skip
GPT2 = dict(resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0)
BERT = dict(hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0)
CASES = {
    "gpt2 124M, 16 x 1024": Case("GPT2LMHeadModel", GPT2, 16, 1024),
    "llama 1B, 4 x 2048": Case("LlamaForCausalLM", LLAMA_1B, 4, 2048),
    "bert-base, 32 x 512": Case("BertForMaskedLM", BERT, 32, 512, 0.15),
}
SIDES = ("torch sdpa", "jaxformers", "torch eager", "Trainer", "torch sdpa again", "jaxformers again")


def tiny(case: Case) -> Case:
    """The case made small."""
    sizes = SMALL | {"vocab_size": 500, "num_key_value_heads": 2, "head_dim": 32}
    if "GPT2" in case.cls:
        sizes = dict(n_embd=64, n_layer=2, n_head=2, vocab_size=500)
    return replace(case, options=case.options | sizes, rows=2, tokens=64)


def timed(step: Callable[[], Any], wait: Callable[[], Any], steps: int) -> list[float]:
    """Seconds of a step, in three runs of some steps that are waited for at their end."""
    times = []
    for _ in range(3):
        start = time.perf_counter()
        for _ in range(steps):
            step()
        wait()
        times.append((time.perf_counter() - start) / steps)
    return times


def torch_model(case: Case, folder: str, device: str, attention: str) -> Any:
    """The module in float32, on the device, in training."""
    import torch
    import transformers

    torch.backends.cuda.matmul.allow_tf32 = True
    transformers.logging.disable_progress_bar()
    kind = getattr(transformers, case.cls)
    return kind.from_pretrained(folder, attn_implementation=attention).to(device).train()


def torch_side(case: Case, folder: str, device: str, steps: int, attention: str) -> dict:
    """A loop of torch's own: autocast, fused AdamW."""
    import torch

    model = torch_model(case, folder, device, attention)
    optimizer = torch.optim.AdamW(model.parameters(), lr=RATE, weight_decay=DECAY, fused=True)
    tensors = {name: torch.tensor(value, device=device) for name, value in batch_of(case).items()}

    def step() -> Any:
        optimizer.zero_grad(set_to_none=True)
        with torch.autocast(device, torch.bfloat16):
            loss = model(**tensors).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), CLIP)
        optimizer.step()
        return loss.detach()

    start = time.perf_counter()
    first = float(step())
    begun = time.perf_counter() - start
    wait = torch.cuda.synchronize if device == "cuda" else int
    step()
    seconds = timed(step, wait, steps)
    return {"loss": first, "first_s": begun, "seconds": seconds, "peak_bytes": torch_peak(device)}


def torch_peak(device: str) -> int | None:
    """Bytes that torch's allocator held at most."""
    import torch

    return torch.cuda.max_memory_reserved() if device == "cuda" else None


def trainer_side(case: Case, folder: str, device: str, steps: int) -> dict:
    """transformers' Trainer, logging and saving nothing; its clock runs from step to step."""
    import torch
    import transformers

    model = torch_model(case, folder, device, "sdpa")
    batch = {name: torch.tensor(value) for name, value in batch_of(case).items()}
    rows = [{name: value[n] for name, value in batch.items()} for n in range(case.rows)]
    warm, ends = 3, []

    class Clock(transformers.TrainerCallback):
        def on_step_end(self, args, state, control, **_):
            if (state.global_step - warm) % steps == 0 and state.global_step >= warm:
                if device == "cuda":
                    torch.cuda.synchronize()
                ends.append(time.perf_counter())

    with tempfile.TemporaryDirectory() as home:
        args = transformers.TrainingArguments(
            home, bf16=True, per_device_train_batch_size=case.rows, max_steps=warm + 3 * steps, learning_rate=RATE,
            weight_decay=DECAY, max_grad_norm=CLIP, optim="adamw_torch_fused", lr_scheduler_type="constant",
            logging_strategy="no", save_strategy="no", report_to="none", disable_tqdm=True, use_cpu=device == "cpu",
        )  # fmt: skip
        data = rows * args.max_steps
        trainer = transformers.Trainer(model, args, train_dataset=data, callbacks=[Clock()])
        start = time.perf_counter()
        trainer.train()
    seconds = [(b - a) / steps for a, b in zip(ends, ends[1:], strict=False)]
    return {"loss": None, "first_s": ends[0] - start, "seconds": seconds, "peak_bytes": torch_peak(device)}


def our_side(case: Case, folder: str, device: str, steps: int) -> dict:
    """Our step, with as little computed twice as memory allows."""
    from jaxformers.training.memory import out_of_memory

    for remat in REMAT:
        try:
            return {**our_run(case, folder, steps, None if remat == "none" else remat), "remat": remat}
        except Exception as error:
            if not out_of_memory(error) or remat == REMAT[-1]:
                raise
    raise AssertionError("not reached")


def our_run(case: Case, folder: str, steps: int, remat: str | None) -> dict:
    """Our step with this policy; the FLOPs of a step and the device's peak come with it."""
    import jax

    import jaxformers as jf
    from jaxformers.training.flops import count_flops, peak_flops, train_flops

    task = "MaskedLM" if "MaskedLM" in case.cls else "CausalLM"
    model = getattr(jf, f"AutoModelFor{task}").from_pretrained(Path(folder))
    loss = jf.loss_for(model)
    optimizer = jf.optimizer("adamw", RATE, weight_decay=DECAY, decay=None)
    train = jf.make_train_step(loss, optimizer, max_grad_norm=CLIP, dtype="bfloat16", remat=remat)
    batch = jax.device_put(batch_of(case))
    forward = count_flops(
        lambda model, batch: loss(model, batch).total, model.replace(rules=(("counted", None),)), batch
    )
    state = train.init(model, jax.random.key(0))
    del model
    metrics: Any = None

    def step() -> Any:
        nonlocal state, metrics
        state, metrics = train(state, batch)
        return metrics["loss"]

    start = time.perf_counter()
    first = float(step())
    begun = time.perf_counter() - start
    float(step())
    seconds = timed(step, lambda: jax.block_until_ready((state, metrics)), steps)
    memory = jax.devices()[0].memory_stats() or {}
    found = {"loss": first, "first_s": begun, "seconds": seconds, "peak_bytes": memory.get("peak_bytes_in_use")}
    return {**found, "flops": train_flops(forward), "device_peak_flops": peak_flops()}


def child(side: str, name: str, folder: str, small: bool) -> dict:
    """One side of one case, in this process."""
    case, device, steps = CASES[name], "cuda", 10
    if small:
        os.environ["JAX_PLATFORMS"] = "cpu"
        case, device, steps = tiny(case), "cpu", 2
    kind = side.removesuffix(" again")
    if kind == "jaxformers":
        return our_side(case, folder, device, steps)
    if kind == "Trainer":
        return trainer_side(case, folder, device, steps)
    return torch_side(case, folder, device, steps, kind.removeprefix("torch "))


def measure(name: str, small: bool) -> dict[str, dict]:
    """All sides of a case, with tokens/s and MFU."""
    case = tiny(CASES[name]) if small else CASES[name]
    with tempfile.TemporaryDirectory() as folder:
        write(case, folder)
        words = [name, folder, "tiny" if small else "whole"]
        found = {side: in_own_process(__file__, "--child", side, *words) for side in SIDES}
    losses = {side: one["loss"] for side, one in found.items() if one["loss"] is not None}
    if max(losses.values()) - min(losses.values()) > AGREE * max(losses.values()):
        raise SystemExit(f"{name}: first losses differ, so the sides do not do the same: {losses}")
    flops, most = found["jaxformers"]["flops"], found["jaxformers"]["device_peak_flops"]
    for one in found.values():
        median = statistics.median(one["seconds"])
        one["tokens_per_second"] = case.rows * case.tokens / median
        one["mfu"] = None if most is None else flops / median / most
    return found


def report(cases: dict[str, dict[str, dict]]) -> str:
    """A table; "x" is how many times faster than torch with SDPA."""
    header = ["case", "side", "step ms", "tokens/s", "MFU", "x", "memory GB", "first step s", "remat"]
    lines = []
    for name, found in cases.items():
        base = found["torch sdpa"]["tokens_per_second"]
        for side, one in found.items():
            mfu = "-" if one["mfu"] is None else f"{one['mfu']:.1%}"
            memory = "-" if one["peak_bytes"] is None else f"{one['peak_bytes'] / 1e9:.1f}"
            numbers = [f"{1e3 * statistics.median(one['seconds']):.1f}", f"{one['tokens_per_second']:.0f}", mfu]
            rest = [f"{one['tokens_per_second'] / base:.2f}", memory, f"{one['first_s']:.1f}", one.get("remat", "-")]
            lines.append([name, side, *numbers, *rest])
    return table(header, lines)


def device_name(small: bool) -> str:
    """The card. Exits where there is none."""
    if small:
        return hardware()
    import torch

    if not torch.cuda.is_available():
        raise SystemExit("torch sees no GPU: run this on a machine with one, or try the script with --tiny")
    return torch.cuda.get_device_name()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path)
    parser.add_argument("--only", default="", help="cases whose name contains one of these, separated by commas")
    parser.add_argument("--tiny", action="store_true")
    parser.add_argument("--child", nargs=4, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.child:
        side, name, folder, size = args.child
        return print(json.dumps(child(side, name, folder, size == "tiny")))
    from measure import versions

    record = {"device": device_name(args.tiny), "versions": versions(), "cases": {}}
    for name in CASES:
        if any(part in name for part in args.only.split(",")):
            record["cases"][name] = measure(name, args.tiny)
            if args.output:  # after each case: a time limit may end the run
                args.output.write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
    print(f"{record['device']}{', tiny models' * args.tiny}, bfloat16 with float32 weights")
    print(f"\n{report(record['cases'])}")


if __name__ == "__main__":
    main()
