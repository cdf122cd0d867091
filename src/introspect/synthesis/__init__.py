"""How traces are made: recipes, acceptance, prompts, published sets."""
