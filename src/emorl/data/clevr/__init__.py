"""CLEVR made on the spot, with masks and factors."""
