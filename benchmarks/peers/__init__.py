"""The same question asked of others: how busy their slots are while a model thinks."""
