"""Outputs of the original code for procedural weights, and the generator of those weights."""
