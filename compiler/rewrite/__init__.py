"""Transformations: the pass contract and the registry that finds passes; later the rule engine."""
