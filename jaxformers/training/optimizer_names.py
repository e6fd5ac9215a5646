"""transformers' names of optimisers (`TrainingArguments.optim`): which of ours is the same, and which cannot be had."""

from typing import Any

# Fused, paged and accelerator-specific forms are one optimiser: XLA fuses it, and its state is sharded.
SAME: dict[str, tuple[str, dict[str, Any]]] = {
    **dict.fromkeys(
        (
            "adamw_torch",
            "adamw_torch_fused",
            "adamw_torch_xla",
            "adamw_torch_npu_fused",
            "adamw_hf",
            "adamw_anyprecision",
            "paged_adamw",
            "paged_adamw_32bit",
        ),
        ("adamw", {}),
    ),
    **dict.fromkeys(("lion_32bit", "paged_lion_32bit"), ("lion", {})),
    "paged_ademamix_32bit": ("ademamix", {}),
    **dict.fromkeys(("rmsprop_bnb", "rmsprop_bnb_32bit"), ("rmsprop", {})),
}
EIGHT = "there are no 8-bit states; mu_dtype='bfloat16' halves the first moment, adafactor keeps rows and columns only"
UNSUPPORTED = {
    **dict.fromkeys(
        (
            "adamw_bnb_8bit",
            "adamw_8bit",
            "adamw_torch_8bit",
            "adamw_torch_4bit",
            "ademamix_8bit",
            "lion_8bit",
            "paged_adamw_8bit",
            "paged_ademamix_8bit",
            "paged_lion_8bit",
            "rmsprop_bnb_8bit",
        ),
        EIGHT,
    ),
    **dict.fromkeys(
        (
            "galore_adamw",
            "galore_adamw_8bit",
            "galore_adafactor",
            "galore_adamw_layerwise",
            "galore_adamw_8bit_layerwise",
            "galore_adafactor_layerwise",
        ),
        "GaLore's package is PyTorch's; optax's own is called galore",
    ),
    **dict.fromkeys(
        ("lomo", "adalomo", "grokadamw", "schedule_free_radam", "apollo_adamw", "apollo_adamw_layerwise"),
        "optax does not have it; take adamw, adafactor, lion, muon or schedule_free_adamw",
    ),
    "stable_adamw": "optax does not have it; adamw with max_grad_norm, or adafactor, clips updates in their place",
}
