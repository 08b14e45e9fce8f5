"""A language model, its tokenizer and what is read from it."""
