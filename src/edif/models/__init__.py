"""The torch-free catalogue of served models."""
