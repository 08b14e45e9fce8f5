"""Tables, HTML and highlights: how results look, in a terminal and in a notebook."""
