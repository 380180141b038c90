"""Everything that is read or told, one file each."""
