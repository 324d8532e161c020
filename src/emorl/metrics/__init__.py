"""Measures of a decomposition: numpy arrays in, one value per image out; the caller averages, once."""
