"""How the default reranker was made: requests over a made-up catalogue, and what is fitted to them."""
