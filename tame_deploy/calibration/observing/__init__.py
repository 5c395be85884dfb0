"""What flows through the graph: which pictures, which values, which ranges."""
