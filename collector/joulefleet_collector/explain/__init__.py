"""What is behind a figure: the windows it was made of, counter by counter, and how far it can be trusted."""
