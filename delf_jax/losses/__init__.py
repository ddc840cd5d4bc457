"""Losses: descriptors or logits in, one value per example out."""
