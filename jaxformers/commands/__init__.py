"""Sub-commands of `jaxformers`: a file here that defines `add_parser(subparsers)` is a command."""
