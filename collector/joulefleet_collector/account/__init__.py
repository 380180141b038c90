"""Accounting: a pure function from one window to rows."""
