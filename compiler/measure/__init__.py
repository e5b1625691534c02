"""Measurement: what models and their nodes take on this machine, in child processes of their own."""
