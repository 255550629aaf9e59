"""Builds objects from a configuration; no other room knows both."""
