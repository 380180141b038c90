"""Work: sources of request and token counts."""
