"""Low-rank adapters: made, merged, written as peft writes them and read as it reads them."""
