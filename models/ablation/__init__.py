"""The paper's ablation (Tables 1 to 4) at a size that a CPU can do: a grid of cells, run or resumed by one command."""
