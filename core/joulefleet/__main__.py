"""`python -m joulefleet` is the `joulefleet` command."""

from joulefleet.cli import main

main()
