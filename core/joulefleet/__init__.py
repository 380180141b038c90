"""JouleFleet: the energy that an inference costs."""
