"""Where a posed, labelled scene comes from: the procedural demo, and readers for ground truth."""
