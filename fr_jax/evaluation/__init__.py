"""Evaluators: embed a set once, compute metrics of the embeddings, write results."""
