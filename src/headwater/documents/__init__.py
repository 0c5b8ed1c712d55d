"""Text in, clean text out."""
