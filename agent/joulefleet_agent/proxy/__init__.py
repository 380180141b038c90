"""A counting reverse proxy: tells the work of a server that only speaks the OpenAI API and has no metrics."""
