"""Turn a folder with pytorch_model.bin into one with safetensors, without PyTorch and without running its pickle.

    python examples/convert_bin.py ./old-checkpoint ./new-checkpoint

The new folder holds config.json and the weights; copy the tokenizer's files yourself.
"""

import sys

import jaxformers as jf


def main(source: str, target: str) -> jf.Model:
    """Convert with the head and in the precision that the checkpoint was saved with; return the model."""
    model = jf.Model.from_pretrained(source)
    model.save_pretrained(target)
    print(f"{model} written to {target}")
    return model


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    main(*sys.argv[1:])
