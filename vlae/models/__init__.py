"""Latent-variable models, one per file."""
