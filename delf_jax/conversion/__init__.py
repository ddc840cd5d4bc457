"""Weights of others become networks of ours: told apart, named, adapted, written."""
