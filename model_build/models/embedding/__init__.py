"""The embedder: whose weights, what it is measured on, its graphs and its tokenizer."""
