"""What text is made of: characters, words, lines and n-grams, in compiled loops over Arrow's buffers."""
