"""Benchmarks: time and memory of prediction, training and evaluation."""
