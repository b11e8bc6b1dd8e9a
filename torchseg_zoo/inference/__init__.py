"""From pictures to label maps, and from label maps to pictures."""
