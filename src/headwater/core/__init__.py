"""Recipes, stages, stores and errors: the part of Headwater that knows nothing about language models."""
