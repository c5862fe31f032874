"""``python -m ds_compiler.cli``: the same as ``dsc``."""

from ds_compiler.cli import main

main()
