"""A simulated fleet of servers whose true answer is known."""
