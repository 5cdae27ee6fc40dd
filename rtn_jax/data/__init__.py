"""Benchmarks, photos and synthetic pairs, on the host."""
