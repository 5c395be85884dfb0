"""What runs a graph: the protocol, and one file or folder for each inference library."""
