"""Training: from first weights and token shards to trained weights, exactly resumable."""
