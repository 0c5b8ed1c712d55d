"""Clean text in; a tokenizer, token shards and training batches out."""
