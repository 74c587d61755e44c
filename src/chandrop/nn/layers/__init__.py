"""Layers that hold a key."""
