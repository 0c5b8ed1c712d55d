"""Cleaning steps: settings that are called with a batch of documents and keep, edit or drop each."""
