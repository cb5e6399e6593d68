"""The paper's ablation (Tables 1 to 4), scaled down to CPU size: a grid of cells, run or resumed by one command."""
