"""Jitted matching and numpy geometry: features in, matches and rankings out."""
