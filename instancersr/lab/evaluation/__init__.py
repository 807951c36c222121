"""Benchmarks, metrics, the tables and figures made of them."""
