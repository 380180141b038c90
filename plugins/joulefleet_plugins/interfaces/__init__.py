"""How things are reached that sources read: files of the kernel, vendors' tools, pages, and the figures in them."""
