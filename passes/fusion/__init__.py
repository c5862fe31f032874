"""How `fuse` forms groups of operations (`groups`, `contractions`, `loops`) and writes them down (`kernels`)."""
