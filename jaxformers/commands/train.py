"""`jaxformers train`: a run from a TOML file, on a laptop or on every machine of a pod."""

import argparse

EXAMPLES = """examples:
  jaxformers train run.toml
  jaxformers train run.toml --set training.learning_rate=1e-4 --set training.output_dir=out/second
  jaxformers train run.toml --resume                 # from the newest good checkpoint of its output folder
  jaxformers train run.toml --resume out/checkpoint-500
  jaxformers train configs/llama-1b-v5e.toml --tiny      # the same in the small form that its [tiny] tables say
  jaxformers train run.toml --show                   # what would be run, with all changes, as TOML

a file:
  [model]
  name = "./minilm"                    # to load; or config = "llama.json" or a table, to begin anew
  task = "SequenceClassification"
  overrides = {num_labels = 3}         # of its config

  [data]
  train = "train/*.jsonl"              # jsonl, csv, text, parquet; a folder of pictures; "tfds:name/split"; "synthetic"
  eval_rows = 500
  length = 128

  [mesh]                               # may be left out: all devices, FSDP
  fsdp = 8

  [training]                           # transformers' TrainingArguments
  output_dir = "out"
  learning_rate = 2e-5
  num_train_epochs = 3
  report_to = ["tensorboard"]

  [lora]                               # may be left out
  rank = 8

The output folder gets checkpoints, the model, metrics, a summary with plots and the recipe as it was run. On SIGTERM
the run saves and ends with status 143; resume_from_checkpoint = "auto" goes on where there is a checkpoint."""


def add_parser(subparsers: argparse._SubParsersAction) -> None:
    """Add the command."""
    parser = subparsers.add_parser(
        "train",
        help="train a model as a TOML file says",
        description="Train a model as a TOML file says; started alike on one machine, under Slurm and on Kubernetes.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("config", help="the run's TOML file")
    parser.add_argument(
        "--set", action="append", default=[], metavar="SECTION.NAME=VALUE", help="change one value; may be repeated"
    )
    parser.add_argument(
        "--resume", nargs="?", const=True, default=None, metavar="CHECKPOINT", help="go on from a checkpoint"
    )
    parser.add_argument("--tiny", action="store_true", help="the small form of the run, by its [tiny] tables")
    parser.add_argument("--show", action="store_true", help="print the run as TOML and end")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> None:
    """Join the other processes, read, train."""
    from jaxformers.training.recipe import Recipe

    recipe = Recipe.read(options.config, options.set, tiny=options.tiny)
    if options.show:
        recipe.arguments()  # names and values that cannot be are said before anything starts
        print(recipe.to_toml(), end="")
        return
    from jaxformers.training.distributed import initialize

    initialize()
    from jaxformers.training.launch import run as train

    train(recipe, options.resume)
